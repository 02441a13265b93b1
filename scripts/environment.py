"""Make .venv from requirements.lock (`setup`), or write the lock from what .venv holds (`lock`); used by the Makefile.

`setup` runs under any Python with nothing installed and returns at once while neither the lock nor pyproject.toml has
changed. Two set-ups at once wait for each other; one that was killed is started again from nothing.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
PYPROJECT = ROOT / "pyproject.toml"
VENV = ROOT / ".venv"
STAMP = VENV / ".cfr-icl-setup"  # "CHECKSUM TORCH_INDEX" of a finished set-up
UNFINISHED = "unfinished"  # in the place of CHECKSUM while a set-up runs
BUILD_SPECIFIC = re.compile(r"nvidia-(?!ml-py$)|cuda-|triton$")  # come with a CUDA build of torch and its pins


def setup(torch_index: str) -> None:
    """Bring .venv up to the lock; nothing to do when its stamp says so.

    Args:
        torch_index: index URL for torch and torchvision alone; "" keeps what the last set-up used.
    """
    with open(__file__, "r+") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        stamp = STAMP.read_text() if STAMP.is_file() else ""
        checksum, _, last_index = stamp.partition(" ")
        wanted = hashlib.sha256(LOCK.read_bytes() + PYPROJECT.read_bytes()).hexdigest()
        torch_index = torch_index or last_index
        if checksum == wanted and torch_index == last_index:
            return
        start = time.monotonic()
        print("Setting up .venv (some minutes the first time) ...", flush=True)
        python = str(VENV / "bin" / "python")
        has_pip = VENV.is_dir() and run([python, "-m", "pip", "--version"], guard, capture_output=True) == 0
        if not has_pip or checksum == UNFINISHED or torch_index != last_index:
            if sys.version_info < (3, 11):  # noqa: UP036 - this file runs under the machine's Python, whatever it is
                sys.exit("error: Python 3.11 or newer is needed; choose one with `make setup PYTHON=python3.11`.")
            if run([sys.executable, "-m", "venv", "--clear", str(VENV)], guard):
                sys.exit(f"error: {sys.executable} cannot make a virtual environment (Debian: install python3-venv).")
        STAMP.write_text(f"{UNFINISHED} {torch_index}")
        quiet = [] if sys.stdout.isatty() else ["--quiet"]
        pip = [python, "-m", "pip", "install", "--disable-pip-version-check", *quiet]
        if torch_index:
            pins = [line for line in LOCK.read_text().split() if line.startswith(("torch==", "torchvision=="))]
            run([*pip, "--no-deps", "--index-url", torch_index, *pins], guard, check=True)
        run([*pip, "--requirement", str(LOCK)], guard, check=True)
        run([*pip, "--no-deps", "--no-build-isolation", "--editable", "."], guard, check=True)
        finished = STAMP.with_suffix(".new")
        finished.write_text(f"{wanted} {torch_index}")
        os.replace(finished, STAMP)
        print(f"Set up .venv in {time.monotonic() - start:.0f} s.", flush=True)


def run(command: list[str], guard: IO[str], **options: Any) -> int:
    """Exit status of a command. It inherits the guard: should this process be killed, pip still holds it to its end."""
    return subprocess.run(command, cwd=ROOT, pass_fds=[guard.fileno()], **options).returncode


def lock() -> None:
    """Write requirements.lock: the installed version of all that pyproject.toml needs with the extra `dev`."""
    import tomllib
    from importlib.metadata import distribution

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads(PYPROJECT.read_text())["project"]
    extras = project["optional-dependencies"]
    own = canonicalize_name(project["name"])
    queue = [Requirement(text) for text in project["dependencies"] + extras["dev"]]
    seen: set[tuple[str, str]] = set()
    versions: dict[str, str] = {}
    while queue:
        wanted = queue.pop()
        name = canonicalize_name(wanted.name)
        for extra in ["", *wanted.extras]:
            if BUILD_SPECIFIC.match(name) or (name, extra) in seen:
                continue
            seen.add((name, extra))
            if name == own:
                queue += [Requirement(text) for text in extras.get(extra, [])]
                continue
            installed = distribution(name)
            versions[name] = installed.version.partition("+")[0]
            needs = [Requirement(text) for text in installed.requires or []]
            queue += [n for n in needs if n.marker is None or n.marker.evaluate({"extra": extra})]
    header = "# Made by `make lock`: all that pyproject.toml needs with the extra `dev`, as tried together.\n"
    LOCK.write_text(header + "".join(f"{name}=={versions[name]}\n" for name in sorted(versions)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=["setup", "lock"])
    parser.add_argument("--torch-index", default="", help="package index for torch and torchvision alone")
    args = parser.parse_args()
    try:
        setup(args.torch_index) if args.action == "setup" else lock()
    except subprocess.CalledProcessError as error:
        sys.exit(f"error: the set-up stopped ({error}); run it again.")


if __name__ == "__main__":
    main()
