"""The commands on a GPU, each with a Ray of its own as on a user's machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.clicks.encode import Click
from pipeline.evaluate.results import clicks_of
from pipeline.model.checkpoints import load_model
from tests.faults.local_cluster import last_step, processes_below, until
from tests.ray.test_train import SMALL

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.gpu]


def run(*command: str) -> str:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, sample: Path) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("gpu")
    for split in ("train", "val"):
        run("jobs.prepare", "coco-lvis", "--root", str(sample), "--split", split, "--out", str(folder / split))
    return str(folder / "train"), str(folder / "val")


def rows(out: Path, name: str) -> dict[int, float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line[name] for line in lines if name in line}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training(shards: tuple[str, str], tmp_path: Path, precision: str) -> None:
    """Half of a run, then the same command with all its steps; the loss is that of a CPU, as far as it is rounded."""
    out, cpu = tmp_path / "run", tmp_path / "cpu"
    args = ["jobs.train", "tiny", "--data.train", shards[0], "--data.val", shards[1], *SMALL]
    args += ["--model.head-dropout", "0", "--tracking.no-enabled"]
    on_gpu = [*args, "--out", str(out), "--train.gpu", "--train.precision", precision]
    run(*on_gpu, "--train.steps", "4")
    assert load_model(str(out))[1].step == 4
    run(*on_gpu)
    assert load_model(str(out))[1].step == 8
    peaks = rows(out, "device/peak_gb")
    assert 0 < peaks[0] < peaks[8] < 10
    if precision == "fp32":
        run(*args, "--out", str(cpu), "--train.steps", "4")
        assert rows(out, "train/loss")[2] == pytest.approx(rows(cpu, "train/loss")[2], rel=1e-3)


def test_loss_of_a_training_worker(shards: tuple[str, str], tmp_path: Path) -> None:
    """The dead process's memory is free again when its successor starts on the same GPU."""
    out = tmp_path / "run"
    args = ["tiny", "--data.train", shards[0], "--out", str(out), *SMALL, "--train.gpu", "--tracking.no-enabled"]
    args += ["--train.steps", "300", "--train.val-every", "0", "--train.checkpoint-every", "100"]
    with (tmp_path / "log").open("wb") as log:
        driver = subprocess.Popen([sys.executable, "-m", "jobs.train", *args], cwd=ROOT, stdout=log, stderr=log)
        until(lambda: last_step(str(out)) >= 100, "a checkpoint", alive=driver)
        (worker,) = processes_below({driver.pid}, "ray::RayTrainWorker")
        os.kill(worker, signal.SIGKILL)
        assert driver.wait(200) == 0, (tmp_path / "log").read_text()
    assert load_model(str(out))[1].step == 300


@pytest.mark.parametrize("batch", [1, 8])
def test_the_golden_checkpoint_gives_the_golden_clicks(golden: Path, tmp_path: Path, batch: int) -> None:
    run(
        *("jobs.evaluate", "--gpu", "--checkpoint", str(golden / "tiny.pth"), "--data", f"golden={golden / 'eval'}"),
        *("--batch-size", str(batch), "--cfr-steps", "0", "--out", str(tmp_path / "out"), "--no-tracking"),
    )
    recorded = next(s for s in json.loads((golden / "eval.json").read_text())["settings"] if s["name"] == "cf0")
    found = {row["image_id"]: row for row in pq.read_table(tmp_path / "out" / "objects.parquet").to_pylist()}
    assert len(found) == len(recorded["results"])
    for expected in recorded["results"]:
        stable = min(expected["stable_clicks"].values())
        row = found[Path(expected["image"]).stem]
        assert clicks_of(row)[:stable] == [Click(*click) for click in expected["clicks"][:stable]], row["image_id"]
