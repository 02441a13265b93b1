"""Zoom-in: which part of the image the network looks at, and the way there and back.

A box is (row_min, row_max, col_min, col_max), all inclusive, in image pixels. The rules decide published figures to the
pixel (RITM's zoom-in, arXiv 2102.06583, as CFR-ICL evaluates it); nothing here keeps state.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.clicks.encode import Click
from pipeline.config import Cfr


class Box(NamedTuple):
    """Inclusive pixel box."""

    row_min: int
    row_max: int
    col_min: int
    col_max: int

    @property
    def height(self) -> int:
        return self.row_max - self.row_min + 1

    @property
    def width(self) -> int:
        return self.col_max - self.col_min + 1


def whole(height: int, width: int) -> Box:
    """The box of a whole image."""
    return Box(0, height - 1, 0, width - 1)


def common(a: Box, b: Box) -> Box | None:
    """What two boxes have in common."""
    found = Box(
        max(a.row_min, b.row_min), min(a.row_max, b.row_max), max(a.col_min, b.col_min), min(a.col_max, b.col_max)
    )
    return found if found.height > 0 and found.width > 0 else None


def around(a: Box, b: Box) -> Box:
    """The smallest box that holds both."""
    return Box(
        min(a.row_min, b.row_min), max(a.row_max, b.row_max), min(a.col_min, b.col_min), max(a.col_max, b.col_max)
    )


def moved(part: torch.Tensor, box: Box, to: Box) -> torch.Tensor:
    """What a map that is `part` inside of `box` and 0 elsewhere is inside of `to`; `part` itself where it may."""
    if box == to:
        return part
    found = part.new_zeros((to.height, to.width))
    if (both := common(box, to)) is not None:
        found[
            both.row_min - to.row_min : both.row_max - to.row_min + 1,
            both.col_min - to.col_min : both.col_max - to.col_min + 1,
        ] = part[
            both.row_min - box.row_min : both.row_max - box.row_min + 1,
            both.col_min - box.col_min : both.col_max - box.col_min + 1,
        ]
    return found


def lines_of(part: torch.Tensor, threshold: float, box: Box, size: tuple[int, int]) -> torch.Tensor:
    """(H + W,) bool: which rows, then which columns of a map hold a pixel above a threshold.

    Args:
        part: float32 map inside of `box`; outside of it nothing is above.
        size: (H, W).
    """
    lines = torch.zeros(sum(size), dtype=torch.bool, device=part.device)
    rows = lines[box.row_min : box.row_max + 1]
    cols = lines[size[0] + box.col_min : size[0] + box.col_max + 1]
    if part.is_cpu:  # threads of torch's own would cost more than such small work
        above = part.numpy() > np.float32(threshold)
        rows.numpy()[:], cols.numpy()[:] = above.any(axis=1), above.any(axis=0)
    else:
        held = part > threshold
        rows.copy_(held.any(dim=1))
        cols.copy_(held.any(dim=0))
    return lines


def box_of(lines: np.ndarray, height: int) -> Box | None:
    """Inclusive box of the true pixels whose `lines_of` these are, None when there are none."""
    rows, cols = lines[:height].nonzero()[0], lines[height:].nonzero()[0]
    if rows.size == 0:
        return None
    return Box(int(rows[0]), int(rows[-1]), int(cols[0]), int(cols[-1]))


def include(box: Box, clicks: Iterable[Click]) -> Box:
    """The smallest box that holds `box` and the pixel of every positive click."""
    for click in clicks:
        if click.positive:
            row, col = int(click.row), int(click.col)
            box = Box(min(box.row_min, row), max(box.row_max, row), min(box.col_min, col), max(box.col_max, col))
    return box


def expand(box: Box, height: int, width: int, expansion: float, min_size: int) -> Box:
    """Grow a box around its centre: side = max(min_size, expansion * side), ends rounded half to even, then clamped.

    The result has up to `side + 1` pixels, because both ends are rounded outwards from a half-open size and inclusive.
    """

    def ends(low: int, high: int, limit: int) -> tuple[int, int]:
        centre, size = 0.5 * (low + high), max(expansion * (high - low + 1), min_size)
        return max(0, round(centre - 0.5 * size)), min(limit - 1, round(centre + 0.5 * size))

    return Box(*ends(box.row_min, box.row_max, height), *ends(box.col_min, box.col_max, width))


def box_iou(a: Box, b: Box) -> float:
    """Product of the IoU of the row ranges and the IoU of the column ranges (not the IoU of areas)."""

    def ranges(a_low: int, a_high: int, b_low: int, b_high: int) -> float:
        common = max(0, min(a_high, b_high) - max(a_low, b_low) + 1)
        return common / (max(a_high, b_high) - min(a_low, b_low) + 1)

    return ranges(a[0], a[1], b[0], b[1]) * ranges(a[2], a[3], b[2], b[3])


def holds_positives(box: Box, clicks: Iterable[Click]) -> bool:
    """Whether every positive click is inside; one on the box's last row or column is outside (published behaviour)."""
    return all(box.row_min <= c.row < box.row_max and box.col_min <= c.col < box.col_max for c in clicks if c.positive)


def next_roi(current: Box | None, found: Box | None, clicks: Sequence[Click], size: tuple[int, int], cfr: Cfr) -> Box:
    """The region of interest of the next run.

    Args:
        current: the ROI in use, None before the first run.
        found: box of the pixels above cfr.zoom_threshold in the map of the last run; None without any, or before it.
        clicks: all clicks so far, image coordinates.
        size: (H, W) of the image.
        cfr: expansion, min_crop, recompute_iou are used.

    Returns:
        `current` itself when it is kept. Without any foreground pixel (tested before positive clicks are added) the
        whole image stands in for the object's box.
    """
    wanted = whole(*size)
    if found is not None:
        wanted = expand(include(found, clicks), *size, cfr.expansion, cfr.min_crop)
    if current is None or not holds_positives(current, clicks) or box_iou(wanted, current) < cfr.recompute_iou:
        return wanted
    return current


def resize(maps: torch.Tensor, side: int) -> torch.Tensor:
    """Resize (C, H, W) float32 maps bilinearly (align_corners) to (1, C, side, side)."""
    return F.interpolate(maps[None], size=(side, side), mode="bilinear", align_corners=True)


def resize_back(crop: torch.Tensor, box: Box) -> torch.Tensor:
    """Resize a (1, 1, side, side) map to the (h, w) map inside of `box`."""
    return F.interpolate(crop, size=(box.height, box.width), mode="bilinear", align_corners=True)[0, 0]


def scale_click(click: Click, box: Box, side: int) -> Click:
    """A click in coordinates of the resized crop (fractional; negative or beyond the side when outside of the box)."""
    return Click(
        side * (click.row - box.row_min) / box.height, side * (click.col - box.col_min) / box.width, click.positive
    )


def mirror_click(click: Click, side: int) -> Click:
    """A crop's click in the horizontally mirrored crop: column c becomes side - c - 1."""
    return click._replace(col=side - click.col - 1)
