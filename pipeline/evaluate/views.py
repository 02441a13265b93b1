"""One evaluated object to look at: picture, ground truth and the masks that its part kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.clicks.encode import Click
from pipeline.data.images import decode_sample
from pipeline.data.manifest import read_group
from pipeline.evaluate.plan import WorkUnit
from pipeline.evaluate.results import clicks_of, decode_mask, read_table


@dataclass(frozen=True)
class View:
    """What a picture of one object needs.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        truth: (H, W) int8, 1 object, 0 background, -1 ignore.
        clicks, ious: one per click.
        masks: {number of clicks: (H, W) bool} after 1, 3, 5, 10, 20 clicks as far as they went, and after the last.
    """

    image: np.ndarray
    truth: np.ndarray
    clicks: list[Click]
    ious: list[float]
    masks: dict[int, np.ndarray]


def view(row: dict[str, Any], units: list[WorkUnit], parts: dict[str, str]) -> View:
    """Fetch an object of `objects.parquet` again.

    Args:
        row: a row of the table (`to_pylist`).
        units: the evaluation's plan.
        parts: URI of the part of every unit, by its name.

    Raises:
        KeyError: no such object in the plan.
        UserError: part or data set damaged.
    """
    key = (row["image_id"], row["object_id"])
    for unit in units:
        for place in unit.places:
            if (unit.dataset, place.image_id, place.object_id) == (row["dataset"], *key):
                sample = decode_sample(read_group(unit.uri, unit.shard, unit.group)[place.row])
                saved = read_table(parts[unit.name], ["image_id", "object_id", "trial", "masks"]).to_pylist()
                kept = next(p for p in saved if (p["image_id"], p["object_id"], p["trial"]) == (*key, row["trial"]))
                masks = {m["clicks"]: decode_mask(m["png"]) for m in kept["masks"]}
                return View(sample.image, sample.target(place.object_id), clicks_of(row), row["iou"], masks)
    raise KeyError(f"{row['dataset']} {row['image_id']} object {row['object_id']} is not in the plan")
