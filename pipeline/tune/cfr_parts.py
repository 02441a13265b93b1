"""Tables of a cfr sweep: what a chunk of objects gave under a generation's settings, and the figures of a trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pipeline.config import Cfr, Eval
from pipeline.data.schema import Row
from pipeline.errors import BadRow
from pipeline.evaluate.batch import Network
from pipeline.evaluate.item import targets
from pipeline.evaluate.metrics import levels, noc, summarize
from pipeline.evaluate.plan import Chunk, Place
from pipeline.evaluate.results import CLICK, Outcome
from pipeline.evaluate.shared import SettingResult, evaluate_shared
from pipeline.tune.trials import ByObject

OBJECTS = pa.schema(
    [
        ("trial", pa.int32()),
        ("dataset", pa.string()),
        ("image_id", pa.string()),
        ("object_id", pa.int32()),
        ("clicks", pa.list_(CLICK)),
        ("iou", pa.list_(pa.float32())),
        ("forward_passes", pa.int32()),
        ("computed_passes", pa.float64()),
        ("seconds", pa.float32()),
        ("error", pa.string()),
    ]
)
"""One row for each object and trial. `forward_passes` is what the setting takes alone; `computed_passes` its share of
those that were computed, where a pass that m settings needed counts 1 / m for each; `seconds` as if evaluated alone.
A setting that failed on an object has an error instead of clicks and IoUs."""

PART = pa.schema([*OBJECTS, ("reason", pa.string()), ("detail", pa.string())])
"""Also objects that cannot be used, once each: no trial, but a reason."""


def evaluate_chunk(
    model: Network,
    chunk: Chunk,
    rows: Sequence[Row],
    settings: Mapping[int, Cfr],
    rules: Eval,
    batch_size: int,
    device: torch.device | str,
    threads: int,
) -> pa.Table:
    """The part of a chunk, in schema PART: objects in order, each with its trials in the order of `settings`.

    Args:
        rows: of the chunk's row group, encoded.
        settings: by trial, each with the crop it has on this data set.
    """
    bad: list[Outcome] = []
    found: list[dict[str, Any]] = []
    for one in evaluate_shared(model, targets(chunk, rows, bad), settings, rules, batch_size, device, threads):
        found += [{"trial": trial, **_row(chunk, one.key, result)} for trial, result in one.settings.items()]
    for outcome in bad:
        why = outcome.bad or BadRow("unknown")
        found.append({**_object(chunk, outcome.place), "reason": why.reason, "detail": why.detail})
    return pa.Table.from_pylist(found, schema=PART)


def _object(chunk: Chunk, place: Place) -> dict[str, Any]:
    return {"dataset": chunk.dataset, "image_id": place.image_id, "object_id": place.object_id}


def _row(chunk: Chunk, place: Place, found: SettingResult) -> dict[str, Any]:
    row = {**_object(chunk, place), "forward_passes": found.forwards, "computed_passes": found.computed}
    if found.result is None:
        return {**row, "error": found.error}
    clicks = [{"row": int(c.row), "col": int(c.col), "positive": c.positive} for c in found.result.clicks]
    return {**row, "clicks": clicks, "iou": found.result.ious, "seconds": found.result.seconds}


def on_dataset(cfr: Cfr, setting: Mapping[str, Any], crop: int) -> Cfr:
    """A setting's CFR on a data set, whose own crop it has unless it sets one."""
    return cfr if "cfr.crop" in setting else replace(cfr, crop=crop)


def merge(parts: Sequence[pa.Table]) -> tuple[pa.Table, pa.Table]:
    """Parts as one table in schema OBJECTS, and one row for each object set aside."""
    table = pa.concat_tables(parts) if parts else PART.empty_table()
    is_bad = np.array([reason is not None for reason in table["reason"].to_pylist()], bool)
    bad = table.filter(pa.array(is_bad)).select(["dataset", "image_id", "object_id", "reason", "detail"])
    distinct = {(r["dataset"], r["image_id"], r["object_id"]): r for r in bad.to_pylist()}
    rejected = pa.Table.from_pylist(list(distinct.values()), schema=bad.schema)
    return table.filter(pa.array(~is_bad)).select(OBJECTS.names), rejected


def rows_of(objects: pa.Table, trial: int) -> list[dict[str, Any]]:
    """A trial's rows, clicks left out."""
    chosen = objects.filter(pa.array(objects["trial"].to_numpy() == trial))
    return chosen.drop_columns(["clicks"]).to_pylist()


def error_in(rows: Sequence[Mapping[str, Any]]) -> str:
    """What a trial failed with, on the first object it failed on; "" when it did not."""
    return next((row["error"] for row in rows if row["error"] is not None), "")


def figures(rows: Sequence[Mapping[str, Any]], rules: Eval) -> tuple[dict[str, float], list[float]]:
    """The final figures of a trial that did not fail, and its mean IoU after each click.

    Every figure is the mean over the data sets of their own figures (mean over objects; seconds over clicks), so that
    each data set counts the same whatever its size. With several, each one's are there too, as "NAME/noc90".

    Returns:
        {"noc80", ..., "iou1", ..., "passes": per object, "seconds": per click}, and (max_clicks,) IoUs.
    """
    own: dict[str, dict[str, float]] = {}
    curves: list[list[float]] = []
    for name in dict.fromkeys(row["dataset"] for row in rows):
        members = [row for row in rows if row["dataset"] == name]
        found = summarize([row["iou"] for row in members], rules.max_clicks, rules.target_iou)
        clicks = sum(len(row["iou"]) for row in members)
        own[name] = {
            **{f"noc{level}": value for level, value in found["noc"].items()},
            **{f"iou{k}": value for k, value in found["iou_at"].items()},
            "passes": sum(row["forward_passes"] for row in members) / len(members),
            "seconds": sum(row["seconds"] for row in members) / clicks,
        }
        curves.append(found["mean_iou"])
    names = next(iter(own.values()))
    metrics = {name: float(np.mean([one[name] for one in own.values()])) for name in names}
    if len(own) > 1:
        metrics |= {f"{data}/{name}": value for data, one in own.items() for name, value in one.items()}
    return metrics, [float(v) for v in np.mean(curves, axis=0)]


def by_object(rows: Sequence[Mapping[str, Any]], figure: str, rules: Eval) -> ByObject:
    """A quality of a trial, of every object: what `figures` takes the mean of.

    Args:
        figure: "noc90", ... or "iou3", ...
    """
    number = int(figure[3:])
    assert figure.startswith("iou") or number in levels(rules.target_iou)
    found: dict[str, dict[Any, float]] = {}
    for row in rows:
        curve = row["iou"]
        value = noc(curve, number, rules.max_clicks) if figure.startswith("noc") else curve[min(number, len(curve)) - 1]
        found.setdefault(row["dataset"], {})[row["image_id"], row["object_id"]] = float(value)
    return found


def passes(objects: pa.Table) -> dict[str, int]:
    """Forward passes that were computed, and that evaluating every setting alone would have taken."""
    computed = float(np.sum(objects["computed_passes"].to_numpy(zero_copy_only=False)))
    return {"computed": round(computed), "separate": int(np.sum(objects["forward_passes"].to_numpy()))}
