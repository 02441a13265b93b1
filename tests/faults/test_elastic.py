"""A machine that will be taken, then is; nobody replaces it, and training goes on with fewer workers."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.model.checkpoints import read_state
from pipeline.train.state import checkpoint_uri

from .conftest import Reference
from .local_cluster import SMALL, Local, last_step, until
from .spot import watched

LOOK = 5  # steps between two looks at notices: train.log_every
DUE = 100  # steps between checkpoints without a notice


def test_notice_and_loss_of_a_machine(
    local: Local, reference: Reference, tmp_path: Path, noted: Callable[..., None]
) -> None:
    out, log = f"{local.bucket}/elastic", tmp_path / "log"
    machine = local.workers()[0]
    # Two workers need both nodes.
    args = ["-m", "jobs.train", "tiny", "--data.train", reference.train, "--out", out, *SMALL, "--tracking.no-enabled"]
    args += ["--train.min-workers", "1", "--train.wait-for-workers", "90"]
    args += ["--train.steps", "99999", "--train.checkpoint-every", str(DUE)]
    driver = local.start(
        *args,
        log=log,
        RAY_TRAIN_ENABLE_PREEMPTION_WATCHER="1",
        RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S="0.5",
        RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S="10",
        PYTHONUNBUFFERED="1",
    )
    try:
        until(lambda: "steps" in log.read_text(), "some steps", alive=driver)
        assert read_state(checkpoint_uri(out, 0))["position"]["world"] == 2
        with watched(local, machine) as spot:
            start = time.monotonic()
            spot.take_away()
            until(lambda: last_step(out) % DUE, "a checkpoint because of the notice", alive=driver)
        noted(
            "notice that a spot machine will be taken",
            "its node is drained; a checkpoint is written at once, and at every look until it is gone",
            f"the steps since the last look (at most {LOOK} here), done again",
            time.monotonic() - start,
        )
        assert last_step(out) % LOOK == 0
        with local.without(machine):
            start, since = time.monotonic(), last_step(out)
            state = until(lambda: _by_one(out, since), "steps of one worker", 200, alive=driver)
            noted(
                "loss of a machine that nobody replaces, `train.min_workers` set",
                "training goes on with the workers that are left, the batch unchanged",
                "the steps since the last checkpoint, done again",
                time.monotonic() - start,
            )
            assert state["config"]["train"]["batch"] == 4
    finally:
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()


def _by_one(out: str, since: int) -> dict | None:
    """The state of a newer checkpoint, if it is of one worker."""
    step = last_step(out)
    state = read_state(checkpoint_uri(out, step)) if step > since else {}
    return state if state.get("position", {}).get("world") == 1 else None
