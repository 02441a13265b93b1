"""How a job ends: what it made and where that lies, and the commands that usually come next, ready for the shell."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path

from pipeline import storage
from pipeline.redact import mask_uris

Step = tuple[str, str]
"""What a command does, and its line."""

_within = ContextVar("within", default=False)


def say(made: Mapping[str, str], then: Sequence[Step] = (), page: str = "") -> None:
    """Print the last lines of a job; of one that is a part of a larger job only what it made.

    Args:
        made: what, and where it is.
        then: what usually comes next.
        page: address at which MLflow shows the run, "" where it is not tracked.
    """
    for what, where in {**made, **({"MLflow": page} if page else {})}.items():
        print(mask_uris(f"{what}: {where}"))
    if then and not _within.get():
        print("Next:")
        for what, line in then:
            print(mask_uris(f"  # {what}\n  {line}"))
    sys.stdout.flush()


@contextlib.contextmanager
def part_of_a_job() -> Iterator[None]:
    """Jobs that end in here are parts of one that says itself what comes next."""
    token = _within.set(True)
    try:
        yield
    finally:
        _within.reset(token)


def command(job: str, *words: str) -> str:
    """A command line of another job, started as this one was, quoted for a shell."""
    return shlex.join([*_program(job), *words])


def _program(job: str) -> list[str]:
    """`cfr-icl JOB`, `python jobs/JOB.py` or `python -m jobs.JOB`, as this process was started."""
    name, *rest = job.split()
    script = Path(sys.orig_argv[1] if len(sys.orig_argv) > 1 else "")
    if script.name == "cfr-icl":
        return [script.name if shutil.which(script.name) else str(script), name.replace("_", "-"), *rest]
    if script.suffix == ".py" and script.parent.name == "jobs":
        return [_python(), str(script.with_name(f"{name}.py")), *rest]
    return [_python(), "-m", f"jobs.{name}", *rest]


def _python() -> str:
    """The interpreter as one types it: `python` where that is this one."""
    found = shutil.which("python")
    if found and os.path.abspath(found) == os.path.abspath(sys.executable):
        return "python"
    return min(os.path.relpath(sys.executable), sys.executable, key=len)


def place(uri: str) -> str:
    """A path as a command takes it: short where it lies below the working folder, and never a name of the package."""
    if storage.is_remote(uri):
        return uri
    short = os.path.relpath(uri)
    if short == "." or short.split("/")[0] == "..":
        return uri
    return short if "/" in short and not short.startswith("-") else f"./{short}"


def beside(uri: str, ending: str) -> str:
    """A new place next to another, as a command takes it: runs/first, "eval" -> runs/first-eval."""
    return place(f"{uri.rstrip('/')}-{ending}")


def mlflow_ui(tracking_uri: str) -> list[Step]:
    """What opens a store that no server stands in front of; nothing where one does, or where nothing is tracked."""
    if not tracking_uri.startswith("sqlite:"):
        return []
    line = shlex.join([_python(), "-m", "mlflow", "ui", "--backend-store-uri", tracking_uri])
    return [("look at all runs, at http://127.0.0.1:5000", line)]
