"""Geometry and colour of a training sample: f(sample, rng) -> sample (docs/method.md, section 4; coco-lvis and sbd).

The plain chain is resize, flip (sbd: flips, quarter turn, shift and rotation), pad with zeros, random crop, brightness
and contrast, colour shift. Here its random numbers are drawn first (`Geometry`, `colour_table`) and then applied to
the image, to the label layers that are needed and to the ignore map. Label maps go first: only when the crop shows an
object is the image touched, so drawing again costs little.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from pipeline.config import Data
from pipeline.data.schema import ObjectInfo, Sample

FLIP_PROB = TURN_PROB = 0.5
FLIPS = (0, 1, -1)  # OpenCV's codes: vertical, horizontal, both
AFFINE_PROB = 0.75
SHIFT = 0.03  # Of each side
ROTATION = 3.0  # Degrees
COLOUR_PROB = 0.75
BRIGHTNESS = (-0.25, 0.25)
CONTRAST = (-0.15, 0.40)
RGB_SHIFT = 10.0
MAX_DRAWS = 10_000  # A guard: even one object in the corner of a 12 megapixel photograph is met far earlier


@dataclass(frozen=True)
class Geometry:
    """One draw of the geometric chain, applied alike to images (bilinear) and label maps (nearest).

    Attributes:
        size: (height, width) after the resize, pixels.
        flip: OpenCV flip code or None.
        turns: quarter turns counter-clockwise.
        matrix: (2, 3) float64 forward map of shift and rotation in OpenCV's (x, y), or None.
        place: row and column of the crop in units of the free range, [0, 1).
        crop: side of the crop, pixels.
    """

    size: tuple[int, int]
    flip: int | None
    turns: int
    matrix: np.ndarray | None
    place: tuple[float, float]
    crop: int

    @staticmethod
    def draw(shape: tuple[int, int], data: Data, rng: np.random.Generator) -> Geometry:
        """Draw for an image of `shape` (height, width)."""
        scale = rng.uniform(*data.resize)
        height, width = (max(1, round(side * scale)) for side in shape)
        flip, turns, matrix = None, 0, None
        if data.augmentation == "coco-lvis":
            if rng.random() < FLIP_PROB:
                flip = 1
        else:
            if rng.random() < FLIP_PROB:
                flip = FLIPS[rng.integers(3)]
            if rng.random() < TURN_PROB:
                turns = int(rng.integers(4))
            if rng.random() < AFFINE_PROB:
                turned = (width, height) if turns % 2 else (height, width)
                matrix = _shift_and_rotation(turned, rng)
        return Geometry((height, width), flip, turns, matrix, (rng.random(), rng.random()), data.crop)

    def apply(self, pixels: np.ndarray, nearest: bool) -> np.ndarray:
        """(H, W) or (H, W, 3) uint8 -> (crop, crop[, 3]) uint8, C-contiguous, never a view of the input."""
        height, width = self.size
        if pixels.shape[:2] != self.size:
            mode = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
            pixels = cv2.resize(pixels, (width, height), interpolation=mode)
        if self.matrix is None and self.turns == 0:
            return self._crop(pixels, self.flip)
        if self.flip is not None:
            pixels = cv2.flip(pixels, self.flip)
        if self.turns:
            pixels = np.ascontiguousarray(np.rot90(pixels, self.turns))
        if self.matrix is not None:
            mode = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
            pixels = cv2.warpAffine(pixels, self.matrix, pixels.shape[1::-1], flags=mode, borderValue=0)
        return self._crop(pixels, None)

    def _crop(self, pixels: np.ndarray, flip: int | None) -> np.ndarray:
        """Pad and crop; the flip, which comes before them, is done on the piece that the crop keeps."""
        rows, top = self._window(pixels.shape[0], self.place[0], flip in (0, -1))
        cols, left = self._window(pixels.shape[1], self.place[1], flip in (1, -1))
        piece = pixels[rows, cols]
        if flip is not None:
            piece = cv2.flip(piece, flip)
        if piece.shape[:2] == (self.crop, self.crop):
            return piece if flip is not None else piece.copy()
        result = np.zeros((self.crop, self.crop, *pixels.shape[2:]), np.uint8)
        result[top : top + piece.shape[0], left : left + piece.shape[1]] = piece
        return result

    def _window(self, side: int, u: float, mirrored: bool) -> tuple[slice, int]:
        """The part of an axis of `side` pixels that the crop keeps, and its first pixel in the crop."""
        missing = max(0, self.crop - side)
        offset = int((side + missing - self.crop) * u)
        start, stop = offset, min(offset + self.crop, side)
        if mirrored:
            start, stop = side - stop, side - start
        return slice(start, stop), missing // 2

    def may_show(self, box: tuple[int, int, int, int], shape: tuple[int, int]) -> bool:
        """False when the crop surely misses a box (top, left, bottom, right; ends excluded) of an image of `shape`."""
        if self.turns or self.matrix is not None:
            return True
        ends = ((box[0], box[2], self.flip in (0, -1)), (box[1], box[3], self.flip in (1, -1)))
        for side, old, u, (start, stop, mirrored) in zip(self.size, shape, self.place, ends):
            kept, _ = self._window(side, u, mirrored)
            # Nearest neighbours lie less than a pixel (of either map) away from the exact place.
            margin = 1 + side / old
            if stop * side / old + margin <= kept.start or start * side / old - margin >= kept.stop:
                return False
        return True


def _shift_and_rotation(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    height, width = shape
    angle = rng.uniform(-ROTATION, ROTATION)
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1.0)
    matrix[0, 2] += rng.uniform(-SHIFT, SHIFT) * width
    matrix[1, 2] += rng.uniform(-SHIFT, SHIFT) * height
    return matrix


def colour_table(rng: np.random.Generator) -> np.ndarray | None:
    """(256, 3) uint8 new value of every value and channel after brightness/contrast and RGB shift; None: unchanged.

    Both steps clip and truncate to uint8, so one table composes them exactly.
    """
    table = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    bright, shifted = rng.random() < COLOUR_PROB, rng.random() < COLOUR_PROB
    if bright:
        brightness, contrast = rng.uniform(*BRIGHTNESS), rng.uniform(*CONTRAST)
        values = table.astype(np.float32) * np.float32(1 + contrast) + np.float32(255 * brightness)
        table = np.clip(values, 0, 255).astype(np.uint8)
    if shifted:
        shift = rng.uniform(-RGB_SHIFT, RGB_SHIFT, size=3).astype(np.float32)
        table = np.clip(table.astype(np.float32) + shift, 0, 255).astype(np.uint8)
    return table if bright or shifted else None


def recolour(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) uint8 image with random brightness, contrast and colour shift; the input itself when none is drawn."""
    table = colour_table(rng)
    if table is None:
        return image
    columns = np.ascontiguousarray(table.T)  # OpenCV looks up three channels one by one in two thirds of the time
    return cv2.merge([cv2.LUT(channel, column) for channel, column in zip(cv2.split(image), columns, strict=True)])


def drop_objects(objects: list[ObjectInfo], keep: list[bool]) -> list[ObjectInfo]:
    """The objects to keep; children of a dropped one move to its nearest kept ancestor (or become roots)."""
    new_index = {old: new for new, old in enumerate(i for i, kept in enumerate(keep) if kept)}

    def ancestor(parent: int) -> int:
        while parent >= 0 and not keep[parent]:
            parent = objects[parent].parent
        return new_index[parent] if parent >= 0 else -1

    return [replace(o, parent=ancestor(o.parent)) for o, kept in zip(objects, keep, strict=True) if kept]


def _labels(
    sample: Sample, objects: list[ObjectInfo], draw: Geometry
) -> tuple[np.ndarray, list[ObjectInfo], np.ndarray | None]:
    """Cropped layers, objects with the layers' new numbers and areas in the crop, cropped ignore map."""
    ignore = None
    if sample.ignore is not None:
        ignore = draw.apply(sample.ignore.view(np.uint8), nearest=True).view(bool)
    used = sorted({o.layer for o in objects})
    layers = np.zeros((max(1, len(used)), draw.crop, draw.crop), np.uint8)
    areas = np.zeros((max(1, len(used)), 256), np.int64)
    for new, old in enumerate(used):
        layer = draw.apply(sample.layers[old], nearest=True)
        if ignore is not None:
            layer[ignore] = 0
        areas[new] = cv2.calcHist([layer], [0], None, [256], [0, 256]).ravel()
        known = np.zeros(256, np.uint8)
        labels = [o.label for o in objects if o.layer == old]
        known[labels] = labels
        # Labels of regions that are no objects of this sample (stuff) become background.
        layers[new] = layer if not np.any((known == 0)[1:] & (areas[new] > 0)[1:]) else cv2.LUT(layer, known)
    place = {old: new for new, old in enumerate(used)}
    found = [replace(o, layer=place[o.layer], area=int(areas[place[o.layer], o.label])) for o in objects]
    return layers, found, ignore


def _box(sample: Sample, objects: list[ObjectInfo]) -> tuple[int, int, int, int]:
    """(top, left, bottom, right), ends excluded, of all pixels of the objects; ignored pixels are not looked at."""
    shown = np.logical_or.reduce([sample.layers[o.layer] == o.label for o in objects])
    col, row, width, height = cv2.boundingRect(shown.view(np.uint8))
    return row, col, row + height, col + width


def crop_sample(sample: Sample, data: Data, rng: np.random.Generator) -> Sample:
    """The geometric half of `augment`: crop, choose whether stuff counts, redraw, drop small objects.

    The whole chain is drawn again while the crop shows no object pixel, except with `keep_background_prob`. Dropped
    objects (under `min_object_area` pixels) keep their label pixels, so they still count as "other object".
    """
    stuff = rng.random() < data.stuff_prob
    keep = [stuff or o.kind != "stuff" for o in sample.objects]
    objects = drop_objects(sample.objects, keep)
    shape = sample.image.shape[:2]
    box: tuple[int, int, int, int] | None = None
    draws = 0
    while True:
        draws += 1
        draw = Geometry.draw(shape, data, rng)
        keep_background = rng.random() < data.keep_background_prob or draws == MAX_DRAWS
        if draws > 1 and not keep_background:  # Not the first time: then looking for the objects' box pays
            box = box or _box(sample, objects)
            if not draw.may_show(box, shape):
                continue
        layers, found, ignore = _labels(sample, objects, draw)
        # Without any object every crop is background: drawing again would give the same distribution.
        if keep_background or not objects or any(o.area for o in found):
            break
    image = draw.apply(sample.image, nearest=False)
    found = drop_objects(found, [o.area >= max(1, data.min_object_area) for o in found])
    return Sample(image, layers, found, ignore, sample.image_id)


def augment(sample: Sample, data: Data, rng: np.random.Generator) -> Sample:
    """One augmented sample of side `data.crop`: geometry, then colour.

    Args:
        sample: a decoded row; not changed.
        data: augmentation family, resize range, crop, stuff and area rules.
        rng: generator of this sample and stage.

    Returns:
        Sample with (C, C, 3) image and (L, C, C) layers that share no memory with the input; its objects carry their
        areas in the crop. Ignored pixels have no label.
    """
    cropped = crop_sample(sample, data, rng)
    return replace(cropped, image=recolour(cropped.image, rng))
