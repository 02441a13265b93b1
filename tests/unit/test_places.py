"""Which run an output belongs to, on any machine.

A file:// URI is a remote output to us, with everything that an object store has but the network; S3 is there as well.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from pipeline import config, storage
from pipeline.errors import UserError
from pipeline.storage import s3_client
from pipeline.tracking.contents import read_identity
from pipeline.tracking.replay import replay
from pipeline.tracking.run import Run, open_run
from pipeline.train.run_folder import MetricsFile
from tests.faulty_s3 import forget_clients


def start(store: config.Tracking, out: Path | str, **changes: Any) -> Run:
    return open_run(store, kind="train", name="x", params={"lr": 1}, out=str(out), **changes)


def steps(store: config.Tracking, run_id: str | None, key: str) -> list[int]:
    return [m.step for m in MlflowClient(store.uri).get_metric_history(run_id or "", key)]


def runs(store: config.Tracking, key: str) -> list[Any]:
    client = MlflowClient(store.uri)
    experiment = client.get_experiment_by_name("unit")
    assert experiment
    return client.search_runs([experiment.experiment_id], f"tags.`cfr_icl.key` = '{key}'")


def test_the_same_command_on_another_machine(store: config.Tracking, tmp_path: Path) -> None:
    """The server was down on the first machine, and is back for the second: one run, and the second's end counts."""
    folder = tmp_path / "bucket" / "first"
    out = f"file://{folder}"
    away = config.Tracking(uri="http://127.0.0.1:9", experiment="unit")
    first = start(away, out, tags={"host": "a", "only": "a"}, wait=5)
    rows = [{"step": step, "time": step, "loss": 1.0} for step in range(5)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert not first.close("KILLED", timeout=0.1)
    begun = json.loads((folder / "tracking.json").read_text())
    assert (begun["run_id"], begun["status"], begun["uri"]) == (None, "KILLED", away.uri)
    with start(store, out, tags={"host": "b"}) as second:
        for step in range(3, 9):
            second.metrics({"loss": 1.0}, step)
    (found,) = runs(store, begun["key"])
    assert (found.info.run_id, found.info.status) == (second.run_id, "FINISHED")
    assert (found.data.tags["host"], found.data.tags["only"]) == ("b", "a")
    assert found.info.start_time == begun["began"]
    assert steps(store, second.run_id, "loss") == list(range(9))
    held = json.loads((folder / "tracking.json").read_text())
    assert (held["run_id"], held["uri"], held["complete"]) == (second.run_id, store.uri, 8)


def test_an_output_begun_again_is_another_run(store: config.Tracking, tmp_path: Path) -> None:
    keys = set()
    for _ in range(2):
        with start(store, tmp_path / "run") as run:
            run.metrics({"loss": 1.0}, 0)
        held = read_identity(str(tmp_path / "run"))
        assert held and held.run_id == run.run_id
        keys.add(held.key)
        shutil.rmtree(tmp_path / "run")
    assert len(keys) == 2
    for key in keys:
        (found,) = runs(store, key)
        assert steps(store, found.info.run_id, "loss") == [0]


def test_what_cannot_be_written_is_one_message(store: config.Tracking, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    with pytest.raises(UserError, match=r"plain/run/tracking.json cannot be written"):
        start(store, f"file://{tmp_path}/plain/run")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tracking.json").write_text("{}")
    with pytest.raises(UserError, match="does not say which run"):
        start(store, tmp_path / "run")


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket on an S3 server."""
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    for name, value in (
        ("ACCESS_KEY_ID", "key"),
        ("SECRET_ACCESS_KEY", "not-to-be-seen"),
        ("DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    forget_clients()
    s3_client.connect(3).create_bucket(Bucket="tracked")
    yield "s3://tracked"
    forget_clients()


def test_an_output_on_s3(store: config.Tracking, bucket: str) -> None:
    """What was saved while the server was away is there afterwards, and what the continued run logs once more is not
    there twice."""
    out = f"{bucket}/runs/first"
    run = start(config.Tracking(uri="http://127.0.0.1:9", experiment="unit"), out, wait=5)
    metrics = MetricsFile(out, 0)
    for step in range(5):
        run.metrics({"loss": 1.0}, step, metrics.add(step, {"loss": 1.0}))
    metrics.save()
    storage.write_bytes(f"{out}/pictures/samples_00000004.png", b"a picture")
    storage.write_bytes(f"{out}/report.md", b"a report")
    assert not run.close("KILLED", timeout=0.1)
    outcome = replay(out, store.uri)
    assert (outcome.values, outcome.files, outcome.why) == (5, 2, "")
    with start(store, out) as again:
        again.metrics({"loss": 1.0}, 4)
        again.metrics({"loss": 1.0}, 5)
    client = MlflowClient(store.uri)
    assert steps(store, again.run_id, "loss") == list(range(6))
    assert client.get_run(again.run_id or "").info.status == "FINISHED"
    assert client.get_run(again.run_id or "").data.tags["out"] == out
    paths = [f.path for folder in ("", "pictures") for f in client.list_artifacts(again.run_id or "", folder)]
    assert paths == ["pictures", "report.md", "pictures/samples_00000004.png"]
