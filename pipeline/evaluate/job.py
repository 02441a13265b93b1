"""Evaluation as a Ray Data job: plan items through a pool of inference actors, each leaving its part on storage.

The position of an evaluation is the set of parts that exist: the same command again evaluates what is missing, whether
it ended by itself, was killed or lost machines. Parts become tables at the end, in plan order, each object once.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
import torch
from ray.exceptions import NodeDiedError, ObjectLostError, RayActorError, WorkerCrashedError

from pipeline import runtime, storage
from pipeline.config_io import to_dict
from pipeline.data.manifest import read_group
from pipeline.data.readers import open_reader
from pipeline.data.schema import Row
from pipeline.data.shards import write_shards
from pipeline.errors import UserError
from pipeline.evaluate import results
from pipeline.evaluate.item import evaluate_item
from pipeline.evaluate.plan import DataSet, Item, open_dataset, plan
from pipeline.evaluate.request import SPLIT, Checked, Request, Source, options
from pipeline.model.checkpoints import load_model

PARTS = "parts"
# Ray's default is for ever, for both:
RETRIES = 2  # a plan item that kills its actor is tried three times, then the round fails
ROUNDS = 3  # rounds without a single new part, after which the job fails
RESTARTS = 10  # an actor may be lost with its machine some times, but one that cannot start must end the job


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation.

    Attributes:
        summary: as in `summary.json`.
        objects: as in `objects.parquet`.
        parts: URI of the part of every plan item, by item name.
    """

    out: str
    summary: dict[str, Any]
    objects: pa.Table
    items: list[Item]
    parts: dict[str, str]


def evaluate(checked: Checked, about: dict[str, Any]) -> Evaluation:
    """Carry out a request on the connected cluster; write objects.parquet, rejected.parquet and summary.json.

    Args:
        checked: see `request.check`.
        about: further entries of the summary (environment, command, tracking run).

    Raises:
        UserError: more CPUs or GPUs asked for than the cluster has, too many bad rows, a damaged data set.
    """
    actors = _actors(checked.request)
    runtime.check_everywhere([checked.checkpoint.uri, *(source.uri for source in checked.sources)], checked.out)
    datasets = [_prepared(source, checked.request) for source in checked.sources]
    items = list(plan(datasets, checked.settings, checked.request.batch_size))
    parts = {item.name: storage.join(checked.out, PARTS, f"{item.name}.parquet") for item in items}
    _evaluate_missing(checked, items, actors, parts)
    objects, rejected = results.merge(items, parts)
    unreadable = [results.unreadable(source) for source in checked.sources if source.layout]
    listed = pa.concat_tables([rejected, *unreadable])
    results.write_table(storage.join(checked.out, "rejected.parquet"), listed)
    for data in datasets:
        _check_bad(data, results.reasons(rejected, data.name), checked.request)
    summary = {
        **_summary(checked, datasets, objects, listed),
        "actors": actors,
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        **about,
    }
    results.write_table(storage.join(checked.out, "objects.parquet"), objects)
    storage.write_bytes(storage.join(checked.out, "summary.json"), json.dumps(summary, indent=1).encode())
    return Evaluation(checked.out, summary, objects, items, parts)


def _actors(request: Request) -> int:
    """The number of actors, once it is certain that the cluster can hold them."""
    rules = request.rules
    free = ray.available_resources()
    wanted = rules.actors or (int(free.get("GPU", 0)) if rules.gpu else int(free.get("CPU", 0)) // 2) or 1
    runtime.require(wanted, wanted if rules.gpu else 0, f"Evaluation with {wanted} actors")
    return wanted


def _prepared(source: Source, request: Request) -> DataSet:
    """List the objects of a data set; a raw folder is first converted to shards below the output folder (once)."""
    if source.layout:
        split = SPLIT.get(source.layout, "")
        reader = open_reader(source.layout, source.uri, split)
        write_shards(reader, source.shards, split, name=source.name, max_bad_fraction=request.rules.max_bad_fraction)
    return open_dataset(source.name, source.shards, source.crop, request.limit)


def _evaluate_missing(checked: Checked, items: list[Item], actors: int, parts: dict[str, str]) -> None:
    """Evaluate the items that have no part yet, in rounds.

    The engine's own retries are few, as it cannot tell an item that kills its actor from a machine that goes away: when
    machines are lost one after the other a round may fail. The next one does what is missing then, and only rounds that
    leave nothing new count as failed.
    """
    without_progress = 0
    missing = _missing(checked, items, parts)
    while missing:
        try:
            _run(checked, items, missing, min(actors, len(missing)), parts)
        except (RayActorError, WorkerCrashedError, NodeDiedError, ObjectLostError) as error:
            before, missing = len(missing), _missing(checked, items, parts)
            without_progress = without_progress + 1 if len(missing) == before else 0
            if without_progress == ROUNDS:
                raise
            print(f"evaluating: lost a machine or a process ({type(error).__name__}), the rest goes on", flush=True)
        else:
            return


def _missing(checked: Checked, items: list[Item], parts: dict[str, str]) -> list[Item]:
    done = set(storage.list_files(storage.join(checked.out, PARTS), ".parquet"))
    return [item for item in items if parts[item.name] not in done]


def _run(checked: Checked, items: list[Item], pending: list[Item], actors: int, parts: dict[str, str]) -> None:
    """Evaluate the pending items."""
    request = checked.request
    nodes = max(1, sum(node["Alive"] for node in ray.nodes()))
    todo = [{"item": json.dumps(item.to_dict()), "part": parts[item.name]} for item in pending]
    dataset = ray.data.from_items(todo, override_num_blocks=len(todo))
    context = dataset.context
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True
    with warnings.catch_warnings():
        # Ray 2.60 deprecates passing remote arguments by keyword, but has no other way for these two.
        warnings.filterwarnings("ignore", "`ray_remote_args`")
        finished = dataset.map_batches(
            Evaluator,
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=actors),
            fn_constructor_args=(checked.checkpoint.uri, checked.checkpoint.sha256, request, math.ceil(actors / nodes)),
            num_cpus=1,
            num_gpus=1 if request.rules.gpu else 0,
            max_restarts=RESTARTS,
            max_task_retries=RETRIES,
        )
    total = sum(len(item.places) for item in items)
    left = sum(len(item.places) for item in pending)
    progress = runtime.Progress("evaluating", total, "objects", done=total - left)
    for row in finished.iter_rows():
        progress.update(int(row["objects"]), row["name"])
    progress.close()


class Evaluator:
    """An inference actor: holds the model, evaluates one plan item at a call and writes its part."""

    def __init__(self, uri: str, sha256: str, request: Request, actors_on_node: int) -> None:
        self.device = "cuda" if request.rules.gpu else "cpu"
        self.threads = max(1, len(os.sched_getaffinity(0)) // actors_on_node)
        torch.set_num_threads(self.threads)
        self.model, info = load_model(uri, self.device)
        if info.sha256 != sha256:
            raise UserError(f"{uri} was changed while it was being evaluated.")
        self.request = request
        self.group: tuple[tuple[str, str, int], list[Row]] | None = None

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """One plan item: {"item": [JSON], "part": [URI]} to {"name": [...], "objects": [number]}."""
        item = Item.from_dict(json.loads(batch["item"][0]))
        print(f"evaluating {item.name}", flush=True)  # the worker's log then names an item that kills its actor
        outcomes = evaluate_item(self.model, item, self._rows(item), self.request, self.device, self.threads)
        results.write_table(str(batch["part"][0]), results.part_table(item, outcomes))
        return {"name": [item.name], "objects": [len(item.places)]}

    def _rows(self, item: Item) -> list[Row]:
        """The item's row group; items of one group follow one another, so the last one is kept."""
        key = (item.uri, item.shard, item.group)
        if self.group is None or self.group[0] != key:
            self.group = (key, read_group(item.uri, item.shard, item.group))
        return self.group[1]


def _check_bad(data: DataSet, reasons: dict[str, int], request: Request) -> None:
    bad = sum(reasons.values())
    if bad > request.rules.max_bad_fraction * data.objects:
        raise UserError(
            f"{bad} of {data.objects} objects of {data.name} cannot be used "
            f"({', '.join(f'{reason}: {n}' for reason, n in reasons.items())}); they are listed in rejected.parquet. "
            f"Mend them, or allow more with --max-bad-fraction."
        )


def _summary(checked: Checked, datasets: list[DataSet], objects: pa.Table, rejected: pa.Table) -> dict[str, Any]:
    info, request = checked.checkpoint, checked.request
    return {
        "schema_version": 1,
        "checkpoint": {
            "uri": info.uri,
            "format": info.format,
            "sha256": info.sha256,
            "step": info.step,
            "recipe": info.config.recipe if info.config else None,
            "mlflow_run": info.mlflow_run,
            "model": to_dict(info.model),
        },
        "options": options(request),
        "data": {d.name: {"uri": s.uri, "source": d.source} for d, s in zip(datasets, checked.sources, strict=True)},
        "rejected": {d.name: reasons for d in datasets if (reasons := results.reasons(rejected, d.name))},
        "results": [
            results.figures(objects, data, setting, request.rules) for data in datasets for setting in checked.settings
        ],
    }
