"""Where a picture of an object has to look: at all of the image, or closer, where click marks would hide the object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import cv2
import numpy as np

from pipeline.clicks.encode import Click

WIDEST = 3  # widths of a panel over its height
MARKS = 8  # radii of a click mark along the longer side of the object's box, at the least
NUMBERED = 5  # pixels: radius from which on a mark has its number
READABLE = 7  # pixels: radius of a mark whose number can be read well, which a closer look leaves room for
LEAST = 16  # image pixels that a closer look shows along a side, at the least
ALMOST_ALL = 0.7  # of both sides of the image: then all of it is shown


def fitted(image: np.ndarray, height: int) -> np.ndarray:
    """An (H, W, 3) picture at the size at which it fits a box of `height` x `WIDEST` times that, 1 pixel at least."""
    scale = _scale(image.shape, height)
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    if scale < 1:  # by parts first: OpenCV takes no side of 32,768 pixels and more
        image = image[:: max(1, image.shape[0] // 16384), :: max(1, image.shape[1] // 16384)]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


def _scale(shape: Sequence[int], height: int) -> float:
    return min(height / shape[0], WIDEST * height / shape[1])


def mark_radius(shape: Sequence[float]) -> int:
    """Radius of a click mark on a picture of this shape, pixels, where nothing asks for a smaller one."""
    return max(4, min(14, round(min(shape[:2]) / 22)))


@dataclass(frozen=True)
class Window:
    """Pixels top to bottom - 1 and left to right - 1 of an image."""

    top: int
    left: int
    bottom: int
    right: int

    @classmethod
    def of(cls, mask: np.ndarray) -> Self | None:
        """The box of an (H, W) bool mask; None of an empty one."""
        rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        return cls(int(rows[0]), int(cols[0]), int(rows[-1]) + 1, int(cols[-1]) + 1) if len(rows) else None

    @property
    def shape(self) -> tuple[int, int]:
        return self.bottom - self.top, self.right - self.left

    def holds(self, click: Click) -> bool:
        return self.top <= click.row < self.bottom and self.left <= click.col < self.right

    def grown(self, click: Click, by: int) -> Window:
        """With what lies `by` pixels around a click."""
        row, col = round(click.row), round(click.col)
        top, left = min(self.top, row - by), min(self.left, col - by)
        return Window(top, left, max(self.bottom, row + by + 1), max(self.right, col + by + 1))

    def wide(self, rows: int, cols: int, shape: Sequence[int]) -> Window:
        """The window made `rows` x `cols` pixels at the least around its middle, and moved and cut to the image."""
        edges = []
        for low, high, least, size in (
            (self.top, self.bottom, rows, shape[0]),
            (self.left, self.right, cols, shape[1]),
        ):
            length = min(size, max(high - low, least))
            start = min(max(0, (low + high - length) // 2), size - length)
            edges.append((start, start + length))
        return Window(edges[0][0], edges[1][0], edges[0][1], edges[1][1])

    def _away(self, click: Click) -> float:
        """Pixels from the window to a click."""
        down = max(self.top - click.row, 0, click.row - self.bottom)
        return float(np.hypot(down, max(self.left - click.col, 0, click.col - self.right)))


def window_for(box: Window | None, clicks: Sequence[Click], shape: Sequence[int], height: int) -> Window:
    """The part of an image to show of an object and the clicks on it.

    All of it, unless click marks of the usual size would be large beside the object. Then the object with a margin and
    as many of the clicks, the nearest first, as leave the object large enough for marks with readable numbers.

    Args:
        box: of the object; None where it has no pixel.
        shape: of the image.
        height: of the panel, pixels.
    """
    whole = Window(0, 0, shape[0], shape[1])
    if box is None:
        return whole
    longer = max(box.shape)
    scale = _scale(shape, height)
    if longer * scale >= MARKS * mark_radius((shape[0] * scale, shape[1] * scale)):
        return whole
    side = max(LEAST, 2 * longer)
    window = box.wide(side, side, shape)
    for click in sorted(clicks, key=box._away):
        larger = window.grown(click, max(1, side // 8))
        larger = larger.wide(larger.shape[1] * 2 // 3, larger.shape[0] * 2 // 3, shape)
        if longer * _scale(larger.shape, height) >= MARKS * READABLE:
            window = larger
    if all(part >= ALMOST_ALL * size for part, size in zip(window.shape, shape)):
        return whole
    return window


class Panel:
    """A part of an image at the size of a report's panel, and what lies on it brought to that size.

    Attributes:
        image: (H, W, 3) uint8.
        whole: whether it is all of the image.
        radius: of click marks, pixels.
    """

    def __init__(self, image: np.ndarray, window: Window, box: Window | None, height: int) -> None:
        self.window, self.whole = window, window.shape == image.shape[:2]
        self.image = np.ascontiguousarray(fitted(self._cut(image), height))
        self.scale = tuple(now / was for now, was in zip(self.image.shape, window.shape))
        longer = 0.0 if box is None else max(side * by for side, by in zip(box.shape, self.scale))
        usual = mark_radius(self.image.shape)
        self.radius = usual if box is None else max(2, min(usual, int(longer / MARKS)))

    def _cut(self, array: np.ndarray) -> np.ndarray:
        return array[self.window.top : self.window.bottom, self.window.left : self.window.right]

    def labels(self, labels: np.ndarray) -> np.ndarray:
        """(H, W) values of the image's pixels, none of them mixed."""
        part = self._cut(labels)
        rows, cols = (np.arange(n) * m // n for n, m in zip(self.image.shape, part.shape))
        return np.ascontiguousarray(part[rows][:, cols])

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """A (H, W) bool mask; where the panel is smaller, a pixel of it that is hit at all stays."""
        if min(self.scale) >= 1:
            return self.labels(mask)
        part = self._cut(mask)
        step = [max(1, n // 16384) for n in part.shape]
        part = np.ascontiguousarray(part[:: step[0], :: step[1]]).astype(np.uint8)
        return cv2.resize(part, self.image.shape[1::-1], interpolation=cv2.INTER_LINEAR) > 0

    def clicks(self, clicks: Sequence[Click]) -> list[Click]:
        """Clicks in the panel's pixels; those outside of the window stay outside."""
        down, right = self.scale
        return [
            Click(
                (c.row - self.window.top + 0.5) * down - 0.5, (c.col - self.window.left + 0.5) * right - 0.5, c.positive
            )
            for c in clicks
        ]

    def outside(self, clicks: Sequence[Click]) -> int:
        """How many clicks it does not show."""
        return sum(not self.window.holds(click) for click in clicks)
