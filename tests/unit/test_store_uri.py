"""Addresses of MLflow stores of every kind, and SQLite files whose path holds what URLs use."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from pipeline import config
from pipeline.errors import UserError
from pipeline.tracking.run import resolve_tracking
from pipeline.tracking.store_uri import checked_uri, sqlite_path, sqlite_uri

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
