"""Tables of results: the parts that units of work leave, and what is made of them in the end."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.clicks.encode import Click
from pipeline.config import Cfr, Eval
from pipeline.data import manifest
from pipeline.errors import BadRow, UserError
from pipeline.evaluate.metrics import summarize
from pipeline.evaluate.plan import DataSet, Place, WorkUnit
from pipeline.evaluate.setting import Setting, dataset_rows
from pipeline.evaluate.shared import SettingResult
from pipeline.evaluate.sources import Source

CLICK = pa.struct([("row", pa.int32()), ("col", pa.int32()), ("positive", pa.bool_())])

OBJECTS = pa.schema(
    [
        ("dataset", pa.string()),
        ("image_id", pa.string()),
        ("object_id", pa.int32()),
        ("trial", pa.int32()),
        ("cfr_steps", pa.int32()),
        ("cfr_clicks", pa.int32()),
        ("adaptive", pa.bool_()),
        ("clicks", pa.list_(CLICK)),
        ("iou", pa.list_(pa.float32())),
        ("forward_passes", pa.int32()),
        ("computed_passes", pa.float64()),
        ("seconds", pa.float32()),
        ("error", pa.string()),
    ]
)
"""One row for each object and setting. `trial` is the setting's number: a sweep's trial, or the place in an
evaluation's list. `forward_passes` is what the setting takes alone; `computed_passes` its share of those that were
computed, where a pass that m settings needed counts 1 / m for each; `seconds` as if evaluated alone. A setting that
failed on an object, which ends an evaluation but not a sweep, has an error instead of clicks and IoUs."""

REJECTED = pa.schema(
    [
        ("dataset", pa.string()),
        ("image_id", pa.string()),
        ("object_id", pa.int32()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)

MASKS = pa.list_(pa.struct([("clicks", pa.int32()), ("png", pa.binary())]))
PART = pa.schema([*OBJECTS, ("reason", pa.string()), ("detail", pa.string()), ("masks", MASKS)])
"""A part: results and, once each, with a reason instead of a trial, objects set aside; masks are 1-bit PNGs for
pictures, none in a sweep."""

MASK_CLICKS = (1, 3, 5, 10, 20)
TOGETHER = 64  # parts that become one table as they are read: a table of four objects is 30 times their size


@dataclass(frozen=True)
class Outcome:
    """What became of one object of a unit: a result for each setting, with some masks (PNG by number of clicks), or a
    bad row."""

    place: Place
    settings: Mapping[Any, SettingResult] = field(default_factory=dict)
    masks: Mapping[int, Mapping[int, bytes]] = field(default_factory=dict)
    bad: BadRow | None = None


def part_table(unit: WorkUnit, outcomes: Iterable[Outcome], settings: Mapping[int, Cfr]) -> pa.Table:
    """The part of a unit: its objects in order, each under the settings in theirs."""
    order = {(place.row, place.object_id): i for i, place in enumerate(unit.places)}
    rows: list[dict[str, Any]] = []
    for outcome in sorted(outcomes, key=lambda o: order[o.place.row, o.place.object_id]):
        place = outcome.place
        row = {"dataset": unit.dataset, "image_id": place.image_id, "object_id": place.object_id}
        if outcome.bad is not None:
            rows.append({**row, "reason": outcome.bad.reason, "detail": outcome.bad.detail})
        for number, cfr in settings.items() if outcome.bad is None else ():
            setting = Setting(cfr.steps, cfr.clicks, cfr.adaptive).columns()
            found = _result_row(outcome.settings[number], outcome.masks.get(number, {}))
            rows.append({**row, "trial": number, **setting, **found})
    return pa.Table.from_pylist(rows, schema=PART)


def _result_row(found: SettingResult, masks: Mapping[int, bytes]) -> dict[str, Any]:
    row = {"forward_passes": found.forwards, "computed_passes": found.computed}
    if found.result is None:
        return {**row, "error": found.error}
    return {
        **row,
        "clicks": [{"row": int(c.row), "col": int(c.col), "positive": c.positive} for c in found.result.clicks],
        "iou": found.result.ious,
        "seconds": found.result.seconds,
        "masks": [{"clicks": k, "png": png} for k, png in masks.items()],
    }


def encode_mask(mask: np.ndarray) -> bytes:
    """1-bit PNG of an (H, W) bool mask: about a kilobyte."""
    ok, data = cv2.imencode(".png", mask.astype(np.uint8) * 255, [cv2.IMWRITE_PNG_BILEVEL, 1])
    if not ok:
        raise ValueError(f"cannot encode a mask of shape {mask.shape}")
    return data.tobytes()


def decode_mask(png: bytes) -> np.ndarray:
    """(H, W) bool mask of a PNG made by `encode_mask`."""
    mask = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_GRAYSCALE)
    if mask is None:
        raise ValueError("not a PNG mask")
    return mask > 0


def write_table(uri: str, table: pa.Table) -> None:
    """A Parquet file, whole or not at all."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    storage.write_bytes(uri, buffer.getvalue())


def read_table(uri: str, columns: list[str] | None = None) -> pa.Table:
    """A Parquet file with its checksums verified.

    Raises:
        UserError: absent or damaged.
    """
    try:
        file = pq.ParquetFile(io.BytesIO(storage.read_bytes(uri)), page_checksum_verification=True)
        return file.read(columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{uri} is damaged ({error}); delete it and run the same command again.") from error


def read_parts(units: Sequence[WorkUnit], part_uri: Mapping[str, str], settings: Collection[int]) -> list[pa.Table]:
    """The parts of some units, in their order, without masks; many in one table.

    Args:
        part_uri: URI of each unit's part by its name.
        settings: numbers of those that the units were evaluated under, in order.

    Raises:
        UserError: a part is damaged or does not hold exactly its unit's objects, each under every setting.
    """
    parts: list[pa.Table] = []
    few: list[pa.Table] = []
    columns = [name for name in PART.names if name != "masks"]
    found = storage.map_parallel(lambda unit: read_table(part_uri[unit.name], columns), units)
    for unit, part in zip(units, found, strict=True):
        held = list(zip(*(part[name].to_pylist() for name in ("image_id", "object_id", "trial")), strict=True))
        bad = {(image, number) for image, number, trial in held if trial is None}
        keys = [(place.image_id, place.object_id) for place in unit.places]
        if held != [(*key, trial) for key in keys for trial in ([None] if key in bad else settings)]:
            raise UserError(f"{part_uri[unit.name]} holds other objects; delete it and run the same command again.")
        few.append(part)
        if len(few) == TOGETHER:
            parts.append(pa.concat_tables(few).combine_chunks())
            few = []
    return [*parts, *few]


def merge(parts: Sequence[pa.Table]) -> tuple[pa.Table, pa.Table]:
    """All results in the order data set, setting, object, and all distinct rejected objects.

    Args:
        parts: in plan order (`read_parts`).

    Returns:
        Tables in schema OBJECTS and REJECTED.
    """
    table = pa.concat_tables(parts) if parts else PART.empty_table()
    bad = _where(table, [reason is not None for reason in table["reason"].to_pylist()])
    good = _where(table, [reason is None for reason in table["reason"].to_pylist()])
    names = good["dataset"].to_pylist()
    place = {name: number for number, name in enumerate(dict.fromkeys(names))}
    order = np.lexsort((good["trial"].to_numpy(), np.array([place[name] for name in names], np.int64)))
    return good.take(pa.array(order)).select(OBJECTS.names).cast(OBJECTS), distinct(bad)


def distinct(rejected: pa.Table) -> pa.Table:
    """Each object set aside once, in schema REJECTED."""
    rows = {
        (row["dataset"], row["image_id"], row["object_id"]): row for row in rejected.select(REJECTED.names).to_pylist()
    }
    return pa.Table.from_pylist(list(rows.values()), schema=REJECTED)


def _where(table: pa.Table, keep: Sequence[bool]) -> pa.Table:
    return table.filter(pa.array(keep, pa.bool_()))


def unreadable(source: Source) -> pa.Table:
    """Images that could not be converted from a raw folder, in schema REJECTED with object_id -1."""
    uri = storage.join(source.shards, manifest.REJECTED)
    rows = read_table(uri).to_pylist() if storage.exists(uri) else []
    for row in rows:
        row.update(dataset=source.name, object_id=-1)
    return pa.Table.from_pylist(rows, schema=REJECTED)


def reasons(rejected: pa.Table, dataset: str) -> dict[str, int]:
    """Objects of a data set set aside, by reason."""
    return dict(Counter(row["reason"] for row in rejected.to_pylist() if row["dataset"] == dataset))


def check_bad(data: DataSet, rejected: pa.Table, rules: Eval) -> None:
    """Whether few enough objects of a data set were set aside.

    Raises:
        UserError: saying how many, and why.
    """
    found = reasons(rejected, data.name)
    bad = sum(found.values())
    if bad > rules.max_bad_fraction * data.objects:
        raise UserError(
            f"{bad} of {data.objects} objects of {data.name} cannot be used "
            f"({', '.join(f'{reason}: {n}' for reason, n in found.items())}); they are listed in rejected.parquet. "
            f"Mend them, or allow more with --max-bad-fraction."
        )


def entry(objects: pa.Table, data: DataSet, setting: Setting, rules: Eval) -> dict[str, Any]:
    """The summary entry of one data set and setting; without objects only their number, 0."""
    rows = dataset_rows(objects, data.name, setting)
    images = len(set(rows["image_id"].to_pylist()))
    about = {"dataset": data.name, **setting.columns(), "crop": data.crop, "images": images}
    return {**about, **(figures(rows, rules) if rows.num_rows else {"objects": 0})}


def figures(rows: pa.Table, rules: Eval) -> dict[str, Any]:
    """The figures of one setting on one data set: `summarize`, passes and time.

    `seconds` are those of an actor that evaluates this setting alone; so are `seconds_per_click` and
    `objects_per_second`.
    """
    curves = rows["iou"].to_pylist()
    seconds = float(np.sum(rows["seconds"].to_numpy(), dtype=np.float64))
    clicks = sum(len(curve) for curve in curves)
    forward_passes = int(rows["forward_passes"].to_numpy().sum())
    return {
        **summarize(curves, rules.max_clicks, rules.target_iou),
        "clicks": clicks,
        "forward_passes": forward_passes,
        "forward_passes_per_click": forward_passes / clicks,
        "seconds": seconds,
        "seconds_per_click": seconds / clicks,
        "objects_per_second": len(curves) / seconds,
    }


def passes(objects: pa.Table) -> dict[str, int]:
    """Forward passes that were computed, and that evaluating every setting alone would have taken."""
    computed = float(np.sum(objects["computed_passes"].to_numpy()))
    return {"computed": round(computed), "separate": int(np.sum(objects["forward_passes"].to_numpy()))}


def clicks_of(row: dict[str, Any]) -> list[Click]:
    """The clicks of a row of `objects.parquet` (`to_pylist`)."""
    return [Click(c["row"], c["col"], c["positive"]) for c in row["clicks"]]
