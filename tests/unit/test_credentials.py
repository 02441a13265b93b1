"""No credential of the user reaches a file of a run, the terminal or MLflow."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from jobs.training_log import TrainingLog
from pipeline import config
from pipeline.config import io as config_io
from pipeline.errors import UserError
from pipeline.redact import mask_all, mask_credentials, mask_uris, mask_value
from pipeline.stream.order import Position
from pipeline.tracking.run import open_run
from pipeline.train.optim import build_optimizer
from pipeline.train.run_folder import open_folder
from pipeline.train.state import TrainState
from tests.made import save_checkpoint, small_config, small_model

SECRET = "wJalrXUtn/hunter2"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("http://u:p@h:5000/", "http://***@h:5000/"),
        ("http://u:p@ss@h/a@b", "http://***@h/a@b"),
        (f"s3://AKIA:{SECRET}@bucket/x", "s3://***@bucket/x"),
        ("postgresql://me:pw@db:5432/mlflow", "postgresql://***@db:5432/mlflow"),
        ("https://h/x?token=abc&b=1", "https://h/x?token=***&b=1"),
        ("https://h/x?X-Amz-Signature=abc", "https://h/x?X-Amz-Signature=***"),
        ('{"a": "http://h:5000/x", "b": "me@h"}', '{"a": "http://h:5000/x", "b": "me@h"}'),
        ("http://h:5000/#/runs@1 sqlite:////a@b.db", "http://h:5000/#/runs@1 sqlite:////a@b.db"),
        ("s3://bucket/key --model.patch 16", "s3://bucket/key --model.patch 16"),
        ("the token file is missing", "the token file is missing"),
    ],
)
def test_uris(given: str, shown: str) -> None:
    assert mask_uris(given) == shown


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("x --tracking.uri http://u:p@h:5000/", "x --tracking.uri http://***@h:5000/"),
        ("x --aws-secret-access-key AbC --lr 1", "x --aws-secret-access-key *** --lr 1"),
        ("x API_TOKEN=AbC y", "x API_TOKEN=*** y"),
        ("x --data s3://bucket/key --model.patch 16", "x --data s3://bucket/key --model.patch 16"),
    ],
)
def test_command_lines(given: str, shown: str) -> None:
    assert mask_credentials(given) == shown


def test_the_values_of_secret_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "test")  # too short to be one
    told = {"a": [f"SignatureDoesNotMatch: {SECRET}", 1, None], "b": "a test"}
    assert mask_all(told) == {"a": ["SignatureDoesNotMatch: ***", 1, None], "b": "a test"}
    assert mask_value("x", f"({SECRET})") == "(***)" and mask_value("api_key", "x") == "***"


def test_a_training_run(
    store: config.Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What the job writes into the output folder and to MLflow; the continued run is still the same run."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    away = f"http://me:{SECRET.replace('/', '')}@127.0.0.1:9"
    start, out = f"s3://AKIA:{SECRET}@bucket/mae.pth", str(tmp_path / "run")
    run = config_io.replace(small_config(), **{"out": out, "model.start": start, "tracking.uri": away})
    assert not open_folder(run)
    assert open_folder(run)
    with pytest.raises(UserError, match=r"model\.start was 's3://\*\*\*@bucket/mae.pth', now ''"):
        open_folder(config_io.replace(run, **{"model.start": ""}))
    model = small_model()
    state = TrainState(model, build_optimizer(model, run.optim, run.model.depth), 0, Position(0, 0, 1))
    save_checkpoint(state, run, keep=1)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["tracking"]["uri"] == "http://***@127.0.0.1:9"
    with TrainingLog(run, 0) as log:
        assert not log.tracked.close("FAILED", timeout=0.1)
    with TrainingLog(dataclasses.replace(run, tracking=store), 0) as again:
        assert again.run_id
    client = MlflowClient(store.uri)
    found = client.get_run(again.run_id)
    assert found.data.params["model.start"] == "s3://***@bucket/mae.pth"
    client.download_artifacts(again.run_id, "", str(tmp_path))
    assert (tmp_path / "config.json").exists()
    said = capfd.readouterr()
    seen = [said.out, said.err, str(found.to_dictionary())]
    seen += [f.read_bytes().decode(errors="replace") for f in tmp_path.rglob("*") if f.is_file()]
    for text in seen:
        assert "hunter2" not in text and "wJalr" not in text


def test_what_a_store_says_when_it_refuses(
    store: config.Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

    def refuse(*_: object, **__: object) -> None:
        raise MlflowException("no: http://me:hunter2@host/api", INVALID_PARAMETER_VALUE)

    run = open_run(store, kind="train", name="x", params={}, out=str(tmp_path / "run"))
    assert run.flush()
    monkeypatch.setattr(MlflowClient, "log_artifact", refuse)
    monkeypatch.setattr(MlflowClient, "log_batch", refuse)
    run.metrics({"a": 1.0}, 1)
    (tmp_path / "run" / "report.md").write_text("x")
    assert run.close()
    said = capfd.readouterr().out
    assert said.count("http://***@host/api") == 2 and "hunter2" not in said
