"""Training end to end on a real Ray: what a run leaves, cut checkpoints, mistakes. `tests/faults` kills it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from ray.train import ControllerError, FailureConfig, RunConfig
from ray.train.torch import TorchTrainer
from safetensors.torch import load_file

from jobs import prepare, train
from pipeline.data.readers.synthetic import write_synthetic
from pipeline.errors import UserError, user_error_in
from pipeline.model.checkpoints import load_model
from pipeline.train.launch import MistakeEnds
from tests.conftest import Exits

ROOT = Path(__file__).resolve().parents[2]
STEPS = 8
SMALL = [
    *("--data.crop", "64", "--data.min-object-area", "20", "--data.chunk", "8", "--cfr.crop", "64"),
    *("--data.workers", "1"),  # each is a process that starts
    *("--model.train-size", "64", "--model.dim", "48", "--train.batch", "4", "--train.log-every", "2"),
    *("--train.steps", str(STEPS), "--train.checkpoint-every", "3", "--train.val-every", "4"),
    *("--train.val-objects", "2", "--eval.max-clicks", "3"),
]

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> tuple[str, str]:
    """Small prepared training and validation sets."""
    folder = tmp_path_factory.mktemp("shards")
    write_synthetic(str(folder / "raw"), train=24, val=6, seed=1, size=(96, 120))
    for split in ("train", "val"):
        root = ["--root", str(folder / "raw"), "--split", split, "--out", str(folder / split)]
        prepare.job(["coco-lvis", *root])
    return str(folder / "train"), str(folder / "val")


def train_args(shards: tuple[str, str], out: Path, *more: str) -> list[str]:
    data = ["--data.train", shards[0], "--data.val", shards[1]]
    return ["tiny", *data, "--out", str(out), *SMALL, *more]


@pytest.fixture(scope="session")
def clean_run(shards: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("clean")
    train.job(train_args(shards, folder / "run", "--tracking.uri", f"sqlite:///{folder / 'mlflow.db'}"))
    return folder / "run"


def test_a_run_leaves_what_it_promises(clean_run: Path) -> None:
    assert json.loads((clean_run / "config.json").read_text())["recipe"] == "tiny"
    lines = [json.loads(line) for line in (clean_run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in lines if "train/loss" in row] == [2, 4, 6, 8]
    assert [row["step"] for row in lines if "val/noc90" in row] == [4, 8]
    assert list((clean_run / "pictures").glob("samples_*.png"))
    report = (clean_run / "report.md").read_text()
    assert f"All {STEPS} steps are done" in report and "learning_curves.png" in report and "Validation" in report
    assert f"Step {STEPS}. Predictions" in (clean_run / "report.html").read_text()
    model, info = load_model(str(clean_run))
    assert info.step == STEPS
    assert info.mlflow_run
    assert model.config.dim == 48
    found = MlflowClient(f"sqlite:///{clean_run.parent / 'mlflow.db'}").get_run(info.mlflow_run)
    assert "Training of recipe **tiny**" in found.data.tags["mlflow.note.content"]
    assert found.data.metrics["noc90"] == min(row["val/noc90"] for row in lines if "val/noc90" in row)
    contexts = sorted(data.tags[0].value for data in found.inputs.dataset_inputs) if found.inputs else []
    assert contexts == ["train", "val"]


def test_the_same_command_after_the_end_does_nothing(
    clean_run: Path, shards: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    store = f"sqlite:///{clean_run.parent / 'mlflow.db'}"
    train.job(train_args(shards, clean_run, "--tracking.uri", store))
    assert "is complete" in capsys.readouterr().out


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


def test_mistakes_end_with_exit_2(shards: tuple[str, str], tmp_path: Path, ray_session: None, exits: Exits) -> None:
    for args, message in (
        (train_args(shards, tmp_path / "run", "--optim.lrr", "1"), "optim.lr"),
        (["tinny"], "Did you mean 'tiny'?"),
        (train_args(shards, tmp_path / "run", "--data.train", "/no/such/folder"), "error: /no/such/folder"),
    ):
        code, _, err = exits(train.job, *args)
        assert code == 2 and message in err and "Traceback" not in err, err


def test_a_folder_with_another_run_is_refused(clean_run: Path, shards: tuple[str, str]) -> None:
    with pytest.raises(UserError, match=r"optim\.lr was 0\.003, now 0\.5"):
        train.job(train_args(shards, clean_run, "--optim.lr", "0.5"))


def test_a_mistake_found_by_a_worker_ends_training_without_another_start(tmp_path: Path, ray_session: None) -> None:
    def find_a_mistake(job: dict[str, str]) -> None:
        with Path(job["starts"]).open("a") as starts:
            starts.write("started\n")
        raise UserError("a mistake")

    trainer = TorchTrainer(
        find_a_mistake,
        train_loop_config={"starts": str(tmp_path / "starts")},
        run_config=RunConfig(
            storage_path=str(tmp_path / "ray"), callbacks=[MistakeEnds()], failure_config=FailureConfig(max_failures=3)
        ),
    )
    with pytest.raises(ControllerError) as ended:
        trainer.fit()
    assert str(user_error_in(ended.value.controller_failure)) == "a mistake"
    assert (tmp_path / "starts").read_text() == "started\n"


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


def test_a_continued_run_has_the_same_mean_of_weights(
    shards: tuple[str, str], tmp_path: Path, ray_session: None
) -> None:
    """With optim.average the checkpoint's model is the mean; it and the weights go on to the bit."""
    options = ("--optim.average", "0.5", "--train.val-every", "0", "--tracking.no-enabled")
    train.job(train_args(shards, tmp_path / "whole", *options))
    train.job(train_args(shards, tmp_path / "parts", *options, "--train.steps", "4"))
    train.job(train_args(shards, tmp_path / "parts", *options))
    last = f"checkpoints/step_{STEPS:08d}"
    for kind in ("model", "optimizer"):
        whole, parts = (load_file(tmp_path / name / last / f"{kind}.safetensors") for name in ("whole", "parts"))
        assert whole.keys() == parts.keys()
        assert [name for name, value in whole.items() if not torch.equal(value, parts[name])] == []
    mean = load_file(tmp_path / "whole" / last / "model.safetensors")
    weights = load_file(tmp_path / "whole" / last / "optimizer.safetensors")
    assert all(not torch.equal(value, weights[f"{name}/average"]) for name, value in mean.items())
