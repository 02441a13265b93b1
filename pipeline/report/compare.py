"""An evaluation beside an earlier one: differences over the objects of both, with bootstrap intervals."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.config.options import load_json
from pipeline.errors import UserError
from pipeline.evaluate.bootstrap import SEED, interval
from pipeline.evaluate.metrics import hold, levels, threshold
from pipeline.evaluate.setting import Setting, dataset_rows

CLICKS = (1, 3, 5)  # of IoU@k
RESAMPLES = 10_000
LARGEST = 5  # objects listed for each data set and setting
IRRELEVANT = tuple(f"eval.{n}" for n in ("actors", "device", "gpu", "hang_seconds", "max_bad_fraction"))  # to results

NAMED = ("uri", "sha256", "format", "step", "recipe")  # what says which model it is

_COLUMNS = pa.schema(
    [
        ("dataset", pa.string()),
        ("image_id", pa.string()),
        ("object_id", pa.int32()),
        ("cfr_steps", pa.int32()),
        ("cfr_clicks", pa.int32()),
        ("adaptive", pa.bool_()),
        ("iou", pa.list_(pa.float32())),
    ]
)
_KEY = _COLUMNS.names[:-1]


@dataclass(frozen=True)
class Earlier:
    """The results folder of an earlier evaluation, read and found sound.

    Attributes:
        summary: content of its summary.json.
        objects: the columns of its objects.parquet that a comparison needs.
    """

    uri: str
    summary: dict[str, Any]
    objects: pa.Table


@dataclass(frozen=True)
class _Rules:
    """How far an evaluation clicked; `stop` is the IoU at which its objects ended, 1 when they never did."""

    budget: int
    target: float
    stop: float


def read_earlier(uri: str) -> Earlier:
    """Read an earlier evaluation.

    Raises:
        UserError: no such folder, not a finished evaluation, or a damaged one.
    """
    if not storage.exists(uri):
        raise UserError(f"There is no folder {uri} (--compare).")
    files = {name: storage.join(uri, name) for name in ("summary.json", "objects.parquet")}
    for name, file in files.items():
        if not storage.exists(file):
            raise UserError(f"{uri} (--compare) is not the results folder of a finished evaluation: it has no {name}.")
    try:
        summary = load_json(storage.read_bytes(files["summary.json"]))
        json.dumps(summary, ensure_ascii=False).encode()  # no half surrogates: it is printed
        _check_summary(summary)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{files['summary.json']} (--compare) is not an evaluation's summary ({error}).") from error
    try:
        file = pq.ParquetFile(io.BytesIO(storage.read_bytes(files["objects.parquet"])), page_checksum_verification=True)
        objects = file.read(columns=_COLUMNS.names).select(_COLUMNS.names).cast(_COLUMNS)
        objects.validate(full=True)
        _check_objects(objects, _rules(summary).budget)
    except (OSError, ValueError, LookupError, OverflowError, pa.ArrowException) as error:
        raise UserError(f"{files['objects.parquet']} (--compare) is damaged ({error}).") from error
    return Earlier(uri, summary, objects)


def _check_summary(summary: Any) -> None:
    """Raise what `read_earlier` catches unless the parts used here are there."""
    if summary["schema_version"] != 1:
        raise ValueError(f"schema version {summary['schema_version']!r}")
    rules = _rules(summary)
    if type(rules.budget) is not int or rules.budget < 1 or not 0 < rules.target <= 1:
        raise ValueError(f"options {rules.budget!r} clicks, target IoU {rules.target!r}")
    for place in (summary["checkpoint"], summary["options"], summary["data"], *summary["data"].values()):
        place.items()
    if not {"uri", "sha256"} <= summary["checkpoint"].keys():
        raise ValueError("no checkpoint")


def _check_objects(objects: pa.Table, budget: int) -> None:
    """Raise ValueError unless each object is there once, with 1 to `budget` IoUs."""
    if any(column.null_count for column in objects.columns):
        raise ValueError("values are missing")
    keys = list(zip(*(objects[name].to_pylist() for name in _KEY)))
    if len(set(keys)) < len(keys):
        raise ValueError("an object is there twice")
    sizes = [len(curve) for curve in objects["iou"].to_pylist()]
    values = objects["iou"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    if sizes and not 1 <= min(sizes) <= max(sizes) <= budget:
        raise ValueError(f"an object has less than 1 or more than {budget} clicks")
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("an IoU is not between 0 and 1")


def _rules(summary: Mapping[str, Any]) -> _Rules:
    options = summary["options"]
    target = options.get("eval.target_iou", 0.95)
    return _Rules(options.get("eval.max_clicks", 20), target, 1.0 if options.get("eval.full_curve") else target)


def differences(summary: Mapping[str, Any], objects: pa.Table, earlier: Earlier) -> dict[str, Any]:
    """Compare an evaluation ("here") with an earlier one ("there"), object by object.

    Only the same settings are compared, over the objects of both, up to the lower click budget and the lower target IoU
    of both; where one evaluation stopped its objects earlier, the other's objects are stopped at the same IoU.

    Args:
        summary: content of `summary.json` here.
        objects: table of `objects.parquet` here.

    Returns:
        The entry "compared" of summary.json. Every difference is here minus there.
    """
    here, there = _rules(summary), _rules(earlier.summary)
    budget, target = min(here.budget, there.budget), min(here.target, there.target)
    stop = None if here.stop == there.stop else min(here.stop, there.stop)
    rows = earlier.objects.select(["dataset", "cfr_steps", "cfr_clicks", "adaptive"]).to_pylist()
    theirs = {(name, _same(s)): (name, s) for name, s in dict.fromkeys((r["dataset"], Setting.of(r)) for r in rows)}
    asked = [(row["dataset"], Setting.of(row)) for row in summary["results"]]
    results, notes = [], _notes(summary, earlier)
    for name, setting in asked:
        found = theirs.get((name, _same(setting)))
        curves, others = _curves(objects, (name, setting)), _curves(earlier.objects, found) if found else {}
        keys = sorted(key for key in curves if key in others)  # the interval does not depend on the order of the rows
        known = [s.name for other, s in theirs if other == name]
        if not known:
            notes.append(f"The earlier evaluation has no objects of {name}.")
        elif not others:
            notes.append(
                f"{name} was evaluated here with {setting.name}, there with {', '.join(known)} only: "
                f"different settings are not compared."
            )
        a, b = (_held([table[key] for key in keys], budget, stop) for table in (curves, others))
        results.append(
            {
                "dataset": name,
                **setting.columns(),
                "paired": len(keys),
                "only_here": len(curves) - len(keys),
                "only_there": len(others) - len(keys),
                **_figures(a, b, levels(target)),
                "largest": _largest(keys, a, b, levels(target)),
            }
        )
        if keys and not any(np.any(_noc(x, q) < budget) for x in (a, b) for q in levels(target)):
            notes.append(
                f"NoC tells nothing of {name} with {setting.name}: every object is at the budget of {budget} "
                "clicks in both. IoU@k does."
            )
    absent = {name: None for name, _ in theirs if name not in {name for name, _ in asked}}
    notes += [f"{name} was evaluated there only." for name in absent]
    return {
        "uri": earlier.uri,
        "checkpoint": {k: v for k, v in earlier.summary["checkpoint"].items() if k in NAMED},
        "date": earlier.summary.get("date"),
        "command": earlier.summary.get("command"),
        "max_clicks": budget,
        "target_iou": target,
        "resamples": RESAMPLES,
        "seed": SEED,
        "notes": list(dict.fromkeys(notes)),
        "results": results,
    }


def _same(setting: Setting) -> Setting:
    """Without extra steps nothing is refined, whatever the other options of refinement say."""
    return setting if setting.steps else Setting(0)


def _curves(objects: pa.Table, wanted: tuple[str, Setting]) -> dict[tuple[str, int], list[float]]:
    rows = dataset_rows(objects, *wanted)
    keys = zip(rows["image_id"].to_pylist(), rows["object_id"].to_pylist())
    return dict(zip(keys, rows["iou"].to_pylist()))


def _notes(summary: Mapping[str, Any], earlier: Earlier) -> list[str]:
    """What else than the checkpoint is not the same."""
    notes = []
    mine, other = summary["options"], earlier.summary["options"]
    for name in sorted((mine.keys() | other.keys()) - set(IRRELEVANT)):
        if mine.get(name) != other.get(name):
            notes.append(f"Option {name} is {mine.get(name)} here, {other.get(name)} there.")
    for name, data in summary["data"].items():
        known = earlier.summary["data"].get(name, data)
        for part in ("source", "uri"):
            if data.get(part) != known.get(part):
                notes.append(f"The {part} of {name} is {data.get(part)} here, {known.get(part)} there.")
    contents, others = summary.get("content", {}), earlier.summary.get("content", {})
    for name in summary["data"]:
        if name in others and name in contents and contents[name] != others[name]:
            notes.append(f"The images or masks of {name} are not those of the earlier evaluation.")
    return notes


def _held(curves: Sequence[Sequence[float]], budget: int, stop: float | None) -> np.ndarray:
    """(objects, budget) float64 IoU curves; with `stop` an object holds the first IoU that reaches it."""
    held = hold([curve[:budget] for curve in curves], budget)
    if stop is not None:
        reached = held >= np.float32(stop)
        last = np.where(reached.any(axis=1), reached.argmax(axis=1), budget - 1)
        held = np.take_along_axis(held, np.minimum(np.arange(budget), last[:, None]), axis=1)
    return held


def _noc(held: np.ndarray, level: int) -> np.ndarray:
    """`metrics.noc` of every curve."""
    reached = held >= threshold(level)
    return np.where(reached.any(axis=1), reached.argmax(axis=1) + 1, held.shape[1])


def _figures(here: np.ndarray, there: np.ndarray, known: Sequence[int]) -> dict[str, dict[str, dict[str, float]]]:
    """{"noc": {"80": ...}, "iou_at": {"1": ...}}, each with the means of both, the difference, low and high."""
    found: dict[str, dict[str, dict[str, float]]] = {"noc": {}, "iou_at": {}}
    if not len(here):
        return found
    names = [("noc", level) for level in known] + [("iou_at", k) for k in CLICKS if k <= here.shape[1]]
    columns = []
    for held in (here, there):
        values = [_noc(held, number) if kind == "noc" else held[:, number - 1] for kind, number in names]
        columns.append(np.stack(values, axis=1).astype(np.float64))
    change = columns[0] - columns[1]
    low, high = interval([change], RESAMPLES)
    for i, (kind, number) in enumerate(names):
        means = {"here": columns[0][:, i], "there": columns[1][:, i], "difference": change[:, i]}
        found[kind][str(number)] = {
            **{name: float(column.mean()) for name, column in means.items()},
            "low": float(low[i]),
            "high": float(high[i]),
        }
    return found


def _largest(
    keys: Sequence[tuple[str, int]], here: np.ndarray, there: np.ndarray, known: Sequence[int]
) -> list[dict[str, Any]]:
    """The objects with the largest differences in NoC, among equals in mean IoU over all clicks; unchanged ones not."""
    level = 90 if 90 in known else max(known, default=None)
    means = [held.mean(axis=1, dtype=np.float64) for held in (here, there)]
    counts = [np.zeros(len(held), int) if level is None else _noc(held, level) for held in (here, there)]
    size, shift = abs(counts[0] - counts[1]), abs(means[0] - means[1])
    found = []
    for i in np.lexsort((-shift, -size))[:LARGEST]:
        if size[i] or shift[i]:
            row: dict[str, Any] = {"image_id": keys[i][0], "object_id": keys[i][1]}
            if level is not None:
                row |= {"level": level, "noc_here": int(counts[0][i]), "noc_there": int(counts[1][i])}
            found.append({**row, "mean_iou_here": float(means[0][i]), "mean_iou_there": float(means[1][i])})
    return found
