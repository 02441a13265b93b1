"""The output folder of a training run: begun, continued or refused; metrics and pictures besides checkpoints."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from typing import Any

from pipeline import config, storage
from pipeline.config import io as config_io
from pipeline.config.options import load_json
from pipeline.data import fingerprint
from pipeline.data.fingerprint import Marks
from pipeline.data.manifest import load_manifest
from pipeline.engine.lease import other_names
from pipeline.errors import UserError
from pipeline.model.checkpoints import CHECKPOINTS, MODEL, STATE, find_checkpoint, read_state, writers_in
from pipeline.model.tensor_files import file_name
from pipeline.storage.json_files import write_json

CONFIG, METRICS, PICTURES = "config.json", "metrics.jsonl", "pictures"

# What may change between two starts of one run: where it runs, how often it looks up, when it ends.
FREE = (
    "out",
    "data.train",
    "data.val",
    "data.workers",
    "model.activation_checkpointing",
    "train.epochs",
    "train.steps",
    "train.workers",
    "train.min_workers",
    "train.parallel",
    "train.gpu",
    "train.device",
    "eval.device",
    "train.cpus_per_worker",
    "train.threads",
    "train.log_every",
    "train.val_every",
    "train.val_objects",
    "train.checkpoint_every",
    "train.keep",
    "train.max_failures",
    "train.wait_for_workers",
    "train.hang_seconds",
    "eval.hang_seconds",
    "train.explode_factor",
    "tracking.",
)


def open_folder(run: config.TrainConfig, inputs: Mapping[str, Marks] | None = None) -> bool:
    """Write the resolved config into a new folder, or check that the folder holds this very run.

    Args:
        inputs: what the run is made from (`inputs_of`).

    Returns:
        Whether the run had been begun before.

    Raises:
        UserError: the folder holds something else, or the run with other options or of other inputs.
    """
    uri = storage.join(run.out, CONFIG)
    begun = storage.exists(uri)
    if begun:
        try:
            before = config_io.flatten(config_io.from_dict(config.TrainConfig, load_json(storage.read_bytes(uri))))
        except ValueError as error:
            raise UserError(f"{uri} is not the config of a training run: {error}. Choose another --out.") from error
        now = config_io.flat_masked(run)
        changed = [n for n in now if before[n] != now[n] and not n.startswith(FREE)]
        if changed:
            lines = "; ".join(f"{n} was {before[n]!r}, now {now[n]!r}" for n in changed)
            raise UserError(f"{run.out} holds a run with other options: {lines}. Choose another --out.")
    elif storage.exists(run.out) and other_names(storage.list_files(run.out)):
        raise UserError(f"{run.out} holds something else than a training run. Choose an empty --out.")
    fingerprint.require_same(run.out, inputs or {})
    write_json(uri, config_io.masked(run))
    fingerprint.note(run.out, inputs or {})
    return begun


def inputs_of(run: config.TrainConfig) -> dict[str, Marks]:
    """Marks of what a run is made from: its data, and the weights that it starts from.

    A validation set that is added later is noted then. A start that is not there any more is not needed any more.

    Raises:
        UserError: no prepared data, or a start that is no checkpoint.
    """
    data = {f"data.{name}": uri for name, uri in (("train", run.data.train), ("val", run.data.val)) if uri}
    found = {name: fingerprint.of_shards(load_manifest(uri)) for name, uri in data.items()}
    start = run.model.start_uri
    if start and storage.exists(start):
        found["model.start"] = _start_marks(run, start)
    return found


def _start_marks(run: config.TrainConfig, start: str) -> Marks:
    """Marks of a start: of the folder of another run those of the checkpoint that this run took, while it is there."""
    if not storage.is_folder(start):
        return {start.rsplit("/", 1)[-1]: fingerprint.checksum(storage.read_bytes(start))}
    taken = fingerprint.noted(run.out).get("model.start", {})
    if taken and storage.exists(storage.join(run.out, CHECKPOINTS)):
        name = next(iter(taken)).partition("/")[0]
        found = [uri for uri in (start, storage.join(start, CHECKPOINTS, name)) if uri.rsplit("/", 1)[1] == name]
        found = [uri for uri in found if storage.exists(storage.join(uri, STATE))]
        if not found:
            return taken
        return _checkpoint_marks(found[0])
    return _checkpoint_marks(find_checkpoint(start))


def _checkpoint_marks(uri: str) -> Marks:
    name, state = uri.rsplit("/", 1)[1], read_state(uri)
    files = [file_name(MODEL, index, writers_in(state)) for index in range(writers_in(state))]
    contents = {file: fingerprint.checksum(storage.read_bytes(storage.join(uri, file))) for file in files}
    return {f"{name}/{file}": mark for file, mark in contents.items()}


class MetricsFile:
    """`metrics.jsonl`: one {"step": ..., "time": ..., name: value} per line, rewritten whole at each `save`.

    "time", when the step was told, is in milliseconds since 1970.

    A continued run drops the lines after the step it continues from: those steps are done again.
    """

    def __init__(self, out: str, first_step: int) -> None:
        self.uri = storage.join(out, METRICS)
        self._lock = threading.Lock()
        self.lines: list[dict[str, Any]] = []
        if storage.exists(self.uri):
            rows = [json.loads(line) for line in storage.read_bytes(self.uri).decode().splitlines()]
            self.lines = [row for row in rows if row["step"] <= first_step]

    def add(self, step: int, values: dict[str, float]) -> int:
        """Values of a step; those of a step that was redone after the loss of a worker replace the old ones.

        Returns:
            The step's "time".
        """
        with self._lock:
            self.lines = [row for row in self.lines if row["step"] <= step]
            if not self.lines or self.lines[-1]["step"] < step:
                self.lines.append({"step": step, "time": int(time.time() * 1000)})
            self.lines[-1].update(values)
            return self.lines[-1]["time"]

    def save(self) -> None:
        with self._lock:
            text = "".join(json.dumps(row) + "\n" for row in self.lines)
        storage.write_bytes(self.uri, text.encode())
