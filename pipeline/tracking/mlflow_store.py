"""MLflow's side of tracking: finding or creating the run, sending records. Used from a background thread."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.redact import mask_uris
from pipeline.tracking.contents import DataInput, Identity, Values
from pipeline.tracking.description import describe_version
from pipeline.tracking.mlflow_client import clean_name, client_of, experiment_of, page

KEY_TAG = "cfr_icl.key"
USER_TAG = "mlflow.user"
MAX_METRICS = 1000  # values of one log_batch request
MAX_NAMES = 100  # parameters or tags of one request


class OpenRun:
    """A run that exists in a store. Every method may raise what the MLflow client raises (see `translate`).

    Attributes:
        created: it was made now.
        values: numbers that were sent.
    """

    def __init__(
        self, uri: str, identity: Identity, reopen: bool = True, still: Callable[[], None] = lambda: None
    ) -> None:
        """Find or create the run.

        Args:
            uri: tracking URI (with credentials, if it needs any).
            identity: its run id is set.
            reopen: set a finished run to RUNNING again.
            still: raises when nobody wants the run any more: an answer that came late must not make it a second time.
        """
        self.client = client_of(uri)
        run = self._find(identity, uri)
        self.created = run is None
        if run is None:
            experiment = experiment_of(self.client, identity.experiment, uri)
            still()
            first = {name: text for name, text in identity.tags.items() if name == USER_TAG}  # taken here or never
            run = self.client.create_run(experiment, identity.began, {KEY_TAG: identity.key, **first}, identity.name)
        elif reopen and run.info.status != "RUNNING":
            still()
            self.client.update_run(run.info.run_id, status="RUNNING")
        self.run_id: str = run.info.run_id
        identity.run_id = self.run_id
        self.values = 0
        self._key, self._experiment_id = identity.key, run.info.experiment_id
        identity.experiment_id = self._experiment_id
        self._tags: dict[str, str] = dict(run.data.tags)
        self._params: set[str] = set(run.data.params)
        # The newest value and the highest step of each key (MLflow's public API gives values only, or whole histories),
        # and for keys that come with lower ones, as after a restart, all steps.
        self._last: dict[str, float] = dict(run.data.metrics)
        self._highest: dict[str, int] = {m.key: m.step for m in run.data._metric_objs}
        self._steps: dict[str, set[int]] = {}

    def is_gone(self) -> bool:
        """Whether the run was deleted since it was opened."""
        return self.client.get_run(self.run_id).info.lifecycle_stage != "active"

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
        found = self._of_key(experiment_of(self.client, identity.experiment, uri), identity.key)
        return min(found, key=lambda run: (not run.data.metrics, run.info.run_id), default=None)

    def _of_key(self, experiment: str, key: str) -> list[Any]:
        """The runs with our key: one, unless the store made one whose answer we no longer waited for."""
        return list(self.client.search_runs([experiment], f"tags.`{KEY_TAG}` = '{key}'", max_results=20))

    def send_metrics(self, records: Sequence[Values]) -> None:
        """Send values; steps that the store has already for their key, and final values that are its newest, are left
        out."""
        from mlflow.entities import Metric

        new: dict[tuple[str, int], Metric] = {}
        for record in records:
            for name, value in record.values.items():
                key, step = clean_name(name), record.step or 0
                if (key, step) not in new and not self._has(key, record.step, value):
                    new[key, step] = Metric(key, float(value), record.time, step)
        batch = [*new.values()]
        for start in range(0, len(batch), MAX_METRICS):
            self.client.log_batch(self.run_id, metrics=batch[start : start + MAX_METRICS])
        self.values += len(batch)
        for metric in batch:
            self._last[metric.key] = metric.value
            self._highest[metric.key] = max(metric.step, self._highest.get(metric.key, metric.step))
            if metric.key in self._steps:
                self._steps[metric.key].add(metric.step)

    def _has(self, key: str, step: int | None, value: float) -> bool:
        """Whether the store has a value of `key` at `step`, or as its final one just this value."""
        if step is None:
            last = self._last.get(key)
            return last is not None and (last == value or (math.isnan(last) and math.isnan(value)))
        if step > self._highest.get(key, -1):
            return False
        if key not in self._steps:
            self._steps[key] = {m.step for m in self.client.get_metric_history(self.run_id, key)}
        return step in self._steps[key]

    def send_params(self, values: Sequence[tuple[str, str]]) -> None:
        """Send parameters that the run does not have; MLflow never changes one."""
        from mlflow.entities import Param

        new = [(name, text) for name, text in values if name not in self._params]
        for start in range(0, len(new), MAX_NAMES):
            part = new[start : start + MAX_NAMES]
            self.client.log_batch(self.run_id, params=[Param(name, text) for name, text in part])
            self._params.update(name for name, _ in part)

    def send_tags(self, values: Sequence[tuple[str, str]]) -> None:
        """Send tags that the run does not have, or with another text."""
        from mlflow.entities import RunTag

        new = [(name, text) for name, text in values if self._tags.get(name) != text]
        for start in range(0, len(new), MAX_NAMES):
            part = new[start : start + MAX_NAMES]
            self.client.log_batch(self.run_id, tags=[RunTag(name, text) for name, text in part])
            self._tags.update(part)

    def send_inputs(self, inputs: Sequence[DataInput]) -> None:
        """Send data sets; the store keeps one of the same name and digest once."""
        from mlflow.entities import Dataset, DatasetInput, InputTag
        from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

        found = []
        for one in inputs:
            kind, separator, _ = one.uri.partition("://")
            profile = json.dumps({"rows": one.rows, "objects": one.objects})
            source = json.dumps({"uri": one.uri})
            held = Dataset(one.name, one.digest, kind if separator else "local", source, None, profile)
            found.append(DatasetInput(held, [InputTag(MLFLOW_DATASET_CONTEXT, one.context)]))
        self.client.log_inputs(self.run_id, datasets=found)

    def page_of(self, run_id: str) -> str:
        """Address of the page of another run, from the page of this one; "" when the store does not have it."""
        from mlflow.exceptions import MlflowException

        try:
            return page(self.client.get_run(run_id).info.experiment_id, run_id)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return ""
            raise

    def tag_models_of(self, run_id: str, tags: dict[str, str]) -> None:
        """Tag the versions of registered models that a training run made."""
        for version in self.client.search_model_versions(f"run_id='{run_id}'"):
            for name, text in tags.items():
                if version.tags.get(name) != text:
                    self.client.set_model_version_tag(version.name, version.version, name, text)

    def send_status(self, status: str, milliseconds: int) -> None:
        self._remove_twins()
        self.client.set_terminated(self.run_id, status=status, end_time=milliseconds)

    def _remove_twins(self) -> None:
        """Delete empty runs with our key: a slow store may make a run long after we gave up waiting and asked again."""
        from mlflow.exceptions import MlflowException

        for twin in self._of_key(self._experiment_id, self._key):
            if twin.info.run_id != self.run_id and not twin.data.metrics:
                try:
                    self.client.delete_run(twin.info.run_id)
                except MlflowException as error:  # the store may not let us: no reason to leave this run open
                    print(f"tracking: cannot delete the empty run {twin.info.run_id}: {mask_uris(str(error))[:200]}")

    def register(self, name: str, folder: str, tags: dict[str, str]) -> str:
        """Make the run's model in `folder` a version of a registered model; the version's number, also if it is one."""
        from mlflow.exceptions import MlflowException

        for known in self.client.search_model_versions(f"run_id='{self.run_id}'"):
            if known.name == name and known.source.endswith(folder):
                return str(known.version)
        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{self.client.get_run(self.run_id).info.artifact_uri}/{folder}"
        version = str(self.client.create_model_version(name, source, run_id=self.run_id, tags=tags).version)
        self.client.update_model_version(name, version, describe_version(name, version, tags))
        return version

    def files_beside(self, names: Sequence[str]) -> set[str]:
        """Names of the files that the run has in the folders of some."""
        folders = {str(PurePosixPath(name).parent) for name in names}
        return {file.path for folder in folders for file in self.client.list_artifacts(self.run_id, folder)}

    def send_file(self, name: str, data: bytes) -> None:
        """Send a file; credentials in JSON are masked."""
        parts = PurePosixPath(name)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, parts.name)
            path.write_bytes(mask_uris(data.decode()).encode() if parts.suffix == ".json" else data)
            self.client.log_artifact(
                self.run_id, str(path), None if parts.parent == PurePosixPath() else str(parts.parent)
            )
