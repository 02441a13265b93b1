"""MLflow's client as we use it: stores and experiments, names and texts that it takes, what its errors mean."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.redact import check_secrets, mask_value
from pipeline.tracking.store_uri import sqlite_path

MAX_TEXT = 6000  # MLflow's limit for a parameter; its limit for a tag is 8000
_BAD_NAME = re.compile(r"[^/\w.\- :]")
_REFUSALS = {
    "INVALID_PARAMETER_VALUE",
    "BAD_REQUEST",
    "MALFORMED_REQUEST",
    "INVALID_STATE",
    "ENDPOINT_NOT_FOUND",
    "NOT_IMPLEMENTED",
    "RESOURCE_ALREADY_EXISTS",
}


class Refused(Exception):
    """The store understood and will never take this record; sending it again is no use."""


class RunMissing(Exception):
    """The store answers but no longer has the run."""


def clean_name(name: str) -> str:
    """A metric, parameter or tag name with characters that MLflow refuses (such as the @ of NoC@90) replaced by _."""
    return _BAD_NAME.sub("_", name)[:250]


def text_of(name: str, value: Any) -> str:
    """A parameter or tag as MLflow takes it: no credentials, at most `MAX_TEXT` characters with a note when cut."""
    text = mask_value(name, value)
    if len(text) <= MAX_TEXT:
        return text
    note = f" ... (cut; {len(text)} characters)"
    return text[: MAX_TEXT - len(note)] + note


def set_client_environment() -> None:
    """Make MLflow's HTTP client give up soon: with its defaults one call to a dead server blocks for four minutes.

    No retries of its own, because our thread tries again anyway, and looks first whether a run that it asked for was
    made though the answer came too late; the client would just ask for another. A user's own values are kept. MLflow
    reads these variables at each request.
    """
    check_secrets("MLFLOW_", "DATABRICKS_")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_ENABLE_ASYNC_LOGGING", "false")


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path` (made when absent, and never removed), waiting for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def client_of(uri: str) -> Any:
    from mlflow import MlflowClient

    # Migrations and retries: we say what matters, once. After the import, which sets levels of its own.
    for name in ("mlflow", "mlflow.store.db.utils", "alembic", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.ERROR)
    path = sqlite_path(uri)
    if path is None:
        return MlflowClient(uri)
    # The first client of a SQLite file creates its tables, and two that do so at once crash each other.
    with file_lock(path.with_name(path.name + "-lock")):
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
    return client


def experiment_of(client: Any, name: str, uri: str) -> str:
    from mlflow.exceptions import MlflowException

    path = sqlite_path(uri)
    location = None if path is None else (path.parent / "mlartifacts" / clean_name(name).replace("/", "_")).as_uri()
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=location)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        found = client.get_experiment_by_name(name)  # somebody was quicker
    if found.lifecycle_stage == "deleted":
        print(f"tracking: experiment {name!r} had been deleted; it is restored to hold this run", flush=True)
        client.restore_experiment(found.experiment_id)
    return found.experiment_id


def translate(error: Exception) -> Exception:
    """`Refused` or `RunMissing` for errors that retrying does not mend, else the error itself."""
    from mlflow.exceptions import MlflowException
    from requests import HTTPError

    if isinstance(error, HTTPError):  # from artifact stores
        status = error.response.status_code if error.response is not None else 0
        return Refused(str(error)) if status in (400, 404, 405, 413) else error
    if isinstance(error, MlflowException):
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return RunMissing(str(error))
        if error.error_code in _REFUSALS:
            return Refused(str(error))
    return error


def page(experiment_id: str, run_id: str) -> str:
    """The page of a run below the address of MLflow's pages. Without its ending MLflow opens on its pages for GenAI."""
    return f"#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"


def now_ms() -> int:
    return int(time.time() * 1000)
