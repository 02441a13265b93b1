"""Processes that are stopped, or stand still, are ended and their work is done again, on a real Ray."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import ray

from pipeline.engine import watch

pytestmark = pytest.mark.ray
SECONDS = 6.0


def work(signs: Any, marker: str, stop: bool) -> int:
    first = not os.path.exists(marker)
    Path(marker).touch()
    pulse = watch.pulse_of_process(signs, "a worker")
    pulse.at(f"working on {marker}")
    if first:
        for _ in range(int(watch.BEAT_SECONDS) + 1):  # until the sign that says so is sent
            time.sleep(1.0)
            pulse.move()
        if stop:
            os.kill(os.getpid(), signal.SIGSTOP)
        while True:
            time.sleep(1.0)
    pulse.idle()
    return os.getpid()


@pytest.mark.slow
def test_a_stopped_task_and_one_that_stands_still_are_ended_and_run_again(ray_session: None, tmp_path: Path) -> None:
    said: list[str] = []
    task: Any = ray.remote(work)
    with watch.watching(SECONDS, said.append) as signs:
        asked = {
            name: task.options(max_retries=1, num_cpus=1).remote(signs, str(tmp_path / name), name == "stopped")
            for name in ("stopped", "still")
        }
        ray.get(list(asked.values()), timeout=120)
    assert len(said) == 2
    silent, still = sorted(said, key=lambda text: str(tmp_path / "stopped") not in text)
    assert "has given no sign of life for" in silent and f"working on {tmp_path / 'stopped'}" in silent
    assert "has not moved on for" in still and f"working on {tmp_path / 'still'}" in still
    assert all("It was killed, and is started again." in text for text in said)


def test_nothing_is_watched_when_told_so(ray_session: None) -> None:
    with watch.watching(0) as signs:
        assert signs is None
        watch.Pulse(signs, "nobody").at("anything")
