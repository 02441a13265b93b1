"""Click lists and their tensor form: the only home of the -1 sentinel.

A click list becomes a (2N, 3) float32 array: rows 0..N-1 hold the positive clicks, rows N..2N-1 the negative ones,
each (row, col, order); an unused row is (-1, -1, -1). A row counts as unused when its row AND column are negative.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

UNUSED = -1.0


class Click(NamedTuple):
    """One click: pixel (row, col), origin top left, zero based; fractional after scaling."""

    row: float
    col: float
    positive: bool


def empty(n: int) -> np.ndarray:
    """(2n, 3) float32 array without clicks."""
    return np.full((2 * n, 3), UNUSED, np.float32)


def capacity(clicks: Sequence[Click]) -> int:
    """N = max(1, positives, negatives), the evaluation's size of a click tensor."""
    positives = sum(c.positive for c in clicks)
    return max(1, positives, len(clicks) - positives)


def encode(clicks: Sequence[Click], n: int | None = None) -> np.ndarray:
    """Encode clicks in time order; a click's order is its index in the list.

    Args:
        clicks: the clicks, first one first.
        n: rows per polarity; default `capacity(clicks)`.

    Returns:
        (2n, 3) float32.

    Raises:
        ValueError: more than n clicks of one polarity.
    """
    n = capacity(clicks) if n is None else n
    points = empty(n)
    used = [0, 0]
    for order, click in enumerate(clicks):
        half = 0 if click.positive else 1
        if used[half] == n:
            raise ValueError(f"more than {n} {'positive' if click.positive else 'negative'} clicks")
        points[half * n + used[half]] = (click.row, click.col, order)
        used[half] += 1
    return points


def is_used(points: np.ndarray) -> np.ndarray:
    """(..., 2N) bool: False where row and column are both negative, whatever the order."""
    return ~((points[..., 0] < 0) & (points[..., 1] < 0))


def decode(points: np.ndarray) -> list[Click]:
    """The used rows of a (2N, 3) array as clicks, sorted by order (stable)."""
    n = len(points) // 2
    rows = [(float(p[2]), Click(float(p[0]), float(p[1]), i < n)) for i, p in enumerate(points) if is_used(p)]
    return [click for _, click in sorted(rows, key=lambda item: item[0])]
