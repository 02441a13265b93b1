"""Evaluation on Ray: units of work through a pool of inference actors, each leaving its part on storage.

The position of an evaluation is the set of parts that exist: the same command again evaluates what is missing, whether
it ended by itself, was killed or lost machines. Parts become tables at the end, in plan order, each object once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from pipeline import storage
from pipeline.config import Cfr
from pipeline.data.fingerprint import checksum
from pipeline.engine.progress import Progress
from pipeline.evaluate import results
from pipeline.evaluate.exports import write_masks
from pipeline.evaluate.left_out import sentences
from pipeline.evaluate.plan import DataSet, WorkUnit, plan
from pipeline.evaluate.pool import ActorPool, SettingsAt, actors_for, in_rounds, prepared
from pipeline.evaluate.request import CheckedEvaluation, cfr_of, options
from pipeline.storage.json_files import write_json

PARTS = "parts"


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation.

    Attributes:
        summary: as in `summary.json`.
        objects: as in `objects.parquet`.
        parts: URI of the part of every unit, by its name.
    """

    out: str
    summary: dict[str, Any]
    objects: pa.Table
    units: list[WorkUnit]
    parts: dict[str, str]


def evaluate(checked: CheckedEvaluation, about: Callable[[], dict[str, Any]]) -> Evaluation:
    """Carry out an evaluation on the connected cluster; write objects.parquet, rejected.parquet and summary.json;
    with --masks the masks as files too.

    Args:
        checked: see `request.check`.
        about: gives further entries of the summary (environment, command, tracking run) once the work is done.

    Raises:
        UserError: more CPUs or GPUs asked for than the cluster has, too many bad rows, a damaged data set.
    """
    actors = actors_for(checked.config.eval, "Evaluation")
    datasets = prepared(checked)
    units = list(plan(datasets))

    def settings(crop: int) -> dict[int, Cfr]:
        return {i: cfr_of(checked.config, setting, crop) for i, setting in enumerate(checked.settings)}

    pool = ActorPool(checked.config, checked.checkpoint, actors)
    parts = make_parts(pool, units, checked.out, settings, "evaluating")
    objects, rejected = results.merge(results.read_parts(units, parts, range(len(checked.settings))))
    unreadable = [results.unreadable(source) for source in checked.sources if source.layout]
    listed = pa.concat_tables([rejected, *unreadable])
    results.write_table(storage.join(checked.out, "rejected.parquet"), listed)
    for data in datasets:
        results.check_bad(data, rejected, checked.config.eval)
    summary = {
        **_summary(checked, datasets, objects, listed),
        "actors": actors,
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        **about(),
    }
    if checked.config.masks:
        summary["masks"] = write_masks(checked.out, units, parts, checked.sources, checked.settings)
    results.write_table(storage.join(checked.out, "objects.parquet"), objects)
    write_json(storage.join(checked.out, "summary.json"), summary)
    return Evaluation(checked.out, summary, objects, units, parts)


def make_parts(
    pool: ActorPool, units: Sequence[WorkUnit], out: str, settings: SettingsAt, doing: str
) -> dict[str, str]:
    """Make the parts that are missing below an output folder; returns the URI of each unit's part by its name.

    Args:
        pool: not entered yet.
        doing: of the progress.

    Raises:
        One of pool.LOST: some unit killed its actor again and again, or too many actors were lost.
    """
    folder = storage.join(out, PARTS)
    parts = {unit.name: storage.join(folder, f"{unit.name}.parquet") for unit in units}

    def missing() -> list[WorkUnit]:
        done = set(storage.list_files(folder, ".parquet"))
        return [unit for unit in units if parts[unit.name] not in done]

    def run(pending: list[WorkUnit]) -> None:
        total, left = (sum(len(unit.places) for unit in some) for some in (units, pending))
        progress = Progress(doing, total, "objects", done=total - left)
        pool.run(pending, parts, settings, progress, strict=True)
        progress.close()

    with pool:
        in_rounds(missing, run)
    return parts


def _summary(
    checked: CheckedEvaluation, datasets: list[DataSet], objects: pa.Table, rejected: pa.Table
) -> dict[str, Any]:
    config = checked.config
    return {
        "schema_version": 1,
        "checkpoint": checked.checkpoint.to_dict(),
        "options": options(config),
        "data": {
            data.name: {"uri": source.uri, "source": data.source, "images": data.images, "objects": data.objects}
            for data, source in zip(datasets, checked.sources, strict=True)
        },
        "content": {d.name: checksum(d.marks) for d in datasets},
        "left_out": _left_out(checked, datasets, rejected),
        "rejected": {d.name: reasons for d in datasets if (reasons := results.reasons(rejected, d.name))},
        "passes": results.passes(objects),
        "results": [
            results.entry(objects, data, setting, config.eval) for data in datasets for setting in checked.settings
        ],
    }


def _left_out(checked: CheckedEvaluation, datasets: list[DataSet], rejected: pa.Table) -> list[str]:
    """Sentences on what was not evaluated."""
    limit, found = checked.config.limit, []
    for data, source in zip(datasets, checked.sources, strict=True):
        held = replace(data.held, aside={}) if source.layout else data.held  # of a raw folder it is in `rejected`
        found += sentences(data.name, data.uri, held, data.objects, limit, results.reasons(rejected, data.name))
    return found
