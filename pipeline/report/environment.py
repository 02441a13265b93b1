"""What a run was made with: commit, versions, host shape, command line; and no credentials in any of it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from pipeline.redact import mask_credentials

PACKAGES = ("torch", "ray", "timm", "numpy", "opencv-python-headless", "pyarrow", "mlflow")
COMMIT_VARIABLE = "CFR_ICL_GIT_COMMIT"  # set it where the code comes without its .git folder (images, `ray job submit`)


def command_line() -> str:
    """The command of this process as one would type it, credentials masked."""
    name = _module_name()
    start = ["python", "-m", name] if name else ["python", sys.argv[0]]
    return mask_credentials(shlex.join([*start, *sys.argv[1:]]))


def _module_name() -> str:
    """What was run with -m, "" for a script."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec.name.removesuffix(".__main__") if spec is not None else ""


def _output(*command: str, cwd: Path | None = None) -> str | None:
    """Standard output of a short command; None when it is not installed or fails."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=10, check=True)
    except (subprocess.SubprocessError, OSError):
        return None
    return done.stdout.strip()


def describe_environment() -> dict[str, Any]:
    """Commit, versions and host shape of this process.

    Returns:
        git_commit (hex or None), git_dirty (bool or None), python, versions {package: version}, cpus, gpus [names],
        platform, command. Plain JSON values; no host or user names.
    """
    here = Path(__file__).resolve().parent
    commit = os.environ.get(COMMIT_VARIABLE) or _output("git", "rev-parse", "HEAD", cwd=here)
    changes = _output("git", "status", "--porcelain", cwd=here)
    gpus = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "git_commit": commit or None,
        "git_dirty": None if changes is None else bool(changes),
        "python": platform.python_version(),
        "versions": versions,
        "cpus": os.cpu_count() or 1,
        "gpus": [line.strip() for line in (gpus or "").splitlines() if line.strip()],
        "platform": f"{platform.system()} {platform.machine()}",
        "command": command_line(),
    }


def environment_tags() -> dict[str, str]:
    """`describe_environment` as flat tags for MLflow."""
    found = describe_environment()
    tags = {
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": _module_name() or sys.argv[0],
        "command": found["command"],
        "git.commit": found["git_commit"] or "unknown",
        "git.dirty": "unknown" if found["git_dirty"] is None else str(found["git_dirty"]).lower(),
        "host.cpus": str(found["cpus"]),
        "host.gpus": ", ".join(found["gpus"]) or "none",
        "host.platform": found["platform"],
        "versions.python": found["python"],
        **{f"versions.{package}": version for package, version in found["versions"].items()},
    }
    if found["git_commit"]:
        tags["mlflow.source.git.commit"] = found["git_commit"]
    return tags
