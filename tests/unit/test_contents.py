"""What MLflow is told of the output of each job. The folders are written as the jobs write them."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.errors import UserError
from pipeline.tracking import contents
from pipeline.tracking.contents import Identity, Values
from pipeline.train.run_folder import MetricsFile
from pipeline.tune import icl_folder
from pipeline.tune.trials import Trial


@pytest.fixture(params=["", "file://"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"{request.param}{tmp_path}/run"


def write(out: str, *names: str) -> None:
    for name in names:
        storage.write_bytes(storage.join(out, name), b"{}")


def test_nothing_yet(out: str) -> None:
    assert contents.read_identity(out) is None
    assert [*contents.curves(out, 0), *contents.results(out, 0), *contents.files(out)] == []
    assert contents.tags(out) == {}


def test_identity(out: str) -> None:
    identity = Identity("key", "uri", "experiment", "name", 17, {"a": "1"}, {"b": "2"}, [], "id", "3", "KILLED", 18, 5)
    contents.write_identity(out, identity)
    assert contents.read_identity(out) == identity
    uri = storage.join(out, "tracking.json")
    storage.write_bytes(
        uri, json.dumps({**json.loads(storage.read_bytes(uri)), "home": "of an earlier version"}).encode()
    )
    assert contents.read_identity(out) == identity
    for other in (b"[]", b"{}", b"x"):
        storage.write_bytes(uri, other)
        with pytest.raises(UserError, match="does not say which run"):
            contents.read_identity(out)


@pytest.mark.parametrize("inner", ["", "run-0/"])
def test_a_training_run(out: str, inner: str) -> None:
    """Alone, or of a trial."""
    folder = storage.join(out, inner).rstrip("/")
    write(folder, "config.json", "pictures/samples_00000002.png", "inputs.json", ".writer.json", "failed/step_1/x.json")
    write(folder, "checkpoints/step_00000002/state.json", "checkpoints/step_00000004/model.safetensors")
    begin = int(time.time() * 1000)
    metrics = MetricsFile(folder, 0)
    first = metrics.add(2, {"train/loss": 0.5})
    assert metrics.add(2, {"val/noc90": 3.0}) == first >= begin
    metrics.add(4, {"train/loss": 0.25})
    metrics.save()
    found = [*contents.curves(out, 0)]
    assert [(values.step, dict(values.values)) for values in found] == [
        (2, {"train/loss": 0.5, "val/noc90": 3.0}),
        (4, {"train/loss": 0.25}),
    ]
    assert found[0].time == first
    again = MetricsFile(folder, 2)
    again.add(4, {"train/loss": 0.25})
    assert again.lines[0]["time"] == first, "a continued run keeps the times"
    uri = storage.join(folder, "checkpoints", "step_00000002")
    held = contents.tags(out)
    assert held["checkpoint"].removeprefix("file://") == uri.removeprefix("file://") and held["checkpoint_step"] == "2"
    assert contents.files(out) == [f"{inner}config.json", f"{inner}pictures/samples_00000002.png"]
    assert [*map(contents.is_written_once, contents.files(out))] == [False, True]


def test_metrics_of_an_earlier_version_have_the_time_of_the_run(out: str) -> None:
    storage.write_bytes(storage.join(out, "metrics.jsonl"), b'{"step": 1, "a": 2.0}\n')
    assert [*contents.curves(out, 99)] == [Values(1, 99, {"a": 2.0})]


@pytest.mark.parametrize("several", [False, True])
def test_an_evaluation(out: str, several: bool) -> None:
    """Of one setting a figure is named by its data set alone, and the means over data sets are the run's result."""
    setting = {"dataset": "davis", "cfr_steps": 4, "cfr_clicks": 1, "adaptive": True}
    figures = {"noc": {"90": 5.5}, "nof": {"90": 2}, "iou_at": {"1": 0.5}, "mean_iou": [0.5, 0.75], "objects": 7}
    speed = {"seconds_per_click": 0.1, "objects_per_second": 2.0}
    entries = [{**setting, **figures, **speed}, {**setting, "objects": 0, **({"cfr_steps": 0} if several else {})}]
    summary = {"results": entries, "passes": {"computed": 1}}
    storage.write_bytes(storage.join(out, "summary.json"), json.dumps(summary).encode())
    write(out, "report.html", "report.md", "report-figures/curves.png", "parts/x.parquet", "evaluation.json")
    named = {"noc90": 5.5, "nof90": 2, "iou1": 0.5, "objects": 7, **speed}
    prefix = "davis/acfr4" if several else "davis"
    assert [*contents.results(out, 3)] == [
        Values(None, 3, {f"{prefix}/{name}": value for name, value in named.items()}),
        Values(1, 3, {f"{prefix}/mean_iou": 0.5}),
        Values(2, 3, {f"{prefix}/mean_iou": 0.75}),
        *([] if several else [Values(None, 3, {"noc90": 5.5, "iou1": 0.5})]),
    ]
    assert sorted(contents.files(out)) == ["report-figures/curves.png", "report.html", "report.md", "summary.json"]


def test_a_sweep(out: str) -> None:
    summary = {"trials": [], "best": {"objectives": {"noc90": 2.0}}, "passes": {"computed": 1, "separate": 2}}
    storage.write_bytes(storage.join(out, "summary.json"), json.dumps(summary).encode())
    write(out, "best.json", "settings/trial-0001.json", "trials.json")
    expected = [{"passes/computed": 1, "passes/separate": 2}, {"noc90": 2.0}]
    assert [*contents.results(out, 3)] == [Values(None, 3, values) for values in expected]
    assert sorted(contents.files(out)) == ["best.json", "summary.json"]
    summary = {"trials": [], "best": None}
    storage.write_bytes(storage.join(out, "summary.json"), json.dumps(summary).encode())
    assert not any(values.values for values in contents.results(out, 3))


def test_trials(out: str) -> None:
    history = [{"step": 30, "noc90": 4.0}]
    icl_folder.write_ended(out, Trial(0, "done", {}, {}, {"noc90": 4.0}, history=history))
    icl_folder.write_ended(out, Trial(1, "done", {}, {}, {"noc90": 4.0}, curve=[0.5, 0.75]))
    icl_folder.write_ended(out, Trial(2, "failed", {}, {}, error="it was too large"))
    told = [[*contents.results(icl_folder.trial_uri(out, number), 3)] for number in range(3)]
    assert told[0] == [Values(None, 3, {"noc90": 4.0})]
    clicks = [Values(1, 3, {"mean_iou": 0.5}), Values(2, 3, {"mean_iou": 0.75})]
    assert told[1] == [Values(None, 3, {"noc90": 4.0}), *clicks]
    assert told[2] == [Values(None, 3, {})]
