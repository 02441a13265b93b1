"""Ctrl-C in a terminal and SIGTERM to a whole process group: saved, said, continued by the same command."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.engine.processes import descendants, started_at
from pipeline.model.checkpoints import find_checkpoint
from pipeline.train.state import step_of
from tests.faults.local_cluster import processes_below, until
from tests.made import rows_of_blobs, write_checkpoint, write_dataset

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]
CTRL_C = b"\x03"
SMALL = [
    *("--data.crop", "64", "--data.min-object-area", "20", "--data.chunk", "8", "--model.train-size", "64"),
    *("--model.dim", "48", "--train.batch", "4", "--train.log-every", "5", "--train.checkpoint-every", "1000"),
    *("--loss.weights", "1", "--tracking.no-enabled"),
]


class Terminal:
    """A job in a terminal of its own, as a person starts it: the only member of the foreground group is the job."""

    def __init__(self, *args: str) -> None:
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.chdir(ROOT)
            os.execv(sys.executable, [sys.executable, "-m", *args])
        self.said = ""

    def read(self, until: Callable[[str], object], seconds: float = 120) -> None:
        """Read what the job says until that holds, or it ends."""
        deadline = time.monotonic() + seconds
        while not until(self.said):
            assert time.monotonic() < deadline, self.said
            ready, _, _ = select.select([self._fd], [], [], 0.2)
            if not ready:
                continue
            try:
                data = os.read(self._fd, 65536)
            except OSError:  # Linux tells the end of the other side so
                return
            self.said += data.decode(errors="replace")

    def press(self, keys: bytes) -> None:
        os.write(self._fd, keys)

    def end(self) -> int:
        """Wait for the end; the exit code."""
        self.read(lambda said: False)
        os.close(self._fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_dataset(tmp_path_factory.mktemp("data") / "made", rows_of_blobs(24))


def test_ctrl_c_in_training_saves_and_the_same_command_continues(data: str, tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    command = ["jobs.train", "tiny", "--data.train", data, "--out", out, *SMALL, "--train.steps", "2000"]
    early = Terminal(*command)
    time.sleep(1.0)  # modules are being imported, or the engine is about to be started
    early.press(CTRL_C)
    assert early.end() == 130, early.said
    assert "Traceback" not in early.said and "stop" in early.said

    job = Terminal(*command)
    job.read(lambda said: "5/2000 steps" in said)
    job.press(CTRL_C)
    assert job.end() == 130, job.said
    assert "stopping: saving what is done" in job.said and "Traceback" not in job.said
    saved = step_of(find_checkpoint(out))
    assert f"{saved} of 2000 steps are done; the same command continues" in (tmp_path / "run" / "report.md").read_text()
    assert saved >= 5 and f"stopped at step {saved}: {out} is saved, and the same command continues it" in job.said

    again = Terminal(*command)
    again.read(lambda said: "continuing tiny at step" in said and re.search(r"\d+/2000 steps", said))
    assert f"at step {saved} of 2000" in again.said
    processes = family(again.pid)
    again.press(CTRL_C)
    again.press(CTRL_C)  # the second one ends it at once
    assert again.end() == 130, again.said
    assert "stopped at once" in again.said or "stopped at step" in again.said
    assert left_of(processes) == set()


def test_ctrl_c_while_the_engine_starts_leaves_nothing(data: str, tmp_path: Path) -> None:
    job = Terminal("jobs.train", "tiny", "--data.train", data, "--out", str(tmp_path / "run"), *SMALL)
    until(lambda: processes_below({job.pid}, "dashboard/agent.py"), "the engine's agents")
    processes = family(job.pid)  # an agent whose engine ends now would look for it for a minute
    job.press(CTRL_C)
    assert job.end() == 130, job.said
    assert left_of(processes) == set()


def family(pid: int) -> set[tuple[int, int]]:
    """All processes that descend from one, the engine's too: number, and when it was started."""
    found = set(descendants(pid))
    assert found, "a job has processes of the engine"
    return found


def ended(pid: int) -> bool:
    """Whether nothing is left of a process but its exit code, which nobody has asked for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def left_of(processes: set[tuple[int, int]]) -> set[int]:
    """Those that are still there some seconds later."""
    left: set[int] = set()
    for _ in range(150):
        left = {pid for pid, started in processes if started and started_at(pid) == started and not ended(pid)}
        if not left:
            break
        time.sleep(0.1)
    return left


def test_sigterm_to_the_whole_group_of_an_evaluation(data: str, tmp_path: Path) -> None:
    checkpoint, out = write_checkpoint(tmp_path / "checkpoint"), tmp_path / "out"
    args = ["-m", "jobs.evaluate", "--checkpoint", checkpoint, "--data", f"made={data}", "--out", str(out)]
    args += ["--full-curve", "--no-tracking", "--actors", "1", "--cfr-steps", "0", "1", "2", "4"]
    with (tmp_path / "log").open("wb") as log:
        job = subprocess.Popen([sys.executable, *args], cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list(out.glob("parts/*.parquet")):
        assert time.monotonic() < deadline and job.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.05)
    processes = family(job.pid)
    os.killpg(job.pid, signal.SIGTERM)
    code, said = job.wait(60), (tmp_path / "log").read_text()
    assert code == 143, said
    assert "stopped: what was finished is kept, and the same command continues" in said and "Traceback" not in said
    assert list(out.glob("parts/*.parquet")) and not (out / "summary.json").exists()
    assert left_of(processes) == set()
