"""Addresses of MLflow stores of every kind, and SQLite files whose path holds what URLs use."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from pipeline import config
from pipeline.errors import UserError
from pipeline.tracking.store_uri import checked_uri, resolve_tracking, sqlite_path, sqlite_uri

FOLDERS = [
    "plain",
    "a b",
    "team%2Ffeature",
    "what? now",
    "a#b",
    "100%",
    "quote's",
    "\u00e9\u4e2d",
    "x=y&z",
    "at@host:1",
]


@pytest.mark.parametrize("name", FOLDERS)
def test_the_default_store_lies_in_the_working_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = resolve_tracking(config.Tracking()).uri
    assert make_url(uri).database == str(tmp_path / name / "mlflow.db"), "as SQLAlchemy reads it"
    assert sqlite_path(uri) == tmp_path / name / "mlflow.db"
    assert checked_uri(uri) == uri
    assert checked_uri(f"sqlite:///{tmp_path / name}/mlflow.db") == uri, "a path that was not quoted"
    assert sqlite_uri(tmp_path / name / "mlflow.db") == uri


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("http://host:5000", "http://host:5000"),
        (" http://host:5000/ \n", "http://host:5000"),
        ("HTTPS://user:pw@host/prefix/", "https://user:pw@host/prefix"),
        ("databricks", "databricks"),
        ("databricks://profile", "databricks://profile"),
        ("databricks-uc", "databricks-uc"),
        ("uc:catalog", "uc:catalog"),
        ("SQLite:////a/b.db", "sqlite:////a/b.db"),
    ],
)
def test_kinds_that_are_taken(given: str, taken: str) -> None:
    assert checked_uri(given) == taken


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("./mlruns", "plain folders"),
        ("file:///x", "plain folders"),
        ("localhost:5000", "plain folders"),
        ("htp://host:5000", "Did you mean 'http'"),
        ("sqllite:///x.db", "Did you mean 'sqlite'"),
        ("http://", "no tracking store"),
        ("sqlite:///", "no tracking store"),
        ("postgres://u:secret-password@h/db", "postgresql://"),
        ("postgresql://u:secret-password@h/db", "pip install psycopg2-binary"),
        ("mysql+pymysql://u:secret-password@h/db", "pip install pymysql"),
        ("mssql+pyodbc://u:secret-password@h/db", "pip install pyodbc"),
        ("mysql://u:secret-password@h/db", "pip install mysqlclient"),
        ("s3://bucket/mlruns", "no tracking store"),
    ],
)
def test_what_is_refused(given: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        checked_uri(given)
    assert message in str(caught.value) and "secret-password" not in str(caught.value)


def test_a_folder_is_no_sqlite_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="names a folder"):
        checked_uri(f"sqlite:///{tmp_path}")


def test_the_experiment_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "theirs")
    assert resolve_tracking(config.Tracking(uri="http://h")).experiment == "theirs"
    assert resolve_tracking(config.Tracking(uri="http://h", experiment="mine")).experiment == "mine"


def test_a_token_with_a_line_break_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "mlflow-secret-token\n")
    with pytest.raises(UserError, match="MLFLOW_TRACKING_TOKEN has white space") as caught:
        checked_uri("http://host")
    assert "mlflow-secret" not in str(caught.value)


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


def test_a_working_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir("/proc")  # where root cannot write either
    with pytest.raises(UserError, match=r"working folder cannot be written: give --tracking\.uri"):
        resolve_tracking(config.Tracking(), "s3://bucket/runs")
    found = resolve_tracking(config.Tracking(), str(tmp_path))
    assert found.uri == f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert f"the working folder cannot be written; using {tmp_path / 'mlflow.db'}" in capsys.readouterr().out
