"""Tracking against a real SQLite store; the store over HTTP is in tests/e2e/test_tracking_server.py."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric

from pipeline import config
from pipeline.config import io as config_io
from pipeline.tracking.contents import read_identity
from pipeline.tracking.mlflow_client import clean_name
from pipeline.tracking.replay import replay
from pipeline.tracking.run import Run, open_run

ROOT = Path(__file__).resolve().parents[2]


def start(store: config.Tracking, out: Path | str, **changes: Any) -> Run:
    arguments: dict[str, Any] = {"kind": "train", "name": "a run", "params": {"optim.lr": 1e-3}, **changes}
    return open_run(store, out=str(out), **arguments)


def steps(store: config.Tracking, run_id: str | None, key: str) -> list[int]:
    assert run_id
    return [m.step for m in MlflowClient(store.uri).get_metric_history(run_id, key)]


def files(store: config.Tracking, run_id: str | None, folder: str = "") -> set[str]:
    found = MlflowClient(store.uri).list_artifacts(run_id or "", folder)
    return {file.path for file in found if not file.is_dir}


def save(out: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """The metrics file of a training run."""
    out.mkdir(exist_ok=True)
    (out / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_everything_arrives(store: config.Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["jobs/train.py", "tiny"])
    out = tmp_path / "run"
    (out / "pictures").mkdir(parents=True)
    (out / "config.json").write_text("{}")
    params = config_io.flatten(config.TrainConfig())
    with start(store, out, params=params, tags={"recipe": "tiny"}, parent="f" * 32) as run:
        for step in range(1200):
            run.metrics({"train/loss": 1 / (step + 1), "NoC@90": 1e-3, "undefined": float("nan")}, step)
        (out / "pictures" / "samples_00000001.png").write_bytes(b"a picture")
        run.file("pictures/samples_00000001.png")
        assert run.flush()
        assert files(store, run.run_id, "pictures") == {"pictures/samples_00000001.png"}, "while the run goes on"
        (out / "report.html").write_text("<html>")
    client = MlflowClient(store.uri)
    assert run.run_id
    found = client.get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "a run"
    assert found.data.params == {k: str(v) for k, v in params.items()}
    assert steps(store, run.run_id, "train/loss") == list(range(1200))
    assert found.data.metrics["NoC_90"] == 1e-3
    assert np.isnan(found.data.metrics["undefined"])
    tags = found.data.tags
    assert (tags["recipe"], tags["kind"], tags["mlflow.parentRunId"]) == ("tiny", "train", "f" * 32)
    assert tags["out"] == str(tmp_path / "run")
    assert tags["versions.mlflow"] and tags["host.cpus"] and "git.commit" in tags and tags["command"].endswith(" tiny")
    assert files(store, run.run_id) == {"config.json", "report.html"}
    identity = read_identity(str(out))
    assert identity and (identity.run_id, identity.status, identity.complete) == (run.run_id, "FINISHED", 1199)


def test_a_continued_run_is_one_run_without_doubled_steps(
    store: config.Tracking, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with start(store, tmp_path / "run") as first:
        for step in range(8):
            first.metrics({"loss": step}, step)
        first.metrics({"val/noc90": 5.0}, 4)
    changed = {"optim.lr": 1e-4, "train.steps": 99}
    with start(store, tmp_path / "run", params=changed) as second:
        assert second.run_id == first.run_id
        assert MlflowClient(store.uri).get_run(second.run_id or "").info.status == "RUNNING"
        for step in range(5, 12):
            second.metrics({"loss": step, "val/noc90": 4.0}, step)
    assert steps(store, first.run_id, "loss") == list(range(12))
    assert steps(store, first.run_id, "val/noc90") == [4, *range(5, 12)]
    found = MlflowClient(store.uri).get_run(first.run_id or "")
    assert found.data.params == {"optim.lr": "0.001", "train.steps": "99"}
    assert found.data.tags["continued.optim.lr"] == "0.0001"
    assert found.info.status == "FINISHED"
    assert "other values of optim.lr" in capfd.readouterr().out


def test_what_a_killed_process_left_is_sent_by_the_next(store: config.Tracking, tmp_path: Path) -> None:
    out = tmp_path / "run"
    script = f"""
        import os, signal
        from pipeline.config import Tracking
        from pipeline.tracking.run import open_run
        import pipeline.tracking.sender
        pipeline.tracking.sender.GATHER_SECONDS = 60
        run = open_run(Tracking(uri={store.uri!r}, experiment="unit"), kind="train", name="killed",
                       params={{}}, out={str(out)!r})
        print(run.run_id)
        for step in range(60):
            run.metrics({{"loss": step}}, step)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == -9
    run_id = done.stdout.strip()
    assert steps(store, run_id, "loss") == []
    save(out, [{"step": step, "time": 1000 + step, "loss": step} for step in range(50)])  # the last ten were not saved
    (out / "report.md").write_text("left behind")
    with start(store, out) as run:
        run.metrics({"loss": 49.0}, 49)
        run.metrics({"loss": 50.0}, 50)
    assert run.run_id == run_id
    assert steps(store, run_id, "loss") == list(range(51))
    assert files(store, run_id) == {"report.md"}
    times = [m.timestamp for m in MlflowClient(store.uri).get_metric_history(run_id, "loss")]
    assert times[:50] == list(range(1000, 1050)), "those at which they were logged"


def test_an_exception_and_an_interrupt_are_told_apart(store: config.Tracking, tmp_path: Path) -> None:
    ids = []
    for i, error in enumerate((ValueError("x"), KeyboardInterrupt(), SystemExit(1))):
        run = start(store, tmp_path / str(i))
        ids.append(run.run_id)
        with pytest.raises(type(error)), run:
            raise error
    client = MlflowClient(store.uri)
    assert [client.get_run(i or "").info.status for i in ids] == ["FAILED", "KILLED", "KILLED"]


def test_a_refused_record_does_not_hold_up_the_others(
    store: config.Tracking, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.tracking.mlflow_store.clean_name", lambda name: name)
    with start(store, tmp_path / "run") as run:
        run.metrics({"good": 1.0}, 1)
        run.metrics({"bad@name": 1.0}, 2)
        run.metrics({"good": 2.0}, 3)
    assert steps(store, run.run_id, "good") == [1, 3]
    assert "bad@name" in capfd.readouterr().out


def test_a_deleted_run_is_made_again_with_all_that_the_output_holds(store: config.Tracking, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = start(store, out)
    first.metrics({"loss": 1.0}, 0)
    save(out, [{"step": 0, "time": 1, "loss": 1.0}])
    first.close()
    deleted = first.run_id
    MlflowClient(store.uri).delete_run(deleted or "")
    second = start(store, out, params={"optim.lr": 2.0})
    second.metrics({"loss": 1.0}, 1)
    assert second.close()
    assert second.run_id not in (None, deleted)
    found = MlflowClient(store.uri).get_run(second.run_id or "")
    assert found.info.lifecycle_stage == "active" and found.data.params == {"optim.lr": "0.001"}
    assert found.data.tags["continued.optim.lr"] == "2.0"
    assert steps(store, second.run_id, "loss") == [0, 1]


def test_logging_does_not_wait_for_the_store(store: config.Tracking, tmp_path: Path) -> None:
    run = start(store, tmp_path / "run", wait=0.0)
    begin = time.perf_counter()
    for step in range(1000):
        run.metrics({"loss": 1.0, "lr": 1.0}, step)
    assert time.perf_counter() - begin < 5  # a thousand calls of the store take over ten
    assert run.close(timeout=60)


@pytest.mark.slow
def test_processes_that_make_a_store_at_once(tmp_path: Path) -> None:
    """MLflow alone crashes three of four that create a SQLite file at the same time."""
    script = f"""
        import sys
        from pipeline.config import Tracking
        from pipeline.tracking.run import open_run
        run = open_run(Tracking(uri="sqlite:///{tmp_path}/new.db"), kind="tune", name=sys.argv[1], params={{}},
                       out="{tmp_path}/run" + sys.argv[1], wait=100)
        sys.exit(0 if run.run_id and run.close(timeout=100) else 1)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    running = [subprocess.Popen([*command, str(i)], cwd=ROOT) for i in range(3)]
    assert [process.wait(200) for process in running] == [0, 0, 0]


def test_the_output_can_be_sent_later(store: config.Tracking, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run = start(config.Tracking(uri="http://127.0.0.1:9", experiment="unit"), out)
    save(out, [{"step": 1, "time": 5, "loss": 1.0}])
    (out / "report.md").write_text("x")
    assert run.run_id is None
    assert not run.close(timeout=0.5)
    outcome = replay(str(out), store.uri)
    assert (outcome.values, outcome.files, outcome.why) == (1, 1, "")
    identity = read_identity(str(out))
    assert identity and identity.run_id and identity.complete == 1
    found = MlflowClient(store.uri).get_run(identity.run_id)
    assert (found.data.metrics, found.info.status) == ({"loss": 1.0}, "FINISHED")
    assert replay(str(out), store.uri).values == 0


def test_a_value_that_is_sent_twice_is_one(store: config.Tracking, tmp_path: Path) -> None:
    """A request that hung is served after its repetition: the store knows the value by its time."""
    out = tmp_path / "run"
    with start(store, out) as run:
        run.metrics({"loss": 1.0}, 1, 12345)
    client = MlflowClient(store.uri)
    client.log_batch(run.run_id or "", metrics=[Metric("loss", 1.0, 12345, 1)])
    assert steps(store, run.run_id, "loss") == [1]


def test_off_does_nothing(tmp_path: Path) -> None:
    with start(config.Tracking(enabled=False), tmp_path / "run") as run:
        run.metrics({"loss": 1.0}, 1)
        run.file("x.txt")
        run.tags({"a": "b"})
        run.wait(1)
    assert run.run_id is None and run.uri == "" and run.flush() and not (tmp_path / "run").exists()


def test_no_credentials_and_no_overlong_values(store: config.Tracking, tmp_path: Path) -> None:
    secret = {
        "a.uri": "http://me:hunter2@host/x",
        "api_key": "hunter2",
        "long": "x" * 7000,
        "data.train": "s3://b/x?a=1",
    }
    tags = {"signed": "https://h/x?X-Amz-Signature=hunter2&b=1"}
    with start(store, tmp_path / "run", params=secret, tags=tags) as run:
        pass
    found = MlflowClient(store.uri).get_run(run.run_id or "")
    assert found.data.params["a.uri"] == "http://***@host/x"
    assert found.data.params["api_key"] == "***"
    assert found.data.params["data.train"] == "s3://b/x?a=1"
    assert found.data.params["long"].endswith("(cut; 7000 characters)") and len(found.data.params["long"]) == 6000
    assert found.data.tags["signed"] == "https://h/x?X-Amz-Signature=***&b=1"
    assert not [f for f in (tmp_path / "run").rglob("*") if f.is_file() and b"hunter2" in f.read_bytes()]


def test_names_that_mlflow_refuses_are_cleaned() -> None:
    assert clean_name("grabcut/NoC@90 (x)") == "grabcut/NoC_90 _x_"
