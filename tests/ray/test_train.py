"""Training end to end on a real Ray: what a run leaves, kill and continue, cut checkpoints, mistakes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs import train
from pipeline.data.readers.synthetic import write_synthetic
from pipeline.errors import UserError
from pipeline.model.checkpoints import load_model
from pipeline.train.state import complete_checkpoints

ROOT = Path(__file__).resolve().parents[2]
STEPS = 8
SMALL = [
    *("--data.crop", "64", "--data.min-object-area", "20", "--data.chunk", "8", "--cfr.crop", "64"),
    *("--model.train-size", "64", "--model.dim", "48", "--train.batch", "4", "--train.log-every", "2"),
    *("--train.steps", str(STEPS), "--train.checkpoint-every", "3", "--train.val-every", "4"),
    *("--train.val-objects", "2", "--eval.max-clicks", "3"),
]

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def run_job(*args: str, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *args]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=280)
    if check and done.returncode:
        raise AssertionError(f"{command} exited {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}")
    return done


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Small prepared training and validation sets."""
    folder = tmp_path_factory.mktemp("shards")
    write_synthetic(str(folder / "raw"), train=24, val=6, seed=1, size=(96, 120))
    for split in ("train", "val"):
        root = ["--root", str(folder / "raw"), "--split", split, "--out", str(folder / split)]
        run_job("-m", "jobs.prepare", "coco-lvis", *root, cwd=folder)
    return str(folder / "train"), str(folder / "val")


def train_args(shards: tuple[str, str], out: Path, *more: str) -> list[str]:
    data = ["--data.train", shards[0], "--data.val", shards[1]]
    return ["tiny", *data, "--out", str(out), *SMALL, *more]


@pytest.fixture(scope="session")
def clean_run(shards: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("clean")
    run_job("-m", "jobs.train", *train_args(shards, folder / "run"), cwd=folder)
    return folder / "run"


def final_weights(out: Path) -> bytes:
    return (out / "checkpoints" / f"step_{STEPS:08d}" / "model.safetensors").read_bytes()


def test_a_run_leaves_what_it_promises(clean_run: Path) -> None:
    assert json.loads((clean_run / "config.json").read_text())["recipe"] == "tiny"
    lines = [json.loads(line) for line in (clean_run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in lines if "train/loss" in row] == [2, 4, 6, 8]
    assert [row["step"] for row in lines if "val/noc90" in row] == [4, 8]
    assert list((clean_run / "pictures").glob("samples_*.png"))
    model, info = load_model(str(clean_run))
    assert info.step == STEPS
    assert info.mlflow_run
    assert model.config.dim == 48


def test_kill_and_continue_ends_with_the_same_weights(clean_run: Path, shards: tuple[str, str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    args = [sys.executable, "-m", "jobs.train", *train_args(shards, out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (tmp_path / "log").open("wb") as log:
        driver = subprocess.Popen(args, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + 200
    while not any(c.endswith("step_00000003") for c in complete_checkpoints(str(out))):
        assert driver.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.05)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    assert not (out / "checkpoints" / f"step_{STEPS:08d}").exists(), "killed too late to prove anything"

    done = run_job(*args[1:], cwd=tmp_path)
    assert "continuing tiny at step" in done.stdout
    assert final_weights(out) == final_weights(clean_run)
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))


def test_the_same_command_after_the_end_does_nothing(clean_run: Path, shards: tuple[str, str]) -> None:
    done = run_job("-m", "jobs.train", *train_args(shards, clean_run), cwd=clean_run.parent)
    assert "is complete" in done.stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--train.cpus-per-worker", "1000"], "asks for 1001 CPUs"),
        (["--train.gpu"], "asks for 1 GPUs"),
        (["--data.train", "/no/such/folder"], "/no/such/folder"),
        (["--model.start", "/no/such/checkpoint"], "There is no checkpoint"),
        (["--data.crop", "72"], "patch"),
        (["--train.min-workers", "2"], "train.min_workers"),
    ],
)
def test_mistakes_are_one_message(
    shards: tuple[str, str], tmp_path: Path, ray_session: None, change: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        train.job(train_args(shards, tmp_path / "run", "--tracking.no-enabled", *change))


def test_mistakes_end_with_exit_2(shards: tuple[str, str], tmp_path: Path) -> None:
    for args, message in (
        (train_args(shards, tmp_path / "run", "--optim.lrr", "1"), "optim.lr"),
        (["tinny"], "Did you mean 'tiny'?"),
        (train_args(shards, tmp_path / "run", "--data.train", "/no/such/folder"), "error: /no/such/folder"),
    ):
        done = run_job("-m", "jobs.train", *args, cwd=tmp_path, check=False)
        assert done.returncode == 2, done.stderr
        assert message in done.stderr and "Traceback" not in done.stderr


def test_a_folder_with_another_run_is_refused(clean_run: Path, shards: tuple[str, str]) -> None:
    with pytest.raises(UserError, match=r"optim\.lr was 0\.003, now 0\.5"):
        train.job(train_args(shards, clean_run, "--optim.lr", "0.5"))


def test_shares_of_two_workers_are_continued_by_one(shards: tuple[str, str], tmp_path: Path, ray_session: None) -> None:
    """FSDP, whose checkpoints are cut; `tests/faults` trains two workers with DDP."""
    out, off = tmp_path / "run", "--tracking.no-enabled"
    train.job(train_args(shards, out, "--train.parallel", "fsdp", "--train.workers", "2", "--train.steps", "4", off))
    files = sorted(path.name for path in (out / "checkpoints" / "step_00000004").iterdir())
    assert [name for name in files if "model" in name] == [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    train.job(train_args(shards, out, off))
    assert load_model(str(out))[1].step == STEPS
    state = json.loads((out / "checkpoints" / f"step_{STEPS:08d}" / "state.json").read_text())
    assert state["writers"] == 1 and state["position"]["world"] == 1
