"""COCO's `segmentation` of one object into its pixels, as pycocotools decodes it; what is no mask is said by kind.

Polygons are drawn by pycocotools itself, after all that could hurt its C code is refused. Run lengths, whose decoding
is a few lines, are decoded here: pycocotools checks neither their text nor their sum.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pycocotools.mask

from pipeline.data.masks import Region, region
from pipeline.errors import BadRow

coco: Any = pycocotools.mask  # its stubs know no floats

MALFORMED = "annotation is malformed"
NO_NUMBER = "coordinate is no finite number"
FAR = "coordinate is far outside every picture"
FEW_CORNERS = "polygon with fewer than three different corners"
NO_AREA = "polygon without area"
OUTSIDE = "object outside the picture"
STRAY = "stray point or line beside a polygon"
OTHER_SIZE = "mask has another size"
MAX_COORDINATE = 1 << 20
MAX_OUTLINE = 4_000_000  # pixels along an object's polygons: pycocotools keeps five points for each, some 120 bytes
MAX_CHARACTERS = 7  # of a number in compressed run lengths: 35 bits


def segmentation_region(segmentation: Any, height: int, width: int, aside: list[BadRow] | None = None) -> Region | None:
    """Region of COCO's `segmentation`, None when it has no pixel.

    Args:
        height, width: of the picture that the mask was drawn on, in pixels.
        aside: gets what was left away beside a good polygon of the same object.

    Raises:
        BadRow: it is no mask, or that of a picture of another size; the reason says in which way.
    """
    if isinstance(segmentation, dict):
        size = segmentation.get("size")
        if size != [height, width]:
            swapped = " (width and height exchanged)" if size == [width, height] else ""
            seen = f"{size[1]} x {size[0]}" if isinstance(size, list) and len(size) == 2 else str(size)[:40]
            raise BadRow(OTHER_SIZE, f"picture {width} x {height}, run lengths of {seen}{swapped}")
        try:
            return region(decode_runs(_runs(segmentation.get("counts")), height, width))
        except (ValueError, TypeError) as error:
            raise BadRow(MALFORMED, f"run lengths: {error}") from error
    if isinstance(segmentation, list) and len(segmentation) >= 6 and type(segmentation[0]) in (int, float):
        segmentation = [segmentation]  # one polygon without its list, as VIA writes it
    if not isinstance(segmentation, list):
        raise BadRow(MALFORMED, f"neither polygons nor run lengths: {str(segmentation)[:60]}")
    good: list[np.ndarray] = []
    strays: list[BadRow] = []
    for points in segmentation:
        corners = _corners(points)
        problem = _degenerate(corners)
        if problem:
            strays.append(BadRow(problem, str(points)[:100]))
        else:
            good.append(corners)
    if not good:
        if strays:
            raise strays[0]
        return None
    if not any(_touches(corners, height, width) for corners in good):
        raise BadRow(OUTSIDE, f"picture {width} x {height}, polygon {str(segmentation[0])[:100]}")
    if aside is not None:
        aside += [BadRow(STRAY, f"{stray.reason}: {stray.detail}") for stray in strays]
    return polygon_pixels(good, height, width)


def polygon_pixels(polygons: list[np.ndarray], height: int, width: int) -> Region | None:
    """Union of (K, 2) float64 (x, y) polygons of at least three corners, as pycocotools draws it.

    Raises:
        BadRow: their outline is too long to be drawn.
    """
    steps = (np.abs(np.roll(corners, -1, axis=0) - corners).max(axis=1) for corners in polygons)
    if sum(float(step.sum()) for step in steps) > MAX_OUTLINE:
        raise BadRow(MALFORMED, f"an outline of more than {MAX_OUTLINE} pixels")
    drawn = coco.merge(coco.frPyObjects([corners.reshape(-1).tolist() for corners in polygons], height, width))
    left, top, wide, high = (int(v) for v in coco.toBbox(drawn))
    mask = decode_runs(unpack(drawn["counts"].decode()), height, width)
    return region(mask[top : top + high, left : left + wide], top, left)


def _corners(points: Any) -> np.ndarray:
    """(K, 2) float64 (x, y) corners of a flat list x, y, x, y, ..."""
    if not isinstance(points, list) or len(points) < 2 or len(points) % 2:
        raise BadRow(MALFORMED, f"not a list of polygons x, y, x, y, ...: {str(points)[:60]}")
    for value in points:
        if type(value) not in (int, float) or value != value or value in (math.inf, -math.inf):
            raise BadRow(NO_NUMBER, repr(value)[:60])
        if abs(value) >= MAX_COORDINATE:
            raise BadRow(FAR, repr(value)[:60])
    return np.array(points, np.float64).reshape(-1, 2)


def _degenerate(corners: np.ndarray) -> str:
    """Why these corners enclose nothing, or ""."""
    if len(np.unique(corners, axis=0)) < 3:
        return FEW_CORNERS
    arms = corners - corners[0]
    far = arms[np.argmax((arms**2).sum(axis=1))]
    across = np.abs(arms[:, 0] * far[1] - arms[:, 1] * far[0]) / np.hypot(*far)  # pixels off the longest line
    return "" if across.max() > 1e-6 else NO_AREA


def _touches(corners: np.ndarray, height: int, width: int) -> bool:
    return bool((corners.max(axis=0) > 0).all() and (corners.min(axis=0) < (width, height)).all())


def _runs(counts: Any) -> Any:
    """Run lengths as a list of whole numbers, however they were written."""
    if isinstance(counts, str):
        if counts[:2] in ("b'", 'b"') and counts[-1:] == counts[1]:  # Python's bytes written as text
            counts = counts[2:-1].replace("\\\\", "\\")
        return unpack(counts)
    if isinstance(counts, list):
        return [int(n) if isinstance(n, float) and n.is_integer() else n for n in counts]
    return counts


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
