"""What tracking keeps on disk, how it hides credentials and where it writes by default. No MLflow store needed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline import config
from pipeline.errors import UserError
from pipeline.report import environment, mlstore
from pipeline.report.spool import Journal, Spool
from pipeline.report.tracking import Run, resolve_tracking


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("x --tracking.uri http://u:p@h:5000/", "x --tracking.uri http://***@h:5000/"),
        ("x --aws-secret-access-key AbC --lr 1", "x --aws-secret-access-key *** --lr 1"),
        ("x API_TOKEN=AbC y", "x API_TOKEN=*** y"),
        ("x --data s3://bucket/key --model.patch 16", "x --data s3://bucket/key --model.patch 16"),
    ],
)
def test_masking(given: str, shown: str) -> None:
    assert environment.mask_credentials(given) == shown


def test_environment_is_plain_and_knows_the_versions() -> None:
    found = environment.describe_environment()
    assert json.loads(json.dumps(found)) == found
    assert found["versions"]["torch"].startswith("2.") and found["cpus"] >= 1


def test_default_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert resolve_tracking(config.Tracking()).uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert resolve_tracking(config.Tracking(uri="sqlite:///x/y.db")).uri == f"sqlite:///{tmp_path}/x/y.db"
    for plain in ("file:///x", "mlruns"):
        with pytest.raises(UserError, match="sqlite:///PATH"):
            resolve_tracking(config.Tracking(uri=plain))
    submitted = tmp_path / "session_1" / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    submitted.mkdir(parents=True)
    monkeypatch.chdir(submitted)
    assert resolve_tracking(config.Tracking(), str(tmp_path / "runs")).uri == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert "working folder is temporary" in capfd.readouterr().out
    with pytest.raises(UserError, match=r"tracking\.uri"):
        resolve_tracking(config.Tracking(), "s3://bucket/runs")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert resolve_tracking(config.Tracking()).uri == "http://server:5000"


def test_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / "records.jsonl")
    assert journal.unsent(5) == [] and not journal.pending
    for i in range(4):
        journal.append({"i": i})
    found = journal.unsent(3)
    assert [record["i"] for record, _ in found] == [0, 1, 2]
    journal.mark(found[1][1])
    with (tmp_path / "records.jsonl").open("ab") as handle:
        handle.write(b'{"i": 4')  # a process died while it wrote
    again = Journal(tmp_path / "records.jsonl")
    assert [record["i"] for record, _ in again.unsent(9)] == [2, 3]
    monkeypatch.setattr("pipeline.report.spool.COMPACT_BYTES", 1)
    whole = Journal(tmp_path / "whole.jsonl")
    whole.append({"i": 0})
    whole.mark(whole.unsent(1)[0][1])
    assert (tmp_path / "whole.jsonl").stat().st_size == 0
    whole.append({"i": 1})
    assert [record["i"] for record, _ in whole.unsent(9)] == [1]


def test_a_lane_in_use_is_not_taken_over(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    lane = spool.new_lane()
    lane.records.append({"type": "tags", "values": {}})
    assert spool.orphans() == []
    lane.release()
    (left,) = spool.orphans()
    assert left.pending


def test_names_that_mlflow_refuses_are_cleaned() -> None:
    assert mlstore.clean_name("grabcut/NoC@90 (x)") == "grabcut/NoC_90 _x_"
    with pytest.raises(ValueError, match="relative"):
        Run().text("x", "../x.txt")
