"""The sweep over training settings: killed and continued, with trials that are stopped early and that fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from mlflow.tracking import MlflowClient

from jobs import train
from jobs import tune as command
from jobs.tune_icl import parse
from pipeline import storage
from pipeline.errors import UserError
from pipeline.model.checkpoints import load_model
from pipeline.tune import icl_folder
from pipeline.tune.icl_request import check
from pipeline.tune.icl_sweep import IclSweep
from tests.made import rows_of_blobs, write_dataset

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    *("--data.crop", "64", "--data.min-object-area", "20", "--data.chunk", "8", "--cfr.crop", "64"),
    *("--data.workers", "1"),  # each is a process that starts
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


def test_a_sweep_that_is_killed_goes_on_with_stopped_and_failed_trials(
    made: Path, tmp_path: Path, ray_session: None, capsys: pytest.CaptureFixture[str]
) -> None:
    out, store = tmp_path / "out", f"sqlite:///{tmp_path / 'mlflow.db'}"
    # The recipe learns a little in 60 steps; a rate of 1e-7 nothing, and 1e20 makes the loss infinite.
    args = words(made, out, "--tracking.uri", store, "--train.steps", "60", "--grace", "30", "--reduction", "2")
    args += ["--only", "--space", "optim.lr=choice(1e-7,3e-3,1e20)", "loss.weights.count=randint(1,2)"]
    args += ["--point", "optim.lr=1e-7", "--point", "optim.lr=1e20", "--search", "random"]
    args += ["--optim.lr", "3e-3", "--optim.clip-norm", "0", "--trials", "3"]
    line = [sys.executable, "-m", "jobs.tune", *args, "--concurrent", "1"]
    with (tmp_path / "log").open("wb") as log:
        driver = subprocess.Popen(line, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 200
        while not (out / "trials" / "0001" / "run-0" / "config.json").exists():
            assert driver.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()[-3000:]
            time.sleep(0.05)
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
    time.sleep(4)  # the processes of the dead driver's Ray end within seconds
    before = ended(out)
    assert list(before) == ["0000"] and not (out / "summary.json").exists()

    command.job([*args, "--concurrent", "2"])
    assert {trial: when for trial, when in ended(out).items() if trial in before} == before
    summary = json.loads((out / "summary.json").read_text())
    trials = summary["trials"]
    assert [(t["name"], t["state"]) for t in trials] == [
        ("recipe", "done"),
        ("point 1", "stopped"),
        ("point 2", "failed"),
    ]
    assert [[row["step"] for row in t["history"]] for t in trials] == [[30, 60], [30], []]
    assert trials[0]["metrics"]["iou3"] == trials[0]["history"][-1]["iou3"] > 0.05
    assert "at step" in trials[2]["error"]
    best = json.loads((out / "best.json").read_text())
    run = train.parse(["tiny", "--config", str(out / "best.json"), "--data.train", "a", "--out", "b"])
    assert best["kind"] == "icl" and best["trial"] == 0 and run.optim.lr == best["values"]["optim.lr"] == 3e-3
    assert load_model(str(out / "trials" / "0000" / "run-0"))[1].step == 60
    report = (out / "report.md").read_text()
    for text in ("Trials over their training", "What mattered", "Failed trials", "step 30, the last that all"):
        assert text in report
    assert (out / "report-figures" / "history-iou3.png").stat().st_size > 5000

    client = MlflowClient(store)
    parent = client.get_run(summary["mlflow_run"])
    assert parent.info.status == "FINISHED"
    found = client.search_runs([parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    children = {run.data.tags["trial"]: run for run in found}
    assert len(found) == len(children) == 3
    for trial in trials:
        child = children[str(trial["id"])]
        assert child.info.run_id == trial["mlflow_run"] and child.data.tags["state"] == trial["state"]
        assert child.info.status == ("FAILED" if trial["state"] == "failed" else "FINISHED")
        assert float(child.data.params["optim.lr"]) == trial["setting"]["optim.lr"]
        curve = client.get_metric_history(child.info.run_id, "val/iou3")
        told = [(r["step"], r["iou3"]) for r in trial["history"]]
        assert sorted((m.step, m.value) for m in curve)[: len(told)] == told  # training goes on until it is stopped

    ends = ended(out)
    capsys.readouterr()
    command.job(args)  # nothing is left to do
    assert ended(out) == ends and "3 trials, 1 failed, 1 stopped" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"another .*reduction"):
        command.job([*args, "--reduction", "3"])


def test_hours_end_the_trials_which_stay_unfinished(made: Path, tmp_path: Path, ray_session: None) -> None:
    def sweep(hours: str) -> IclSweep:
        args = words(made, tmp_path / "out", "--train.steps", "9", "--trials", "2", "--hours", hours)
        return IclSweep(check(parse(args[1:])), lambda trial: trial)

    first = sweep("2")
    assert first.next() is not None
    first._since -= 3600
    first.account(gpus=3)
    assert first.spent == pytest.approx((3600, 3 * 3600), abs=60)
    assert not first.over_budget and not ray.get(first.wishes.stopping.remote())
    first._since -= 3600
    first.account()
    assert first.over_budget and ray.get(first.wishes.stopping.remote())
    first.ended(0, {"ended": False, "done": True})
    assert first.trials == [] and first.next() is None
    found = first._ended(0, {"ended": True}, "an error")
    assert found is not None and (found.state, found.error) == ("failed", "an error")
    first.keep_spent()
    again = sweep("2")
    assert not again.wants_more, "the hours are those of all commands"
    more = sweep("3")
    assert more.wants_more
    begun = more.next()
    assert begun is not None and begun[0] == 0, "the unfinished trial comes first"
    metrics = "".join(json.dumps({"step": step, "val/iou3": step / 10}) + "\n" for step in (3, 6, 9))
    storage.write_bytes(f"{icl_folder.run_uri(str(tmp_path / 'out'), 0)}/metrics.jsonl", metrics.encode())
    for ends, state in (({"step": 3}, "stopped"), ({"step": 9, "ended": True}, "done")):
        found = more._ended(0, ends, "")
        assert found is not None and found.state == state, "its training went on while the scheduler decided"
        assert found.metrics == {"iou3": ends["step"] / 10} and found.history[-1]["step"] == ends["step"]
    # No machine with a GPU is needed for counting; a command that asks for one is refused without.
    more.checked = replace(more.checked, config=replace(more.checked.config, gpu_hours=5.0))
    assert not more.over_budget
    more._since -= 1800
    more.account(gpus=6)
    assert more.over_budget, "GPU-hours"


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
