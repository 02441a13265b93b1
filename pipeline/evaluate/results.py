"""Tables of results: the parts that plan items leave, and what is made of them in the end."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.clicks.encode import Click
from pipeline.config import Eval
from pipeline.data import manifest
from pipeline.errors import BadRow, UserError
from pipeline.evaluate.batch import ObjectResult
from pipeline.evaluate.metrics import summarize
from pipeline.evaluate.plan import DataSet, Item, Place, Setting
from pipeline.evaluate.sources import Source

CLICK = pa.struct([("row", pa.int32()), ("col", pa.int32()), ("positive", pa.bool_())])

OBJECTS = pa.schema(
    [
        ("dataset", pa.string()),
        ("image_id", pa.string()),
        ("object_id", pa.int32()),
        ("cfr_steps", pa.int32()),
        ("cfr_clicks", pa.int32()),
        ("adaptive", pa.bool_()),
        ("clicks", pa.list_(CLICK)),
        ("iou", pa.list_(pa.float32())),
        ("forward_passes", pa.int32()),
        ("seconds", pa.float32()),
    ]
)

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
"""A part: results and, with a reason instead of clicks, objects set aside; masks are 1-bit PNGs for pictures."""

MASK_CLICKS = (1, 3, 5, 10, 20)


@dataclass(frozen=True)
class Outcome:
    """What became of one object of a plan item: a result with some masks (PNG by number of clicks), or a bad row."""

    place: Place
    result: ObjectResult | None
    masks: dict[int, bytes]
    bad: BadRow | None = None


def part_table(item: Item, outcomes: Iterable[Outcome]) -> pa.Table:
    """Rows in the order of the item's objects."""
    order = {(place.row, place.object_id): i for i, place in enumerate(item.places)}
    rows = sorted(outcomes, key=lambda o: order[o.place.row, o.place.object_id])
    return pa.Table.from_pylist([_part_row(item, outcome) for outcome in rows], schema=PART)


def _part_row(item: Item, outcome: Outcome) -> dict[str, Any]:
    row: dict[str, Any] = {
        "dataset": item.dataset,
        "image_id": outcome.place.image_id,
        "object_id": outcome.place.object_id,
        "cfr_steps": item.setting.steps,
        "cfr_clicks": item.setting.clicks,
        "adaptive": item.setting.adaptive,
    }
    if outcome.result is None:
        bad = outcome.bad or BadRow("unknown")
        return {**row, "reason": bad.reason, "detail": bad.detail}
    result = outcome.result
    return {
        **row,
        "clicks": [{"row": int(c.row), "col": int(c.col), "positive": c.positive} for c in result.clicks],
        "iou": result.ious,
        "forward_passes": sum(result.forwards),
        "seconds": result.seconds,
        "masks": [{"clicks": k, "png": png} for k, png in outcome.masks.items()],
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


def merge(items: Sequence[Item], part_uri: dict[str, str]) -> tuple[pa.Table, pa.Table]:
    """All results and all distinct rejected objects, in plan order: data set, setting, object.

    Args:
        items: the whole plan.
        part_uri: URI of each item's part by item name.

    Returns:
        Tables in schema OBJECTS and REJECTED.

    Raises:
        UserError: a part is damaged or does not hold exactly its item's objects.
    """
    columns = [*OBJECTS.names, "reason", "detail"]
    keys = list(dict.fromkeys((item.dataset, item.setting) for item in items))
    ordered = sorted(items, key=lambda item: keys.index((item.dataset, item.setting)))
    parts: list[pa.Table] = []
    found = storage.map_parallel(lambda item: read_table(part_uri[item.name], columns), ordered)
    for item, part in zip(ordered, found, strict=True):
        held = list(zip(part["image_id"].to_pylist(), part["object_id"].to_pylist(), strict=True))
        if held != [(place.image_id, place.object_id) for place in item.places]:
            raise UserError(f"{part_uri[item.name]} holds other objects; delete it and run the same command again.")
        parts.append(part)
    table = pa.concat_tables(parts)
    good = _where(table, [reason is None for reason in table["reason"].to_pylist()])
    bad = _where(table, [reason is not None for reason in table["reason"].to_pylist()])
    distinct = {(row["dataset"], row["image_id"], row["object_id"]): row for row in bad.to_pylist()}
    rejected = [{name: row[name] for name in REJECTED.names} for row in distinct.values()]
    return good.select(OBJECTS.names).cast(OBJECTS), pa.Table.from_pylist(rejected, schema=REJECTED)


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


def figures(objects: pa.Table, data: DataSet, setting: Setting, rules: Eval) -> dict[str, Any]:
    """The summary entry of one data set and setting; without objects only their number, 0.

    `seconds` is the time of the evaluation loops of all actors together; `seconds_per_click` and `objects_per_second`
    are those of one actor.
    """
    names, steps = objects["dataset"].to_pylist(), objects["cfr_steps"].to_pylist()
    rows = _where(objects, [pair == (data.name, setting.steps) for pair in zip(names, steps, strict=True)])
    entry: dict[str, Any] = {
        "dataset": data.name,
        "cfr_steps": setting.steps,
        "cfr_clicks": setting.clicks,
        "adaptive": setting.adaptive,
        "crop": data.crop,
        "images": len(set(rows["image_id"].to_pylist())),
    }
    curves = rows["iou"].to_pylist()
    if not curves:
        return {**entry, "objects": 0}
    seconds = float(np.sum(rows["seconds"].to_numpy(), dtype=np.float64))
    clicks = sum(len(curve) for curve in curves)
    forward_passes = int(rows["forward_passes"].to_numpy().sum())
    return {
        **entry,
        **summarize(curves, rules.max_clicks, rules.target_iou),
        "clicks": clicks,
        "forward_passes": forward_passes,
        "forward_passes_per_click": forward_passes / clicks,
        "seconds": seconds,
        "seconds_per_click": seconds / clicks,
        "objects_per_second": len(curves) / seconds,
    }


def clicks_of(row: dict[str, Any]) -> list[Click]:
    """The clicks of a row of `objects.parquet` (`to_pylist`)."""
    return [Click(c["row"], c["col"], c["positive"]) for c in row["clicks"]]
