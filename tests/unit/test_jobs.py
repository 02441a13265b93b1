"""Command lines of the jobs, as processes: their help, and what is no job."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from jobs.__main__ import COMMANDS
from pipeline.errors import did_you_mean

ROOT = Path(__file__).resolve().parents[2]


def run(*args: str, shell: str = "") -> subprocess.CompletedProcess[str]:
    words = ["bash", "-c", f"set -o pipefail; {shell}"] if shell else [sys.executable, "-m", *args]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_the_jobs_are_listed() -> None:
    done = run("jobs")
    assert done.returncode == 0
    names = [line.split()[0] for line in done.stdout.split("\n\n")[1].splitlines()]
    assert names == [name.replace("_", "-") for name in COMMANDS]
    wrong = run("jobs", "evalute")
    assert wrong.returncode == 2 and "Did you mean 'evaluate'?" in wrong.stderr


def test_the_help_of_the_demo_starts_nothing() -> None:
    done = run("jobs.demo", "--help")
    assert done.returncode == 0 and "usage: jobs.demo" in done.stdout
    assert run("jobs.demo", "--limit").returncode == 2
    assert not (ROOT / "--help").exists()


@pytest.mark.parametrize("job", ["jobs.prepare", "jobs.train tiny", "jobs.evaluate", "jobs.tune cfr"])
def test_help_into_head(job: str) -> None:
    done = run(shell=f"{sys.executable} -m {job} --help | head -1")
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr
    assert done.stdout.startswith("usage: jobs.")


def test_the_nearest_word_by_its_number() -> None:
    assert did_you_mean("noc91", ["noc80", "noc85", "noc90", "noc95", "iou1"]) == " Did you mean 'noc90'?"
    assert did_you_mean("noc94", ["noc90", "noc95"]) == " Did you mean 'noc95'?"
    assert did_you_mean("nothing", ["noc90"]) == ""


@pytest.mark.parametrize("job", COMMANDS)
def test_help_waits_for_no_engine(job: str) -> None:
    """What a command line is parsed with; torch, Ray and MLflow take seconds to import."""
    heavy = "{'torch', 'ray', 'mlflow', 'matplotlib', 'pandas', 'optuna'}"
    done = run(shell=f'{sys.executable} -c "import sys, jobs.{job}; print(*{heavy} & set(sys.modules))"')
    assert done.returncode == 0 and done.stdout.strip() == "", done.stdout + done.stderr
