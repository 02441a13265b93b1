"""Drawn pictures whose objects can only be told apart by looking: pure functions of a generator.

Objects, their parts and the background take their textures from the same families and often their colours from the
same palette; objects overlap, parts nest, unlabelled clutter lies between, light falls unevenly.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from pipeline.data.masks import region

Array = np.ndarray
MIN_VISIBLE = 0.003  # of the picture; things that show less are not annotated
MIN_PART = 90  # pixels
MARGIN = 14  # pixels around a shape that its soft edge and shadow reach


@dataclass
class Thing:
    """One object as it is seen: pixels that nothing covers.

    Attributes:
        mask: (H, W) bool.
        parts: (H, W) bool masks inside it; a part may lie inside an earlier one.
    """

    mask: Array
    parts: list[Array] = field(default_factory=list)


@dataclass
class Scene:
    """A picture and what is in it.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        things: objects, the farthest first.
        stuff: (H, W) bool visible background regions.
    """

    image: Array
    things: list[Thing]
    stuff: list[Array]


def draw_scene(rng: np.random.Generator, height: int, width: int) -> Scene:
    """Draw one picture with some 3 to 8 objects."""
    palette = [_colour(rng) for _ in range(5)]
    image, stuff = _background(rng, height, width, palette)
    things: list[Thing] = []
    for _ in range(int(rng.integers(3, 9))):
        for _ in range(int(rng.integers(0, 3))):
            clutter = _shape(rng, height, width, rng.uniform(0.02, 0.06))
            _hide(things, stuff, clutter)
            _paint(image, clutter, palette, rng)
        things.append(_add_thing(rng, image, things, stuff, palette))
    image *= _field(rng, height, width, 3, 0.75, 1.15)[..., None]
    if rng.random() < 0.5:
        image = cv2.GaussianBlur(image, (3, 3), float(rng.uniform(0.4, 0.9)))
    image += rng.normal(0, rng.uniform(1, 6), (height, width, 1)).astype(np.float32)
    seen = [t for t in things if np.count_nonzero(t.mask) >= MIN_VISIBLE * height * width]
    for thing in seen:
        thing.parts = [part for part in thing.parts if np.count_nonzero(part) >= MIN_PART]
    return Scene(np.clip(image, 0, 255).astype(np.uint8), seen, stuff)


def _add_thing(
    rng: np.random.Generator, image: Array, things: list[Thing], stuff: list[Array], palette: list[Array]
) -> Thing:
    height, width = image.shape[:2]
    mask = _shape(rng, height, width, rng.uniform(0.08, 0.30))
    if not mask.any():
        mask = _shape(rng, height, width, 0.2, centre=(height / 2, width / 2))
    _hide(things, stuff, mask)
    _paint(image, mask, palette, rng, shadow=True)
    thing = Thing(mask)
    inside = mask
    for _ in range(int(rng.integers(0, 4))):
        part = _part(rng, inside)
        if part is None:
            break
        _paint(image, part, palette, rng)
        # What lies inside an older part stays a part of it; what crosses one covers it.
        thing.parts = [old if (part <= old).all() else old & ~part for old in thing.parts]
        thing.parts.append(part)
        inside = part if rng.random() < 0.4 else mask
    return thing


def _part(rng: np.random.Generator, inside: Array) -> Array | None:
    """A shape inside a mask, None when there is hardly room."""
    rows, cols = np.nonzero(inside)
    if len(rows) < 4 * MIN_PART:
        return None
    pick = int(rng.integers(len(rows)))
    size = np.sqrt(len(rows) / inside.size) * rng.uniform(0.2, 0.45)
    height, width = inside.shape
    part = _shape(rng, height, width, size, centre=(rows[pick], cols[pick])) & inside
    return part if MIN_PART <= np.count_nonzero(part) < 0.8 * len(rows) else None


def _hide(things: list[Thing], stuff: list[Array], mask: Array) -> None:
    for thing in things:
        thing.mask &= ~mask
        for part in thing.parts:
            part &= ~mask
    for ground in stuff:
        ground &= ~mask


def _shape(
    rng: np.random.Generator, height: int, width: int, size: float, centre: tuple[float, float] | None = None
) -> Array:
    """(H, W) bool filled outline: a smooth blob or a polygon, `size` = radius over the longer side."""
    corners = int(rng.integers(3, 8)) if rng.random() < 0.35 else 64
    angle = np.sort(rng.uniform(0, 2 * np.pi, corners)) if corners < 64 else np.linspace(0, 2 * np.pi, 64, False)
    radius = np.ones(corners)
    for wave in range(2, 6):
        radius += rng.uniform(0, 0.45) / wave * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
    stretch, turn = rng.uniform(0.45, 1.0), rng.uniform(0, 2 * np.pi)
    x, y = radius * np.cos(angle), stretch * radius * np.sin(angle)
    row, col = centre if centre is not None else (rng.uniform(0, height), rng.uniform(0, width))
    reach = size * max(height, width)
    cols = col + reach * (x * np.cos(turn) - y * np.sin(turn))
    rows = row + reach * (x * np.sin(turn) + y * np.cos(turn))
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [np.stack([cols, rows], axis=1).round().astype(np.int32)], 1)
    return mask > 0


def _background(rng: np.random.Generator, height: int, width: int, palette: list[Array]) -> tuple[Array, list[Array]]:
    image = _texture(rng, height, width, palette)
    border = _field(rng, height, width, 2, 0.0, 1.0) + np.linspace(-0.4, 0.4, height, dtype=np.float32)[:, None]
    other = border > rng.uniform(0.3, 0.7)
    _paint(image, other, palette, rng)
    return image, [ground for ground in (~other, other) if ground.any()]


def _paint(image: Array, mask: Array, palette: list[Array], rng: np.random.Generator, shadow: bool = False) -> None:
    """Fill a mask with a new texture: soft edge, shading and (for objects) a cast shadow. Works on the mask's box."""
    seen = region(mask)
    if seen is None:
        return
    top, left = max(0, seen.box[0] - MARGIN), max(0, seen.box[2] - MARGIN)
    window = slice(top, seen.box[1] + 1 + MARGIN), slice(left, seen.box[3] + 1 + MARGIN)
    mask, image = mask[window], image[window]
    height, width = mask.shape
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), float(rng.uniform(0.4, 0.8)))
    if shadow:
        shift = np.array([[1, 0, rng.uniform(-6, 6)], [0, 1, rng.uniform(0, 6)]], np.float32)
        cast = cv2.GaussianBlur(cv2.warpAffine(soft, shift, (width, height)), (0, 0), 3)
        image *= 1 - float(rng.uniform(0, 0.45)) * cast[..., None]
    # Darker towards the rim, as round things look; a random share, so that the rim alone is no proof.
    small = cv2.resize(soft, (max(1, width // 4), max(1, height // 4)), interpolation=cv2.INTER_AREA)
    depth = cv2.resize(cv2.GaussianBlur(small, (0, 0), 3), (width, height))
    strength = float(rng.uniform(0, 0.5))
    light = (1 - strength + strength * depth) * _field(rng, height, width, 2, 0.85, 1.1)
    image += soft[..., None] * (_texture(rng, height, width, palette) * light[..., None] - image)


def _field(rng: np.random.Generator, height: int, width: int, cells: int, low: float, high: float) -> Array:
    """(H, W) float32 smooth random field in about low..high, `cells` bumps along a side."""
    grid = rng.random((cells + 1, cells + 1)).astype(np.float32)
    return low + (high - low) * np.clip(cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC), 0, 1)


def _colour(rng: np.random.Generator) -> Array:
    """(3,) float32 RGB, seldom loud."""
    grey = rng.uniform(30, 225)
    return np.clip(grey + rng.normal(0, rng.uniform(5, 55), 3), 0, 255).astype(np.float32)


def _texture(rng: np.random.Generator, height: int, width: int, palette: list[Array]) -> Array:
    """(H, W, 3) float32 two-coloured pattern; colours from the palette two times in three."""
    first, second = (palette[rng.integers(len(palette))] if rng.random() < 0.66 else _colour(rng) for _ in range(2))
    if rng.random() < 0.3:  # nearly plain
        second = np.clip(first + rng.normal(0, 14, 3), 0, 255).astype(np.float32)
    return first + _pattern(rng, height, width)[..., None] * (second - first)


def _pattern(rng: np.random.Generator, height: int, width: int) -> Array:
    """(H, W) float32 in 0..1: clouds, stripes, checks, dots, rings or grain."""
    y, x = np.ogrid[0:height, 0:width]
    y, x = y.astype(np.float32), x.astype(np.float32)
    turn, period = rng.uniform(0, np.pi), rng.uniform(6, 40)
    bend = _field(rng, height, width, 4, 0.0, float(rng.uniform(0, 3)))
    along = (x * np.cos(turn) + y * np.sin(turn)) * np.float32(2 * np.pi / period) + bend
    across = (y * np.cos(turn) - x * np.sin(turn)) * np.float32(2 * np.pi / period) + bend
    kind = rng.integers(6)
    if kind == 0:
        wave = sum(_field(rng, height, width, int(cells), -1, 1) for cells in rng.integers(3, 30, 3)) / np.float32(1.7)
    elif kind == 1:
        wave = np.sin(along)
    elif kind == 2:
        wave = np.sin(along) * np.sin(across)
    elif kind == 3:
        wave = np.cos(along) + np.cos(across) - 1
    elif kind == 4:
        centre_y, centre_x = rng.uniform(0, height), rng.uniform(0, width)
        wave = np.sin(np.hypot(x - centre_x, y - centre_y) * np.float32(2 * np.pi / period) + bend)
    else:
        grain = rng.normal(0, 2, (height, width)).astype(np.float32)
        wave = cv2.GaussianBlur(grain, (0, 0), float(rng.uniform(0.6, 1.6)))
    sharp = np.float32(rng.uniform(0.5, 3.0))  # soft waves to hard edges
    return np.clip(0.5 + 0.5 * sharp * wave, 0, 1).astype(np.float32)
