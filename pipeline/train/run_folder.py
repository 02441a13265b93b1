"""The output folder of a training run: begun, continued or refused; metrics and pictures besides checkpoints."""

from __future__ import annotations

import json
import threading
from typing import Any

from pipeline import config, config_io, storage
from pipeline.errors import UserError

CONFIG, METRICS = "config.json", "metrics.jsonl"

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


def open_folder(run: config.TrainConfig, also: str = "") -> bool:
    """Write the resolved config into a new folder, or check that the folder holds this very run.

    Args:
        also: name of a file that a new folder may hold.

    Returns:
        Whether the run had been begun before.

    Raises:
        UserError: the folder holds something else, or the run with other options.
    """
    uri = storage.join(run.out, CONFIG)
    begun = storage.exists(uri)
    if begun:
        try:
            before = config_io.flatten(config_io.from_dict(config.TrainConfig, json.loads(storage.read_bytes(uri))))
        except ValueError as error:
            raise UserError(f"{uri} is not the config of a training run: {error}. Choose another --out.") from error
        now = config_io.flatten(config_io.from_dict(config.TrainConfig, config_io.masked(run)))  # as it was written
        changed = [n for n in now if before[n] != now[n] and not n.startswith(FREE)]
        if changed:
            lines = "; ".join(f"{n} was {before[n]!r}, now {now[n]!r}" for n in changed)
            raise UserError(f"{run.out} holds a run with other options: {lines}. Choose another --out.")
    elif storage.exists(run.out) and [f for f in storage.list_files(run.out) if f != storage.join(run.out, also)]:
        raise UserError(f"{run.out} holds something else than a training run. Choose an empty --out.")
    storage.write_bytes(uri, json.dumps(config_io.masked(run), indent=1).encode())
    return begun


class MetricsFile:
    """`metrics.jsonl`: one {"step": ..., name: value} per line, rewritten whole at each `save`.

    A continued run drops the lines after the step it continues from: those steps are done again.
    """

    def __init__(self, out: str, first_step: int) -> None:
        self.uri = storage.join(out, METRICS)
        self._lock = threading.Lock()
        self.lines: list[dict[str, Any]] = []
        if storage.exists(self.uri):
            rows = [json.loads(line) for line in storage.read_bytes(self.uri).decode().splitlines()]
            self.lines = [row for row in rows if row["step"] <= first_step]

    def add(self, step: int, values: dict[str, float]) -> None:
        """Values of a step; those of a step that was redone after the loss of a worker replace the old ones."""
        with self._lock:
            self.lines = [row for row in self.lines if row["step"] <= step]
            last = self.lines[-1] if self.lines and self.lines[-1]["step"] == step else None
            if last is None:
                self.lines.append({"step": step, **values})
            else:
                last.update(values)

    def save(self) -> None:
        with self._lock:
            text = "".join(json.dumps(row) + "\n" for row in self.lines)
        storage.write_bytes(self.uri, text.encode())
