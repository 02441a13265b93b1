"""MLflow's side of tracking: the store, finding or creating the run, sending records. Used from a background thread."""

from __future__ import annotations

import logging
import os
import re
import time
from pathlib import Path
from typing import Any

from pipeline.credentials import mask_value
from pipeline.report.spool import Identity, Spool, file_lock

KEY_TAG = "cfr_icl.key"
MAX_TEXT = 6000  # MLflow's limit for a parameter; its limit for a tag is 8000
MAX_METRICS = 1000  # values of one log_batch request
MAX_NAMES = 100  # parameters or tags of one request
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


def sqlite_path(uri: str) -> Path | None:
    """The file of a SQLite tracking URI, None for other stores."""
    return Path(uri.removeprefix("sqlite:///")).absolute() if uri.startswith("sqlite:///") else None


def set_client_environment() -> None:
    """Make MLflow's HTTP client give up soon: with its defaults one call to a dead server blocks for four minutes.

    A user's own values are kept. MLflow reads these variables at each request.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_ENABLE_ASYNC_LOGGING", "false")


def _client(uri: str) -> Any:
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


def _experiment(client: Any, name: str, uri: str) -> str:
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


class OpenRun:
    """A run that exists in a store. Every method may raise what the MLflow client raises (see `translate`)."""

    def __init__(self, uri: str, spool: Spool, reopen: bool = True) -> None:
        """Find or create the run of `spool`.

        Args:
            uri: tracking URI (with credentials, if it needs any).
            spool: its identity is read, and its run id written.
            reopen: set a finished run to RUNNING again.
        """
        self.client = _client(uri)
        with spool.creating():
            identity = spool.identity()
            assert identity is not None, "the spool folder has no run.json"
            run = self._find(identity, uri)
            created = run is None
            if run is None:
                run = self._create(identity, uri)
            with spool.lock():
                identity = spool.identity() or identity
                identity.run_id = run.info.run_id
                spool.save(identity)
        self.run_id: str = run.info.run_id
        self._params: dict[str, str] = dict(run.data.params)
        # The highest step of each key (MLflow's public API gives values only, or whole histories), and for keys that
        # come with lower ones, as after a restart, all steps.
        self._highest: dict[str, int] = {m.key: m.step for m in run.data._metric_objs}
        self._steps: dict[str, set[int]] = {}
        if created:
            self.send_params(identity.params)
            self.send_tags(identity.tags)
        elif reopen and run.info.status != "RUNNING":
            self.client.update_run(self.run_id, status="RUNNING")

    def _find(self, identity: Identity, uri: str) -> Any:
        from mlflow.exceptions import MlflowException

        if identity.run_id:
            try:
                run = self.client.get_run(identity.run_id)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                run = None
            if run is not None and run.info.lifecycle_stage == "active":
                return run
            print(f"tracking: run {identity.run_id} is no longer in the store; a new run is made", flush=True)
        experiment = _experiment(self.client, identity.experiment, uri)
        found = self.client.search_runs([experiment], f"tags.`{KEY_TAG}` = '{identity.key}'", max_results=1)
        return found[0] if found else None

    def _create(self, identity: Identity, uri: str) -> Any:
        experiment = _experiment(self.client, identity.experiment, uri)
        tags = {KEY_TAG: identity.key}
        return self.client.create_run(experiment, tags=tags, run_name=identity.name)

    def send_metrics(self, records: list[dict[str, Any]]) -> None:
        """Send metrics records; steps that the store has already for their key are left out."""
        from mlflow.entities import Metric

        batch: list[Metric] = []
        new: set[tuple[str, int]] = set()
        for record in records:
            for key, value in record["values"].items():
                step = record["step"]
                if step is not None:
                    if (key, step) in new or self._has(key, step):
                        continue
                    new.add((key, step))
                batch.append(Metric(key, value, record["time"], step or 0))
        for start in range(0, len(batch), MAX_METRICS):
            self.client.log_batch(self.run_id, metrics=batch[start : start + MAX_METRICS])
        for key, step in new:
            self._highest[key] = max(step, self._highest.get(key, step))
            if key in self._steps:
                self._steps[key].add(step)

    def _has(self, key: str, step: int) -> bool:
        """Whether the store has a value of `key` at `step`."""
        if step > self._highest.get(key, -1):
            return False
        if key not in self._steps:
            self._steps[key] = {m.step for m in self.client.get_metric_history(self.run_id, key)}
        return step in self._steps[key]

    def send_params(self, values: dict[str, str]) -> list[str]:
        """Send parameters. MLflow never changes one: a new value becomes the tag `continued.NAME`.

        Returns:
            The names whose value differs from the logged one.
        """
        from mlflow.entities import Param

        new = [(k, v) for k, v in values.items() if k not in self._params]
        changed = {k: v for k, v in values.items() if k in self._params and self._params[k] != v}
        for start in range(0, len(new), MAX_NAMES):
            part = new[start : start + MAX_NAMES]
            self.client.log_batch(self.run_id, params=[Param(k, v) for k, v in part])
            self._params.update(part)
        self.send_tags({f"continued.{name}"[:250]: value for name, value in changed.items()})
        return list(changed)

    def send_tags(self, values: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        tags = [RunTag(k, v) for k, v in values.items()]
        for start in range(0, len(tags), MAX_NAMES):
            self.client.log_batch(self.run_id, tags=tags[start : start + MAX_NAMES])

    def send_status(self, status: str, milliseconds: int) -> None:
        self.client.set_terminated(self.run_id, status=status, end_time=milliseconds)

    def send_file(self, path: Path, folder: str) -> None:
        self.client.log_artifact(self.run_id, str(path), artifact_path=folder or None)


def now_ms() -> int:
    return int(time.time() * 1000)
