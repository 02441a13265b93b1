"""The sweep over CFR settings: whole, continued, killed, with settings that fail, and what it refuses."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from ray.exceptions import ActorDiedError

from jobs import tune as command
from pipeline.config import Cfr, Eval, TrainConfig
from pipeline.config.io import replace
from pipeline.config.sweeps import CfrSweepConfig
from pipeline.data.images import decode_sample
from pipeline.errors import UserError
from pipeline.evaluate.batch import evaluate_objects
from pipeline.evaluate.pool import ActorPool, Call, InferenceActor
from pipeline.evaluate.results import clicks_of
from pipeline.evaluate.shared import Target
from pipeline.model.checkpoints import load_model
from pipeline.tune.cfr_request import check, fitting_crops
from pipeline.tune.cfr_sweep import Sweep
from pipeline.tune.trials import Trial
from tests.made import SIDE, rows_of_blobs, small_config, write_checkpoint, write_dataset

pytestmark = pytest.mark.ray
ROOT = Path(__file__).resolve().parents[2]
PICTURES = 5
RULES = Eval(max_clicks=3, actors=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint and a data set of 5 pictures with 2 objects each."""
    folder = tmp_path_factory.mktemp("made")
    write_checkpoint(folder / "checkpoint")
    write_dataset(folder / "blobs", rows_of_blobs(PICTURES))
    return folder


def request(made: Path, out: Path, **changes: Any) -> CfrSweepConfig:
    data = (f"blobs={made / 'blobs'}",)
    base = {"checkpoint": str(made / "checkpoint"), "data": data, "out": str(out), "eval": RULES}
    return CfrSweepConfig(**{**base, "trials": 6, "generation": 4, **changes})


def run(asked: CfrSweepConfig) -> Sweep:
    sweep = Sweep(check(asked))
    sweep.run(lambda trial: None)
    return sweep


def plain(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Trials without what differs from run to run."""
    times = {"seconds": 0.0, "mlflow_run": None}
    rows = [{**trial.to_dict(), **times} for trial in trials]
    return [{**row, "metrics": {k: v for k, v in row["metrics"].items() if k != "seconds"}} for row in rows]


def parts(out: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in sorted(out.glob("parts/**/*.parquet"))}


def test_a_sweep_gives_what_each_setting_gives_alone_and_continues(
    made: Path, tmp_path: Path, ray_session: None, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    first = run(request(made, out, eval=dataclasses.replace(RULES, actors=2)))
    printed = capsys.readouterr().out
    assert "starting 2 inference actor(s)" in printed and printed.count("starting") == 1  # they stay for generation 1
    assert [t.name for t in first.trials[:4]] == ["CFR-0", "CFR-1", "CFR-4", "A-CFR-4"]
    assert [t.generation for t in first.trials] == [0, 0, 0, 0, 1, 1]
    assert {t.state for t in first.trials} == {"done"}
    model, _ = load_model(str(made / "checkpoint"))
    samples = [decode_sample(row) for row in rows_of_blobs(PICTURES)]
    table = pq.read_table(out / "objects.parquet")
    assert table.equals(first.objects)
    for trial in first.trials:
        cfr = replace(TrainConfig(cfr=Cfr(crop=SIDE)), **trial.setting).cfr
        targets = (Target((s.image_id, k), s.image, s.target(k)) for s in samples for k in range(len(s.objects)))
        expected = {r.key: r for r in evaluate_objects(model, targets, cfr, RULES)}
        rows = [row for row in table.to_pylist() if row["trial"] == trial.id]
        assert {(row["image_id"], row["object_id"]) for row in rows} == set(expected) and len(rows) == len(expected)
        for row in rows:
            result = expected[row["image_id"], row["object_id"]]
            assert clicks_of(row) == result.clicks and row["forward_passes"] == sum(result.forwards)
            assert row["iou"] == pytest.approx(result.ious, abs=1e-6) and row["seconds"] > 0
        passes = sum(sum(r.forwards) for r in expected.values()) / len(expected)
        assert trial.metrics["passes"] == passes and len(trial.curve) == RULES.max_clicks
    computed = sum(row["computed_passes"] for row in table.to_pylist())
    assert computed == pytest.approx(round(computed))
    # At the least, CFR-0's first pass and all of A-CFR-4's and CFR-1's first clicks are CFR-4's.
    assert round(computed) <= sum(table["forward_passes"].to_pylist()) - 2 * PICTURES * (1 + 2 + 2)
    before = parts(out)
    again = run(request(made, out))
    assert parts(out) == before and plain(again.trials) == plain(first.trials)
    more = run(request(made, out, trials=9))  # continues: the trials there were stay
    assert plain(more.trials[:6]) == plain(first.trials) and len(more.trials) == 9
    assert {path: when for path, when in parts(out).items() if path in before} == before
    for changes, named in (
        ({"search_seed": 1}, "seed"),
        ({"space": ("cfr.flip=true",)}, "space"),
        ({"search": "random"}, "s"),
    ):
        with pytest.raises(UserError, match=rf"holds a sweep with another .*{named}"):
            check(request(made, out, **changes))


def test_a_setting_that_fails_is_recorded_and_the_others_go_on(made: Path, tmp_path: Path, ray_session: None) -> None:
    """The network refuses a crop of 72 pixels: no multiple of its patch."""
    asked = request(
        made, tmp_path / "out", space=("cfr.crop=quniform(64,80,8)", "cfr.flip=false"), only=True, search="grid"
    )
    sweep = run(asked)
    states = {t.setting["cfr.crop"]: t.state for t in sweep.trials}
    assert states == {64: "done", 72: "failed", 80: "done"}
    (failed,) = [t for t in sweep.trials if t.state == "failed"]
    assert "72x72 is not a multiple of the patch" in failed.error and not failed.metrics
    assert sweep.trials[0].name == "CFR-0, CFR-1, CFR-4, A-CFR-4"  # steps are not searched here: one setting
    assert {row["trial"] for row in sweep.objects.to_pylist() if row["error"]} == {failed.id}
    with pytest.raises(UserError, match="72 is not a multiple"):  # written down by hand it is a mistake
        check(request(made, tmp_path / "other", space=("cfr.crop=choice(64,72)",)))


def test_a_setting_that_kills_its_actor_is_found_and_recorded(
    made: Path, tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The work is done in this process, and the death is raised as the engine raises it after its retries."""
    tried: list[list[int]] = []
    names = ["CFR-0", "CFR-1", "CFR-4", "A-CFR-4"]
    deadly = names.index("CFR-4")

    def here(pool: ActorPool, units: Any, parts: Any, settings: Any, progress: Any) -> None:
        checkpoint = pool.checkpoint
        actor = InferenceActor(checkpoint, False, 1, None)
        actor.ready()
        for unit in units:
            asked = settings(unit.crop)
            if unit is units[0]:
                tried.append(list(asked))
            if deadly in asked and parts[unit.name].endswith("blobs-000001.parquet"):  # not on its first objects
                raise ActorDiedError
            assert list(actor.evaluate(Call([unit], parts, asked, RULES, 1, strict=False))) == [unit.name]

    monkeypatch.setattr(ActorPool, "run", here)
    asked = request(made, tmp_path / "out", trials=4, limit=6)
    sweep = run(asked)
    assert [t.name for t in sweep.trials] == names
    assert [t.state for t in sweep.trials] == ["done", "done", "failed", "done"]
    assert "its actor died" in sweep.trials[deadly].error and "ActorDiedError" in sweep.trials[deadly].error
    assert [group for group, _ in itertools.groupby(tried)] == [[0, 1, 2, 3], [0, 1], [2, 3], [2], [3]]
    before, rounds = parts(tmp_path / "out"), len(tried)
    again = run(asked)
    assert len(tried) == rounds and parts(tmp_path / "out") == before and plain(again.trials) == plain(sweep.trials)
    deadly = -1
    clean = plain(run(request(made, tmp_path / "clean", trials=4, limit=6)).trials)
    assert [row for row in clean if row["id"] != 2] == [row for row in plain(sweep.trials) if row["id"] != 2]


def words(made: Path, out: Path, *more: str) -> list[str]:
    base = ["cfr", "--checkpoint", str(made / "checkpoint"), "--data", f"blobs={made / 'blobs'}", "--out", str(out)]
    return [*base, "--max-clicks", "3", "--actors", "1", *more]


@pytest.mark.slow
def test_command_line(made: Path, tmp_path: Path, ray_session: None, capsys: pytest.CaptureFixture[str]) -> None:
    from mlflow.tracking import MlflowClient

    out, store = tmp_path / "out", f"sqlite:///{tmp_path / 'mlflow.db'}"
    args = words(made, out, "--trials", "5", "--space", "cfr.crop=quniform(64,80,8)", "--tracking-uri", store)
    args += ["--point", "cfr.steps=2 cfr.crop=72", "--space", "cfr.flip=true"]
    command.job(args)
    printed = capsys.readouterr().out
    assert "5 trials, 1 failed" in printed and "forward passes computed" in printed
    summary = json.loads((out / "summary.json").read_text())
    best = json.loads((out / "best.json").read_text())
    assert summary["best"] == best and best["kind"] == "cfr" and best["values"]["cfr.flip"] is True
    for number in summary["front"]:
        assert json.loads((out / "settings" / f"trial-{number:04d}.json").read_text())["trial"] == number
    report = (out / "report.md").read_text()
    for text in ("Settings worth using", "What mattered", "Failed trials", "not a multiple of the patch", "A\\-CFR"):
        assert text in report or text.replace("\\", "") in report
    assert all((out / "report-figures" / name).stat().st_size > 5000 for name in ("pareto.png",))
    client = MlflowClient(store)
    parent = client.get_run(summary["mlflow_run"])
    assert parent.info.status == "FINISHED" and parent.data.tags["kind"] == "tune"
    assert {"report.html", "summary.json", "best.json"} <= {f.path for f in client.list_artifacts(parent.info.run_id)}
    experiment = parent.info.experiment_id
    children = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert {c.data.tags["trial"] for c in children} == set("01234")
    assert {t["mlflow_run"] for t in summary["trials"]} == {c.info.run_id for c in children}
    for child in children:
        trial = summary["trials"][int(child.data.tags["trial"])]
        assert child.info.status == ("FAILED" if trial["state"] == "failed" else "FINISHED")
        assert child.data.params["cfr.steps"] == str(trial["setting"]["cfr.steps"])
        assert {k: child.data.metrics[k] for k in trial["metrics"]} == pytest.approx(trial["metrics"])
        curve = client.get_metric_history(child.info.run_id, "mean_iou") if trial["curve"] else []
        assert [m.value for m in sorted(curve, key=lambda m: m.step)] == trial["curve"]


@pytest.mark.slow
def test_a_killed_sweep_repeats_nothing_that_is_finished(made: Path, tmp_path: Path, ray_session: None) -> None:
    """SIGKILL of the driver in the second generation; the same command then ends as if nothing had happened."""
    out = tmp_path / "out"
    args = [*words(made, out, "--trials", "8", "--generation", "4", "--limit", "6", "--full-curve"), "--no-tracking"]
    line = [sys.executable, "-m", "jobs.tune", *args]
    with (tmp_path / "log").open("wb") as log:
        driver = subprocess.Popen(line, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 150
        while not list(out.glob("parts/001/*.parquet")):
            assert driver.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()[-2000:]
            time.sleep(0.02)
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
    time.sleep(4)  # actors of the dead driver's Ray end within seconds; a part they still write counts as finished
    before = parts(out)
    proposed = (out / "generations" / "001.json").read_bytes()
    assert not (out / "summary.json").exists()
    command.job(args)
    assert {path: when for path, when in parts(out).items() if path in before} == before
    assert (out / "generations" / "001.json").read_bytes() == proposed
    rules = Eval(max_clicks=3, actors=1, full_curve=True)
    clean = run(request(made, tmp_path / "clean", trials=8, limit=6, eval=rules))
    found = [Trial.from_dict(row) for row in json.loads((out / "trials.json").read_text())]
    assert plain(found) == plain(clean.trials)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--space", "cfr.stepz=1"], "Did you mean 'cfr.steps'"),
        (["--space", "cfr.threshold=uniform(0.6,0.4)"], "upside down"),
        (["--space", "optim.lr=loguniform(1e-6,1e-4)"], "a cfr sweep searches"),
        (["--objectives", "noc99"], "no objective 'noc99'"),
        (["--target-iou", "0.85"], "raise --target-iou"),
        (["--search", "grid"], "more than --trials 6"),
        (["--trials", "0"], "--trials must be at least 1"),
        (["--only"], "Nothing is searched"),
        (["--point", "cfr.zoom=1"], "is not searched"),
        (["--space", "cfr.crop=65"], "not a multiple"),
        (["--actors", "99"], "99 CPUs"),
        (["--gpu"], "GPUs"),
    ],
)
def test_mistakes(made: Path, tmp_path: Path, ray_session: None, more: list[str], message: str) -> None:
    flags = ["--trials", "6"] if "--trials" not in more else []
    with pytest.raises(UserError) as caught:
        command.job([*words(made, tmp_path / "out", *flags, *more), "--no-tracking"])
    assert message in str(caught.value)


def test_kinds() -> None:
    with pytest.raises(UserError, match="Did you mean 'cfr'"):
        command.job(["cfg"])


def test_crops_that_fit() -> None:
    assert fitting_crops(small_config().model, SIDE) == [48, 64, 80, 96]
    huge = small_config().model.__class__(patch=14, train_size=448)
    assert fitting_crops(huge, 448) == [336, 448, 560, 672]
    assert fitting_crops(TrainConfig().model, 448)[0] < 448 < fitting_crops(TrainConfig().model, 448)[-1]
