"""What MLflow's pages show of a run besides values: data sets, description, address, system metrics, links."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from pipeline import config
from pipeline.config.evaluation import Tracking
from pipeline.errors import UserError
from pipeline.tracking.contents import DESCRIPTION, DataInput
from pipeline.tracking.description import describe_run
from pipeline.tracking.replay import replay
from pipeline.tracking.run import Run, open_run

SHARDS = DataInput("train", "s3://key:secret@bucket/shards", "d" * 32, "train", 669, 11862)
SETTING = {"dataset": "davis", "cfr_steps": 1, "cfr_clicks": 1, "adaptive": False, "objects": 7}
FIGURES = {"noc": {"80": 2.0, "90": 5.5}, "nof": {"90": 2}, "iou_at": {"1": 0.5, "5": 0.75}, "mean_iou": [0.5]}
SPEED = {"seconds_per_click": 0.1, "objects_per_second": 2.0}
SUMMARY: dict[str, Any] = {
    "checkpoint": {"uri": "/runs/first", "mlflow_run": None},
    "results": [{**SETTING, **FIGURES, **SPEED}],
    "command": "python -m jobs.evaluate --out x",
}


def start(store: config.Tracking, out: Path, **changes: Any) -> Run:
    out.mkdir(parents=True, exist_ok=True)
    return open_run(store, **{"kind": "train", "name": "a run", "params": {}, "out": str(out), **changes})


def test_data_sets_stand_at_the_run_once(store: config.Tracking, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with start(store, out) as run:
        run.data([SHARDS, replace(SHARDS, name="val", context="val")])
    (out / "tracking.json").write_text((out / "tracking.json").read_text())
    assert replay(str(out), store.uri).why == ""
    inputs = MlflowClient(store.uri).get_run(run.run_id or "").inputs
    found = inputs.dataset_inputs if inputs else []
    assert sorted((one.dataset.name, one.dataset.digest, one.tags[0].value) for one in found) == [
        ("train", "d" * 32, "train"),
        ("val", "d" * 32, "val"),
    ]
    assert json.loads(found[0].dataset.profile or "") == {"rows": 669, "objects": 11862}
    assert "secret" not in found[0].dataset.source + (out / "tracking.json").read_text()
    assert found[0].dataset.source_type == "s3"


def test_the_machine_is_looked_at_while_the_run_goes_on(store: config.Tracking, tmp_path: Path) -> None:
    run = start(replace(store, system_metrics=0.05), tmp_path / "run")
    client, found = MlflowClient(store.uri), {}
    deadline = time.monotonic() + 60
    while "system/cpu_utilization_percentage" not in found and time.monotonic() < deadline:
        run.flush()
        found = client.get_run(run.run_id or "").data.metrics
    assert run.close()
    assert found["system/system_memory_usage_megabytes"] > 0
    assert json.loads((tmp_path / "run" / "tracking.json").read_text())["complete"] == -1, "OUT does not hold them"
    off = start(replace(store, system_metrics=0.0), tmp_path / "off")
    assert off._watch is None and off.close()
    with pytest.raises(UserError, match="system-metrics is seconds"):
        Tracking(system_metrics=-1.0)


def test_who_where_and_what(store: config.Tracking, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run = start(store, out)
    client = MlflowClient(store.uri)
    assert run.flush()
    tags = client.get_run(run.run_id or "").data.tags
    assert client.get_run(run.run_id or "").info.user_id == tags["mlflow.user"] != "unknown"
    assert tags[DESCRIPTION].startswith("Not finished yet (train)")
    (out / "summary.json").write_text(json.dumps(SUMMARY))
    assert run.close()
    found = client.get_run(run.run_id or "")
    page = f"#/experiments/{found.info.experiment_id}/runs/{run.run_id}?workflowType=machine_learning"
    assert run.where == f"http://127.0.0.1:5000/{page}"
    assert "| davis | CFR-1 | 7 | 2 | - | 5.5 | 0.5 | 0.75 |" in found.data.tags[DESCRIPTION]
    assert "    python -m jobs.evaluate --out x" in found.data.tags[DESCRIPTION]
    child = start(store, tmp_path / "child", parent=run.run_id)
    assert child.close()
    assert Run().where == ""


def test_an_evaluation_knows_its_training_and_tells_the_model(store: config.Tracking, tmp_path: Path) -> None:
    client = MlflowClient(store.uri)
    with start(store, tmp_path / "training") as training:
        pass
    client.create_registered_model("page-clicker")
    client.create_model_version("page-clicker", str(tmp_path), run_id=training.run_id)
    made_by = {**SUMMARY, "checkpoint": {"uri": "/runs/first", "mlflow_run": training.run_id}}
    evaluation = start(store, tmp_path / "evaluation", kind="evaluate")
    (tmp_path / "evaluation" / "summary.json").write_text(json.dumps(made_by))
    assert evaluation.close()
    said = client.get_run(evaluation.run_id or "").data.tags[DESCRIPTION]
    assert f"/runs/{training.run_id}?workflowType=machine_learning)" in said
    (version,) = client.search_model_versions("name='page-clicker'")
    assert version.tags == {"davis.cfr1.noc80": "2.0000", "davis.cfr1.noc90": "5.5000"}
    unknown = {**SUMMARY, "checkpoint": {"uri": "/runs/first", "mlflow_run": "e" * 32}}
    other = start(store, tmp_path / "other", kind="evaluate")
    (tmp_path / "other" / "summary.json").write_text(json.dumps(unknown))
    assert other.close(), "of a training that another store holds"
    assert "/runs/e" not in client.get_run(other.run_id or "").data.tags[DESCRIPTION]


def test_a_training_and_a_sweep_in_words() -> None:
    training = {"recipe": "tiny", "step": 8, "steps": 10, "data": {"train": "/shards"}, "command": "train it"}
    said = describe_run({**training, "result": {"step": 4, "noc90": 12.345678, "objects": 7}})
    assert "8 of 10 steps; train `/shards`" in said and "| step | NoC@90 |\n| --- | --- |\n| 4 | 12.35 |" in said
    assert describe_run(training).count("|") == 0
    trials = [{"id": 3, "setting": {"cfr.steps": 2}}]
    sweep = {"trials": trials, "best": {"trial": 3, "objectives": {"noc90": 5.0}}, "command": "search it"}
    said = describe_run({**sweep, "recipe": "tiny"})
    assert "| NoC@90 | `cfr.steps` |" in said and "| 5 | 2 |" in said and "    search it" in said
    assert "Best" not in describe_run({**sweep, "best": None})
    assert describe_run({"objects": 3}) == ""
