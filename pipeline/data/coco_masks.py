"""COCO's `segmentation` as pycocotools decodes it: polygons, run lengths as lists or as compressed text.

The published COCO+LVIS annotation was drawn by another rule (`pipeline.data.coco_merge`), and is still read by it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.data.masks import Region, region
from pipeline.errors import BadRow

MALFORMED = "annotation is malformed"
NO_AREA = "polygon without an area"
TWO_CORNERS = "polygon with fewer than three corners"
OUTSIDE = "object outside the picture"
EMPTY = "object with no pixels"
SCALE = 5  # sub-pixels per pixel along the outline (`rleFrPoly` in cocoapi's common/maskApi.c)
MAX_COORDINATE = 1 << 20
MAX_CHARACTERS = 7  # of a number in compressed run lengths: 35 bits


def segmentation_region(segmentation: Any, height: int, width: int) -> Region:
    """Region of an annotation's `segmentation`.

    Raises:
        BadRow: it is neither polygons nor run lengths, of an image of another size, or holds no pixel, with the reason.
    """
    if isinstance(segmentation, dict):
        found = region(_runs_mask(segmentation, height, width))
        if found is None:
            raise BadRow(EMPTY, "its run lengths mark nothing")
        return found
    try:
        polygons = [_corners(points) for points in segmentation]
    except (ValueError, TypeError) as error:
        raise BadRow(MALFORMED, f"not a list of polygons: {error}") from error
    if not polygons:
        raise BadRow(EMPTY, "it has no polygon")
    drawn = [polygon for polygon in polygons if len(np.unique(polygon, axis=0)) >= 3]
    mask = np.zeros((height, width), bool)
    for polygon in drawn:
        mask |= draw_polygon(polygon, height, width)
    found = region(mask)
    if found is not None:
        return found
    if not drawn:
        raise BadRow(TWO_CORNERS, f"{polygons[0].tolist()[:4]}")
    low, high = np.concatenate(drawn).min(axis=0), np.concatenate(drawn).max(axis=0)
    if (high < 0).any() or (low >= [width, height]).any():
        raise BadRow(OUTSIDE, f"it spans {low.tolist()} to {high.tolist()} of {width} x {height}")
    raise BadRow(NO_AREA, f"it spans {low.tolist()} to {high.tolist()}")


def _corners(points: Any) -> np.ndarray:
    """(K, 2) float64 (x, y) of a flat list x, y, x, y, ..., or of a list of pairs."""
    if isinstance(points, list) and points and all(isinstance(p, list) and len(p) == 2 for p in points):
        points = [value for pair in points for value in pair]
    if not isinstance(points, list) or len(points) < 2 or len(points) % 2:
        raise ValueError(f"{str(points)[:60]}")
    if any(isinstance(value, bool | str) for value in points):
        raise ValueError(f"{str(points)[:60]}: a coordinate is no number")
    values = np.array(points, np.float64)
    if values.ndim != 1 or not np.all(np.abs(values) < MAX_COORDINATE):
        raise ValueError("a coordinate is no number or out of bounds")
    return values.reshape(-1, 2)


def draw_polygon(corners: np.ndarray, height: int, width: int) -> np.ndarray:
    """(height, width) bool of a polygon, equal to `pycocotools.mask.frPyObjects`.

    The outline is walked on a grid of 5 x 5 points per pixel. Where it crosses the middle of a column of pixels, the
    column changes between inside and outside from there on; a column is read from top to bottom, then the next one.

    Args:
        corners: (K, 2) float64 (x, y).
    """
    points = np.trunc(SCALE * corners + 0.5).astype(np.int64)
    x, y = _outline(points, np.roll(points, -1, axis=0))
    steps = np.flatnonzero(np.diff(x))
    column = np.minimum(x[steps], x[steps + 1])
    column = np.where(x[steps + 1] < x[steps], x[steps + 1], x[steps + 1] - 1)
    middle = (column + 0.5) / SCALE - 0.5
    row = (np.minimum(y[steps], y[steps + 1]) + 0.5) / SCALE - 0.5
    kept = (np.floor(middle) == middle) & (middle >= 0) & (middle <= width - 1)
    row = np.ceil(np.clip(row[kept], 0, height)).astype(np.int64)
    changes = middle[kept].astype(np.int64) * height + row
    counts = np.bincount(changes[changes < height * width], minlength=height * width)
    return (np.cumsum(counts) % 2 == 1).reshape(width, height).T


def _outline(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x and y of the grid points along the edges from `start` to `end`, (K, 2) integers; ends of edges come twice."""
    span = np.abs(end - start)
    flat = span[:, 0] >= span[:, 1]  # stepped along x
    backward = np.where(flat, start[:, 0] > end[:, 0], start[:, 1] > end[:, 1])
    first = np.where(backward[:, None], end, start).astype(np.float64)
    last = np.where(backward[:, None], start, end).astype(np.float64)
    length = np.where(flat, span[:, 0], span[:, 1])
    across = np.where(flat, last[:, 1] - first[:, 1], last[:, 0] - first[:, 0])
    slope = np.divide(across, length, out=np.zeros(len(length)), where=length > 0)
    edge = np.repeat(np.arange(len(length)), length + 1)
    at = np.arange(len(edge)) - np.repeat(np.cumsum(length + 1) - (length + 1), length + 1)
    at = np.where(backward[edge], length[edge] - at, at)
    along = np.where(flat, first[:, 0], first[:, 1])[edge] + at
    beside = np.trunc(np.where(flat, first[:, 1], first[:, 0])[edge] + slope[edge] * at + 0.5)
    x, y = np.where(flat[edge], along, beside), np.where(flat[edge], beside, along)
    return x.astype(np.int64), y.astype(np.int64)


def _runs_mask(segmentation: dict[str, Any], height: int, width: int) -> np.ndarray:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not segmentation:
        raise BadRow(EMPTY, "it is empty")
    if not isinstance(size, list) or len(size) != 2 or [_whole(v) for v in size] != [height, width]:
        raise BadRow(
            "mask has another size", f"image {width} x {height}, run lengths of [height, width] {str(size)[:40]}"
        )
    try:
        runs = unpack(counts) if isinstance(counts, str) else counts
        if isinstance(runs, list):
            runs = [_whole(run) for run in runs]
        return decode_runs(runs, height, width)
    except (ValueError, TypeError) as error:
        raise BadRow(MALFORMED, f"run lengths: {error}") from error


def _whole(value: Any) -> Any:
    """480.0 as 480, as some exports write it; everything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def decode_runs(runs: Any, height: int, width: int) -> np.ndarray:
    """(height, width) bool of run lengths in column order, the first of them outside the object.

    Raises:
        ValueError: they are no lengths, or do not fill the picture.
    """
    if not isinstance(runs, list) or not all(type(n) is int and n >= 0 for n in runs):
        raise ValueError("a length is no number from 0 up")
    if sum(runs) != height * width:
        raise ValueError(f"they fill {sum(runs)} of {height * width} pixels")
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(width, height).T


def unpack(text: str) -> list[int]:
    """Run lengths of pycocotools' compressed text.

    Five bits a character, lowest first, from "0" up, 32 = more follow, signed; from the fourth number on it is the
    difference to the number two before (`rleFrString` in cocoapi's common/maskApi.c).

    Raises:
        ValueError: it is something else.
    """
    runs: list[int] = []
    value, bits = 0, 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or bits >= 5 * MAX_CHARACTERS:
            raise ValueError(f"{character!r} in compressed run lengths")
        value |= (code & 31) << bits
        bits += 5
        if not code & 32:
            if code & 16:
                value -= 1 << bits
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value, bits = 0, 0
    if bits:
        raise ValueError("compressed run lengths end in a number")
    return runs
