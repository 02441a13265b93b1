"""What tracking keeps on disk and where it writes by default. No MLflow store needed."""

from __future__ import annotations

import fcntl
import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any, TextIO

import pytest

from pipeline import config
from pipeline.errors import UserError
from pipeline.report import environment
from pipeline.tracking import mlflow_store
from pipeline.tracking.run import Run, resolve_tracking
from pipeline.tracking.spool import Journal, Spool, file_lock


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
    monkeypatch.setattr("pipeline.tracking.spool.COMPACT_BYTES", 1)
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


def test_the_lock_of_a_removed_folder_is_none(tmp_path: Path) -> None:
    """Who waited for it while the folder was removed must not go on in a folder that others cannot see."""
    path, got = tmp_path / "spool" / "run.lock", []

    def wait_for_it() -> None:
        with file_lock(path):
            got.append(path.exists())

    with file_lock(path):
        waiting = threading.Thread(target=wait_for_it)
        waiting.start()
        time.sleep(0.2)
        shutil.rmtree(path.parent)
    waiting.join()
    assert got == [True]


def test_a_new_lane_that_another_process_takes_for_an_orphan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It locks and removes the empty folder before we lock it."""
    flock, removed = fcntl.flock, []

    def late(handle: TextIO, how: int) -> None:
        if not removed:
            removed.append(Path(handle.name).parent)
            shutil.rmtree(removed[0])
        flock(handle, how)

    monkeypatch.setattr("fcntl.flock", late)
    lane = Spool(tmp_path).new_lane()
    assert removed and lane.folder != removed[0]
    lane.records.append({"type": "tags", "values": {}})
    lane.release()
    assert [found.folder for found in Spool(tmp_path).orphans()] == [lane.folder]


def test_names_that_mlflow_refuses_are_cleaned() -> None:
    assert mlflow_store.clean_name("grabcut/NoC@90 (x)") == "grabcut/NoC_90 _x_"
    with pytest.raises(ValueError, match="relative"):
        Run().text("x", "../x.txt")


def test_a_lock_in_a_folder_that_another_process_removes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = Path.mkdir, []

    def removed_after_mkdir_saw_it(path: Path, *args: Any, **kwargs: Any) -> None:
        calls.append(path)
        if len(calls) == 1:  # `mkdir` finds it, and does not when it then looks whether it is a folder
            raise FileExistsError(path)
        real(path, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", removed_after_mkdir_saw_it)
    with file_lock(tmp_path / "spool" / "lock"):
        assert len(calls) == 2
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        file_lock(tmp_path / "file" / "lock").__enter__()
