"""COCO panoptic segments and LVIS polygons of one image into one list of objects (docs/method.md, section 7)."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from pipeline.data.masks import Region, box_iou, boxes, mask_iou, region

MIN_OBJECT_AREA = 80  # smaller objects are dropped
MIN_STUFF_AREA = 500  # stuff is kept when larger
SAME_BOX = 0.7  # box IoU above which two objects may be the same
COCO_IS_LVIS = 0.70  # mask IoU above which a COCO object is an LVIS object too
LVIS_IS_LVIS = 0.85  # mask IoU above which an LVIS object repeats a later one


def panoptic_ids(colours: np.ndarray) -> np.ndarray:
    """(H, W) int32 segment ids R + 256 G + 65536 B of an (H, W, 3) uint8 RGB panoptic picture."""
    four = cv2.cvtColor(colours, cv2.COLOR_RGB2RGBA)  # R lowest, as in the id; the fourth byte is masked out
    ids = four.view("<i4")[..., 0]
    ids &= 0xFFFFFF
    return ids


def segment_regions(ids: np.ndarray, wanted: Sequence[int]) -> list[Region | None]:
    """Region of every wanted id of an (H, W) int32 map of ids >= 0, None where it has no pixel."""
    # The boxes of all ids from one pass: the ends of each row's runs of one id. Pixels are compared inside boxes only.
    flat, begins = ids.ravel(), np.empty(ids.size, bool)
    np.not_equal(flat[1:], flat[:-1], out=begins[1:])
    begins[:: ids.shape[1]] = True
    at = np.flatnonzero(begins)
    numbers = flat[at]
    rows, left = np.divmod(at, ids.shape[1])
    right = left + np.diff(at, append=ids.size) - 1
    order = np.argsort(numbers, kind="stable")  # the runs of one id stay in the order of their rows
    first = np.flatnonzero(np.diff(numbers[order], prepend=-1))
    ends = (
        rows[order][first],
        np.maximum.reduceat(rows[order], first),
        np.minimum.reduceat(left[order], first),
        np.maximum.reduceat(right[order], first),
    )
    found = dict(zip(numbers[order][first].tolist(), zip(*(values.tolist() for values in ends))))
    return [_segment(ids, number, found.get(number)) for number in wanted]


def _segment(ids: np.ndarray, number: int, box: tuple[int, int, int, int] | None) -> Region | None:
    return box and Region(box, ids[box[0] : box[1] + 1, box[2] : box[3] + 1] == number)


def polygon_region(polygons: Sequence[np.ndarray], height: int, width: int) -> Region | None:
    """Union of the filled polygons, each (K, 2) int32 (column, row) vertices; None when no pixel is in the image."""
    left, top, wide, high = cv2.boundingRect(np.concatenate(polygons))
    # Drawing on the box instead of the image gives the same pixels: only sides that the image cuts are cut here.
    low = max(left, 0), max(top, 0)
    right, bottom = min(left + wide, width), min(top + high, height)
    if low[0] >= right or low[1] >= bottom:
        return None
    canvas = np.zeros((bottom - low[1], right - low[0]), np.uint8)
    whole = canvas.shape == (high, wide)
    for polygon in polygons:
        if whole or (polygon.min() >= 0 and (polygon < (width, height)).all()):
            cv2.fillPoly(canvas, [polygon], 1, offset=(-low[0], -low[1]))
        else:
            _fill_cut(canvas, polygon - np.array(low, np.int32))
    if whole:  # every corner is drawn, so each side touches a pixel
        return Region((top, bottom - 1, left, right - 1), canvas.view(bool))
    return region(canvas.view(bool), low[1], low[0])


def _fill_cut(canvas: np.ndarray, polygon: np.ndarray) -> None:
    """Fill a polygon that leaves the canvas as OpenCV did up to 4.7, whose pixels the shared annotation has.

    Later versions cut the edges at the border before filling, which turns them a little and moves single pixels.
    Outline drawn and inside filled by even-odd scan lines; edges advance in steps of 1/65536 pixel.
    """
    height, width = canvas.shape
    cv2.polylines(canvas, [polygon], True, 1)
    start, end = polygon.astype(np.int64), np.roll(polygon, -1, axis=0).astype(np.int64)
    down = (start[:, 1] < end[:, 1])[:, None]
    upper, lower = np.where(down, start, end), np.where(down, end, start)
    x, rise = upper[:, 0] << 16, lower[:, 1] - upper[:, 1]
    run = (lower[:, 0] - upper[:, 0]) << 16
    step = np.sign(run) * (np.abs(run) // np.maximum(rise, 1))
    first, last = np.clip(upper[:, 1], 0, height), np.clip(lower[:, 1], 0, height)  # rows first..last-1 are crossed
    count = last - first
    edge = np.repeat(np.arange(len(count)), count)
    rows = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    crossing = x[edge] + (rows - upper[edge, 1]) * step[edge]
    order = np.lexsort((crossing, rows))
    rows, crossing = rows[order][::2], crossing[order]
    left, right = np.maximum((crossing[::2] + 65535) >> 16, 0), np.minimum(crossing[1::2] >> 16, width - 1)
    for row, begin, stop in zip(rows.tolist(), left.tolist(), (right + 1).tolist()):
        canvas[row, begin : max(begin, stop)] = 1


def _pairs(iou: np.ndarray) -> list[tuple[int, int]]:
    return [(int(i), int(j)) for i, j in np.argwhere(iou > SAME_BOX)]


def merge(coco: Sequence[Region], lvis: Sequence[Region]) -> list[Region]:
    """Things of both annotations without repeats: kept COCO, then kept LVIS, in their orders."""
    coco = [r for r in coco if r.area >= MIN_OBJECT_AREA]
    lvis = [r for r in lvis if r.area >= MIN_OBJECT_AREA]
    coco_boxes, lvis_boxes = boxes(coco), boxes(lvis)
    in_lvis = {i for i, j in _pairs(box_iou(coco_boxes, lvis_boxes)) if mask_iou(coco[i], lvis[j]) > COCO_IS_LVIS}
    repeated = {
        i for i, j in _pairs(box_iou(lvis_boxes, lvis_boxes)) if i < j and mask_iou(lvis[i], lvis[j]) > LVIS_IS_LVIS
    }
    return [r for i, r in enumerate(coco) if i not in in_lvis] + [r for i, r in enumerate(lvis) if i not in repeated]


def free_stuff(stuff: Sequence[Region], things: Sequence[Region], height: int, width: int) -> list[Region]:
    """Stuff regions without the pixels of any thing, those that stay large enough."""
    taken = np.zeros((height, width), bool)
    for thing in things:
        taken[thing.window] |= thing.mask
    rest = [region(item.mask & ~taken[item.window], item.box[0], item.box[2]) for item in stuff]
    return [r for r in rest if r is not None and r.area > MIN_STUFF_AREA]
