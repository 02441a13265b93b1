"""Evaluation on Ray: plan items through a pool of inference actors, each leaving its part on storage.

The position of an evaluation is the set of parts that exist: the same command again evaluates what is missing, whether
it ended by itself, was killed or lost machines. Parts become tables at the end, in plan order, each object once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from pipeline import storage
from pipeline.data.fingerprint import checksum
from pipeline.engine.progress import Progress
from pipeline.evaluate import results
from pipeline.evaluate.item import evaluate_item
from pipeline.evaluate.left_out import sentences
from pipeline.evaluate.plan import DataSet, Item, plan
from pipeline.evaluate.pool import InferenceActor, actors_for, in_rounds, prepared, through_actors
from pipeline.evaluate.request import Checked, Request, options

PARTS = "parts"


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
    actors = actors_for(checked.request.rules, "Evaluation")
    datasets = prepared(checked)
    items = list(plan(datasets, checked.settings, checked.request.batch_size))
    parts = {item.name: storage.join(checked.out, PARTS, f"{item.name}.parquet") for item in items}

    def missing() -> list[Item]:
        done = set(storage.list_files(storage.join(checked.out, PARTS), ".parquet"))
        return [item for item in items if parts[item.name] not in done]

    in_rounds(missing, lambda pending: _run(checked, items, pending, actors, parts))
    objects, rejected = results.merge(items, parts)
    unreadable = [results.unreadable(source) for source in checked.sources if source.layout]
    listed = pa.concat_tables([rejected, *unreadable])
    results.write_table(storage.join(checked.out, "rejected.parquet"), listed)
    for data in datasets:
        results.check_bad(data, rejected, checked.request.rules)
    summary = {
        **_summary(checked, datasets, objects, listed),
        "actors": actors,
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        **about,
    }
    results.write_table(storage.join(checked.out, "objects.parquet"), objects)
    storage.write_bytes(storage.join(checked.out, "summary.json"), json.dumps(summary, indent=1).encode())
    return Evaluation(checked.out, summary, objects, items, parts)


def _run(checked: Checked, items: list[Item], pending: list[Item], actors: int, parts: dict[str, str]) -> None:
    """Evaluate the pending items."""
    todo = [{"item": json.dumps(item.to_dict()), "part": parts[item.name]} for item in pending]
    total = sum(len(item.places) for item in items)
    left = sum(len(item.places) for item in pending)
    progress = Progress("evaluating", total, "objects", done=total - left)
    through_actors(Evaluator, [checked.request], todo, checked, actors, progress)
    progress.close()


class Evaluator(InferenceActor):
    """Evaluates one plan item at a call and writes its part."""

    def __init__(self, uri: str, sha256: str, gpu: bool, actors_on_node: int, signs: Any, request: Request) -> None:
        super().__init__(uri, sha256, gpu, actors_on_node, signs)
        self.request = request

    def work(self, work: dict[str, Any]) -> dict[str, Any]:
        """One plan item: {"item": JSON, "part": URI} to {"name": ..., "objects": number}."""
        item = Item.from_dict(json.loads(work["item"]))
        outcomes = evaluate_item(self.model, item, self.rows(item), self.request, self.device, self.threads)
        results.write_table(work["part"], results.part_table(item, outcomes))
        return {"name": f"{item.dataset} {item.setting.label}", "objects": len(item.places)}


def _summary(checked: Checked, datasets: list[DataSet], objects: pa.Table, rejected: pa.Table) -> dict[str, Any]:
    request = checked.request
    return {
        "schema_version": 1,
        "checkpoint": checked.checkpoint.to_dict(),
        "options": options(request),
        "data": {d.name: {"uri": s.uri, "source": d.source} for d, s in zip(datasets, checked.sources, strict=True)},
        "content": {d.name: checksum(d.marks) for d in datasets},
        "left_out": _left_out(checked, datasets, rejected),
        "rejected": {d.name: reasons for d in datasets if (reasons := results.reasons(rejected, d.name))},
        "results": [
            results.figures(objects, data, setting, request.rules) for data in datasets for setting in checked.settings
        ],
    }


def _left_out(checked: Checked, datasets: list[DataSet], rejected: pa.Table) -> list[str]:
    """Sentences on what was not evaluated."""
    limit, found = checked.request.limit, []
    for data, source in zip(datasets, checked.sources, strict=True):
        held = replace(data.held, aside={}) if source.layout else data.held  # of a raw folder it is in `rejected`
        found += sentences(data.name, data.uri, held, data.objects, limit, results.reasons(rejected, data.name))
    return found
