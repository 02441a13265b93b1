"""The next click, from where the prediction is wrong: one simulator, "center" to evaluate and "random" to train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import cv2
import numpy as np

from pipeline.clicks.encode import Click, is_used


class Region(NamedTuple):
    """Where the next training click is drawn from.

    Attributes:
        pixels: (H, W) bool, drawn from uniformly.
        positive: polarity of the click.
    """

    pixels: np.ndarray
    positive: bool


def _bounds(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """Half-open (top, bottom, left, right) of the true pixels, or None."""
    rows = np.flatnonzero(mask.any(axis=1))
    if len(rows) == 0:
        return None
    cols = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
    return int(rows[0]), int(rows[-1]) + 1, int(cols[0]), int(cols[-1]) + 1


def _distances(mask: np.ndarray, mask_size: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Distance of each true pixel to the nearest false one, outside the image counting as false.

    A distance depends only on the mask itself, so the transform runs on the bounding box padded by one pixel.

    Returns:
        (h, w) float32 distances of the bounding box, and the (row, col) of its corner in the image.
    """
    bounds = _bounds(mask)
    if bounds is None:
        return np.zeros((1, 1), np.float32), (0, 0)
    top, bottom, left, right = bounds
    # With IPP the last bit of the precise transform depends on layout and thread count; without it every value is
    # correctly rounded, so that the bounding box and the full map give the same maxima. The 5x5 transform is the
    # other way round: the recorded training regions are those of IPP (ties at half the maximum fall otherwise
    # without it), which adds in float32 along two scans of the rows, each rounded sum on the one before: no operation
    # on whole tensors gives these values, so training clicks are drawn on the CPU. The switch is per thread, hence set
    # at each call.
    cv2.ipp.setUseIPP(mask_size == cv2.DIST_MASK_5)
    padded = np.zeros((bottom - top + 2, right - left + 2), np.uint8)
    padded[1:-1, 1:-1] = mask[top:bottom, left:right]
    return cv2.distanceTransform(padded, cv2.DIST_L2, mask_size)[1:-1, 1:-1], (top, left)


def next_click_center(gt: np.ndarray, pred: np.ndarray, clicks: Sequence[Click]) -> Click:
    """The evaluation's next click: the middle of the largest error (RITM, section 4.1; deterministic).

    Args:
        gt: (H, W) int8, 1 object, 0 background, -1 ignore (counts as no error).
        pred: (H, W) bool, the current binary mask.
        clicks: earlier clicks; their pixels are not clicked again.

    Returns:
        A click at integer coordinates: the maximum of the larger error distance, first in row-major order; positive
        when the missed part's maximum is strictly larger. Nothing wrong gives a negative click at (0, 0).
    """
    pred = pred.astype(bool)
    best: list[tuple[float, int, int]] = []
    for error in ((gt == 1) & ~pred, (gt == 0) & pred):
        distance, (top, left) = _distances(error, cv2.DIST_MASK_PRECISE)
        for click in clicks:
            r, c = int(click.row) - top, int(click.col) - left
            if 0 <= r < distance.shape[0] and 0 <= c < distance.shape[1]:
                distance[r, c] = 0
        row, col = np.unravel_index(int(distance.argmax()), distance.shape)
        best.append((float(distance[row, col]), int(row) + top, int(col) + left))
    (missed, *missed_at), (wrong, *wrong_at) = best
    if missed > wrong:
        return Click(missed_at[0], missed_at[1], True)
    return Click(wrong_at[0], wrong_at[1], False) if wrong > 0 else Click(0, 0, False)


def click_region(missed: np.ndarray, wrong: np.ndarray) -> Region | None:
    """Where the next training click may fall: the inner half of the deeper error (RITM's training rule).

    Args:
        missed: (H, W) bool, the object's pixels that are not found: see `batched.training_errors`.
        wrong: (H, W) bool, other pixels that are found.

    Returns:
        The region, or None when nothing is wrong.
    """
    missing, missed_at = _distances(missed, cv2.DIST_MASK_5)
    excess, wrong_at = _distances(wrong, cv2.DIST_MASK_5)
    positive = bool(missing.max() > excess.max())
    distance, (top, left) = (missing, missed_at) if positive else (excess, wrong_at)
    inner = distance > distance.max() / 2.0
    if not inner.any():
        return None
    pixels = np.zeros(missed.shape, bool)
    pixels[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return Region(pixels, positive)


def add_click(
    points: np.ndarray, click: Click, rows: Literal["first_free", "from_end"] = "first_free", step: int = 1
) -> np.ndarray:
    """Write a simulated training click into a (2N, 3) click array.

    Args:
        points: (2N, 3) float32.
        click: the new click.
        rows: first_free takes the first free row of the polarity (the last one when all are used) and order = largest
            order so far + 1; from_end takes row N - step and order = step (SimpleClick's plain recipe).
        step: number of the simulated click, from 1; used by from_end.

    Returns:
        A new (2N, 3) array.
    """
    points = points.copy()
    n = len(points) // 2
    offset = 0 if click.positive else n
    if rows == "from_end":
        points[offset + max(n - step, 0)] = (click.row, click.col, step)
        return points
    free = np.flatnonzero(~is_used(points[offset : offset + n]))
    order = max(float(points[:, 2].max()), 0.0) + 1
    points[offset + (int(free[0]) if len(free) else n - 1)] = (click.row, click.col, order)
    return points


def next_click_random(
    missed: np.ndarray,
    wrong: np.ndarray,
    points: np.ndarray,
    rng: np.random.Generator,
    rows: Literal["first_free", "from_end"] = "first_free",
    step: int = 1,
) -> np.ndarray:
    """Add the next training click, drawn uniformly from `click_region`; nothing is added when nothing is wrong.

    Args:
        missed: (H, W) bool, see `click_region`.
        wrong: (H, W) bool.
        points: (2N, 3) float32 clicks so far.
        rng: draws the pixel.
        rows: see `add_click`.
        step: see `add_click`.

    Returns:
        (2N, 3) float32 clicks, a new array.
    """
    region = click_region(missed, wrong)
    if region is None:
        return points.copy()
    candidates = np.flatnonzero(region.pixels)
    row, col = divmod(int(candidates[rng.integers(len(candidates))]), missed.shape[1])
    return add_click(points, Click(row, col, region.positive), rows, step)
