"""The sweep over training settings: stopped early, continued, killed, with trials that fail, and as a population."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from jobs import train
from jobs import tune as command
from pipeline.errors import UserError
from pipeline.model.checkpoints import load_model
from pipeline.train.state import complete_checkpoints, step_of
from pipeline.tune import icl_folder
from tests.made import rows_of_blobs, write_dataset

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    *("--data.crop", "64", "--data.min-object-area", "20", "--data.chunk", "8", "--cfr.crop", "64"),
    *("--model.train-size", "64", "--model.dim", "48", "--train.batch", "4", "--train.cpus-per-worker", "1"),
    *("--train.threads", "1", "--train.log-every", "3", "--train.checkpoint-every", "1000", "--train.val-objects", "6"),
    *("--eval.max-clicks", "3"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    write_dataset(folder / "train", rows_of_blobs(8))
    write_dataset(folder / "val", rows_of_blobs(4, seed=1))
    return folder


def words(made: Path, out: Path, *more: str) -> list[str]:
    data = ["--data.train", str(made / "train"), "--data.val", str(made / "val")]
    return ["icl", "tiny", *data, "--out", str(out), *SMALL, "--objectives", "iou3", *more]


def ended(out: Path) -> dict[str, int]:
    """When each trial's end was written, by trial."""
    return {file.parent.name: file.stat().st_mtime_ns for file in sorted(out.glob("trials/*/ended.json"))}


def test_early_stopping_failures_and_going_on(
    made: Path, tmp_path: Path, ray_session: None, capsys: pytest.CaptureFixture[str]
) -> None:
    out, store = tmp_path / "out", f"sqlite:///{tmp_path / 'mlflow.db'}"
    # Steps so long that nothing can be learnt, and one that makes the loss infinite.
    args = words(made, out, "--tracking.uri", store, "--train.steps", "9", "--grace", "3", "--reduction", "2")
    args += ["--only", "--space", "optim.lr=choice(1e-4,3e-4,1e-3,1e20)", "loss.weights.count=randint(1,2)"]
    args += ["--point", "optim.lr=1e20", "--search", "random", "--optim.clip-norm", "0"]
    command.job([*args, "--trials", "5"])
    summary = json.loads((out / "summary.json").read_text())
    trials = summary["trials"]
    assert [t["id"] for t in trials] == list(range(5)) and trials[0]["name"] == "recipe"
    states = [t["state"] for t in trials]
    assert states[1] == "failed" and "at step" in trials[1]["error"]
    assert "done" in states and "stopped" in states
    for trial in trials:
        steps = [row["step"] for row in trial["history"]]
        if trial["state"] == "done":
            assert steps == [3, 6, 9] and trial["metrics"]["iou3"] == trial["history"][-1]["iou3"]
        elif trial["state"] == "stopped":
            assert steps in ([3], [3, 6])
    best = json.loads((out / "best.json").read_text())
    run = train.parse(["tiny", "--config", str(out / "best.json"), "--data.train", "a", "--out", "b"])
    assert best["kind"] == "icl" and run.optim.lr == best["values"]["optim.lr"]
    assert load_model(str(out / "trials" / f"{best['trial']:04d}" / "run-0"))[1].step == 9
    report = (out / "report.md").read_text()
    for text in ("Trials over their training", "What mattered", "Failed trials", "step 3, the last that all"):
        assert text in report
    assert (out / "report-figures" / "history-iou3.png").stat().st_size > 5000

    client = MlflowClient(store)
    parent = client.get_run(summary["mlflow_run"])
    assert parent.info.status == "FINISHED"
    found = client.search_runs([parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    children = {run.data.tags["trial"]: run for run in found}
    assert len(found) == len(children) == 5
    for trial in trials:
        child = children[str(trial["id"])]
        assert child.info.run_id == trial["mlflow_run"] and child.data.tags["state"] == trial["state"]
        assert child.info.status == ("FAILED" if trial["state"] == "failed" else "FINISHED")
        assert float(child.data.params["optim.lr"]) == trial["setting"]["optim.lr"]
        curve = client.get_metric_history(child.info.run_id, "val/iou3")
        assert sorted((m.step, m.value) for m in curve) == [(r["step"], r["iou3"]) for r in trial["history"]]

    before = ended(out)
    command.job([*args, "--trials", "6"])  # goes on: what has ended stays
    after = ended(out)
    assert {trial: when for trial, when in after.items() if trial in before} == before and len(after) == 6
    capsys.readouterr()
    command.job([*args, "--trials", "6"])
    assert ended(out) == after and "6 trials" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"another .*reduction"):
        command.job([*args, "--trials", "6", "--reduction", "3"])


def test_a_killed_sweep_goes_on(made: Path, tmp_path: Path, ray_session: None) -> None:
    """SIGKILL of the driver between two validations of the last trial."""
    out = tmp_path / "out"
    args = words(made, out, "--trials", "2", "--train.steps", "40", "--grace", "10", "--reduction", "1")
    line = [sys.executable, "-m", "jobs.tune", *args, "--tracking.no-enabled", "--concurrent", "1"]
    with (tmp_path / "log").open("wb") as log:
        driver = subprocess.Popen(line, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 150
        while not complete_checkpoints(str(out / "trials" / "0001" / "run-0"))[1:]:
            assert driver.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()[-3000:]
            time.sleep(0.05)
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
    time.sleep(4)  # the processes of the dead driver's Ray end within seconds
    before, reached = ended(out), step_of(complete_checkpoints(str(out / "trials" / "0001" / "run-0"))[-1])
    assert list(before) == ["0000"] and 10 <= reached < 40
    command.job(line[3:])
    assert {trial: when for trial, when in ended(out).items() if trial in before} == before
    trial = icl_folder.read_ended(str(out), 1)
    assert trial is not None and trial.state == "done"
    assert [row["step"] for row in trial.history] == [10, 20, 30, 40]
    assert len(icl_folder.segments(icl_folder.trial_uri(str(out), 1))) == 1


def test_a_population_takes_over_from_its_best(made: Path, tmp_path: Path, ray_session: None) -> None:
    out = tmp_path / "out"
    args = words(
        made, out, "--trials", "4", "--train.steps", "9", "--grace", "3", "--search", "pbt", "--concurrent", "2"
    )
    command.job([*args, "--only", "--space", "optim.lr=loguniform(1e-6,1e-3)", "--tracking.no-enabled"])
    trials = json.loads((out / "summary.json").read_text())["trials"]
    assert [t["state"] for t in trials] == ["done"] * 4
    taken = [s for t in range(4) for s in icl_folder.segments(icl_folder.trial_uri(str(out), t)) if s.source]
    assert taken, "no member went on from another one's checkpoint"
    for segment in taken:
        first, *_ = complete_checkpoints(segment.uri)
        assert step_of(first) == step_of(segment.source) > 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--trials", "2", "--train.cpus-per-worker", "64"], "64 CPU"),
        (["--trials", "2", "--train.gpu"], "GPU"),
        (["--trials", "2", "--space", "suem.mixprob=0.5"], "Did you mean 'suem.mix_prob'"),
        (["--trials", "2", "--reduction", "0"], "--reduction"),
    ],
)
def test_mistakes(made: Path, tmp_path: Path, ray_session: None, more: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        command.job([*words(made, tmp_path / "out", "--train.steps", "9", *more), "--tracking.no-enabled"])
