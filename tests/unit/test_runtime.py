"""Exit codes, messages and progress of jobs, without starting Ray."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ray.exceptions import RayTaskError

from pipeline.engine.connect import tell_plainly
from pipeline.engine.main import main
from pipeline.engine.preflight import require
from pipeline.engine.progress import Progress, duration
from pipeline.errors import UserError, user_error_in

ROOT = Path(__file__).resolve().parents[2]


def exit_code(job) -> int:
    with pytest.raises(SystemExit) as info:
        main(job)
    return int(info.value.code or 0)


def test_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    def mistake(args: list[str]) -> None:
        raise UserError("no such thing")

    def bug(args: list[str]) -> None:
        raise KeyError("x")

    assert exit_code(lambda args: None) == 0
    assert exit_code(mistake) == 2
    assert capsys.readouterr().err == "error: no such thing\n"
    assert exit_code(bug) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_mistake_found_in_a_task_is_still_a_mistake() -> None:
    cause = UserError("a bad shard")
    inside = RayTaskError("f", "traceback text", cause).as_instanceof_cause()
    outside = RuntimeError("training failed")
    outside.__cause__ = inside
    found = user_error_in(outside)
    assert found is not None
    assert str(found) == "a bad shard"
    assert user_error_in(RuntimeError("other")) is None


def test_progress_says_rows_and_rate(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress("reading", 4, "rows", done=1)
    progress.update(3, "last note")
    progress.close()
    line = capsys.readouterr().err
    assert line.startswith("reading: 4/4 rows, ")
    assert line.endswith("last note\n")


def test_the_engine_speaks_in_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    many = "WARNING: 8 PYTHON worker processes have been started on node: ab12 with address: 10.0.0.1, which is 4x"
    died = "\x1b[33mA worker died\x1b[0m or was killed\n  while executing a task. " + 100 * "To troubleshoot "
    tell_plainly({"lines": [many, died, ""], "pid": "raylet", "is_err": False}, ignore_prefix=False)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("engine: A worker died or was killed while executing a task. To") and len(line) < 420


def test_rates_leave_out_the_start(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    progress = Progress("training", 1000, "steps", done=100)
    for at, steps in ((100.0, 10), (120.0, 40), (140.0, 40)):
        now = at
        progress.update(steps)
    assert capsys.readouterr().err.splitlines() == [
        "training: 110/1000 steps",
        "training: 150/1000 steps, 2.0/s, 7m05s left",
        "training: 190/1000 steps, 2.0/s, 6m45s left",
    ]


@pytest.mark.parametrize(("seconds", "text"), [(3.4, "3s"), (59.6, "1m00s"), (200, "3m20s"), (3720, "1h02m")])
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_cluster_that_grows_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CFR_ICL_GROWS_TO", raising=False)
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True, "Resources": {"CPU": 4.0}}])
    with pytest.raises(UserError, match="It asks for 8 CPUs, but the cluster has 4"):
        require(8, 0, "It")
    monkeypatch.setenv("CFR_ICL_GROWS_TO", "CPU=160,GPU=2")
    require(4, 0, "It")
    assert capsys.readouterr().err == ""
    for cpus, gpus in ((8, 0), (1, 2)):
        require(cpus, gpus, "It")
        assert "waiting for the cluster to add machines" in capsys.readouterr().err
    with pytest.raises(UserError, match="It asks for 3 GPUs, but the cluster has 2"):
        require(1, 3, "It")


@pytest.mark.parametrize(
    ("given", "spins"), [({}, "2000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")]
)
def test_waiting_threads_leave_the_cores_to_others(given: dict[str, str], spins: str) -> None:
    """Before torch is imported, and where the user has said nothing else."""
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    env = {name: value for name, value in os.environ.items() if name not in names} | given
    script = "import sys, os, jobs; assert 'torch' not in sys.modules; print(os.environ.get('GOMP_SPINCOUNT'))"
    done = subprocess.run([sys.executable, "-c", script], env=env, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == spins
