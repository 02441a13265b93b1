"""A two-node cluster with its servers (`cluster/local.sh`), jobs on it, and ways to hurt it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.engine.processes import descendants
from pipeline.model.checkpoints import STATE, read_state
from pipeline.train.state import checkpoint_uri, step_of

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "cluster" / "local.sh"
STEPS = 150
EVERY = 5  # steps between checkpoints; all are kept
SHAPE = {"HEAD_CPUS": "3", "WORKER_CPUS": "3"}
# One training worker fits a node, and leaves a CPU for the stream.
SMALL = [
    *("--data.crop", "64", "--data.min-object-area", "20", "--data.chunk", "8", "--cfr.crop", "64"),
    *("--model.train-size", "64", "--model.dim", "48", "--loss.weights", "1", "--train.batch", "4"),
    *("--train.workers", "2", "--train.cpus-per-worker", "2", "--train.threads", "1", "--train.log-every", "5"),
    *("--train.steps", str(STEPS), "--train.checkpoint-every", str(EVERY), "--train.keep", "1000"),
    *("--train.val-objects", "2", "--eval.max-clicks", "3", "--train.hang-seconds", "20"),
]
ALONE = ("--train.workers", "1", "--train.cpus-per-worker", "1", "--train.max-failures", "0", "--tracking.no-enabled")


class Local:
    """A running local cluster."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._script("start")
        words = self._script("env").replace("export ", "").split()
        self.env = dict(word.split("=", 1) for word in words if "=" in word)
        self.bucket = self.env["CFR_ICL_BUCKET"]
        self._id = (folder / "state").read_text().split("\n")[0].removeprefix("ID=")

    def _script(self, *command: str) -> str:
        name = [command[1]] if command[1:] else []
        call = [str(SCRIPT), command[0], *name, str(self.folder)]
        environment = {**os.environ, **SHAPE, "PYTHON": sys.executable}
        done = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def add_node(self) -> str:
        """Add a worker node; returns its name."""
        return self._script("add-node").split()[-1]

    def kill_node(self, name: str) -> None:
        """kill -9 of a worker node and all its processes."""
        assert [line for line in self._of_cluster() if name in line]
        self._script("remove-node", name)
        assert not [line for line in self._of_cluster() if name in line]
        assert self._of_cluster(), "the head is still there"

    def workers(self) -> list[str]:
        """Names of the worker nodes."""
        return sorted(file.name for file in (self.folder / "pids").glob("worker-*"))

    @contextlib.contextmanager
    def without(self, name: str) -> Iterator[None]:
        """kill -9 of a worker node; a new one is added at the end, for the tests to come."""
        self.kill_node(name)
        try:
            yield
        finally:
            self.add_node()

    @staticmethod
    def address_of(name: str) -> str:
        """The address of a worker node (127.0.0.2 is the head's)."""
        return f"127.0.0.{int(name.rpartition('-')[2]) + 2}"

    def stop(self) -> None:
        """Stop all of it; nothing may be left."""
        self._script("stop")
        assert self._of_cluster() == [] and not Path("/tmp", self._id).exists()
        assert (self.folder / "mlflow.db").exists() and (self.folder / "logs" / "ray-head").is_dir()
        assert "no cluster runs" in self._script("stop")

    def _of_cluster(self) -> list[str]:
        """Command lines of all processes of this cluster."""
        lines = []
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):  # ended meanwhile
                lines.append(file.read_bytes().replace(b"\0", b" ").decode())
        return [line for line in lines if self._id in line]

    def environment(self, **changes: str) -> dict[str, str]:
        """What a driver needs; workers of a job have the nodes' own, and `changes` through the job's runtime."""
        # What the job manager of `ray job submit` sets for --runtime-env-json.
        job = {"RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"runtime_env": {"env_vars": changes}})} if changes else {}
        return {**os.environ, **self.env, "PYTHONPATH": str(ROOT), **changes, **job}

    def start(self, *args: str, log: Path, **changes: str) -> subprocess.Popen[bytes]:
        """Start a job's driver (`-m jobs.train ...`) in a process group of its own."""
        with log.open("ab") as out:
            return subprocess.Popen(
                [sys.executable, *args],
                cwd=log.parent,
                env=self.environment(**changes),
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def run(self, *args: str, log: Path, expect: int = 0, timeout: float = 200, **changes: str) -> str:
        """Run a job to its end; returns what it said."""
        driver = self.start(*args, log=log, **changes)
        try:
            code = driver.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(driver.pid, signal.SIGKILL)
            raise
        said = log.read_text()
        assert code == expect, f"{args} ended with {code}, not {expect}:\n{said[-6000:]}"
        return said

    def processes(self, title: str) -> list[int]:
        """Processes of this cluster with `title` in their command line."""
        return processes_below({int(file.read_text()) for file in (self.folder / "pids").iterdir()}, title)

    def kill(self, title: str, number: int = signal.SIGKILL) -> None:
        """A signal to a process by title, as soon as there is one."""
        pids = until(lambda: self.processes(title), f"a process {title!r}")
        os.kill(pids[0], number)


def processes_below(roots: set[int], title: str) -> list[int]:
    """Processes with `title` in their command line that are one of `roots` or descend from one."""
    family = roots | {pid for root in roots for pid, _ in descendants(root)}
    found = []
    for pid in sorted(family):
        with contextlib.suppress(OSError):  # ended meanwhile
            if title in Path(f"/proc/{pid}/cmdline").read_text():
                found.append(pid)
    return found


def until(
    look: Callable[[], Any], what: str, seconds: float = 150, alive: subprocess.Popen[bytes] | None = None
) -> Any:
    """Wait until `look` gives something true, and return it; no longer than the job `alive` runs."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if alive is not None and alive.poll() is not None and not look():
            raise AssertionError(f"the job ended with {alive.returncode} while waiting for {what}; see its log")
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.05)
    return found


def last_step(out: str) -> int:
    """Step of the newest complete checkpoint; -1 without any."""
    folders = storage.list_folders(storage.join(out, "checkpoints"))
    newest_first = sorted(map(step_of, folders), reverse=True)
    return next((s for s in newest_first if storage.exists(storage.join(checkpoint_uri(out, s), STATE))), -1)


def contents(out: str, step: int) -> dict[str, str]:
    """Checksums of weights and moments of a run's checkpoint."""
    files = read_state(checkpoint_uri(out, step))["files"]
    return {name: about["sha256"] for name, about in files.items()}


def unfinished(out: str) -> list[str]:
    """Checkpoint folders that do not count."""
    folders = storage.list_folders(storage.join(out, "checkpoints"))
    return [folder for folder in folders if not storage.exists(storage.join(folder, STATE))]
