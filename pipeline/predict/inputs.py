"""What people hand over: images as arrays, Pillow images, bytes, paths and URIs; clicks as arrays; devices by name."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from pipeline import storage
from pipeline.clicks.encode import Click
from pipeline.data.images import decode_image
from pipeline.errors import BadRow, UserError


def to_pixels(image: Any) -> np.ndarray:
    """(H, W, 3) uint8 RGB of an image, turned as its EXIF orientation says.

    Args:
        image: path or URI, the bytes of a file, a Pillow image, or (H, W, 3) uint8 RGB, which is copied.

    Raises:
        UserError: none of these, or a file that is no image.
    """
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise UserError(
                f"An image array is (H, W, 3) uint8 RGB; this one is {image.shape} {image.dtype}. (Grey: "
                "np.stack([grey] * 3, axis=2); values up to 1: (255 * image).astype('uint8').)"
            )
        return image.copy()
    if isinstance(image, Image.Image):
        turned = ImageOps.exif_transpose(image)
        return np.array(turned.convert("RGB"))
    if isinstance(image, str | os.PathLike):
        name = str(image)
        uri = storage.absolute(name)
        if not storage.exists(uri) or storage.is_folder(uri):
            raise UserError(f"There is no image {name}.")
        data = storage.read_bytes(uri)
    elif isinstance(image, bytes | bytearray | memoryview):
        name, data = f"{len(image)} bytes", bytes(image)
    else:
        raise UserError(f"An image is a path, a URI, bytes, a Pillow image or an array, not {type(image).__name__}.")
    try:
        return decode_image(data)
    except BadRow as bad:
        raise UserError(f"{name}: {bad}.") from bad


def to_click(x: float, y: float, positive: bool, size: tuple[int, int]) -> Click:
    """A click on an image of `size` (H, W).

    Raises:
        UserError: outside of it.
    """
    height, width = size
    if not (0 <= x < width and 0 <= y < height):
        raise UserError(f"The click ({x}, {y}) is outside of the image, which is {width} x {height} (x, y from 0).")
    row, col = (int(v) if float(v).is_integer() else float(v) for v in (y, x))
    return Click(row, col, bool(positive))


def to_clicks(coords: Any, labels: Any, size: tuple[int, int]) -> list[Click]:
    """Clicks from (N, 2) x and y and (N,) labels 1 or 0.

    Raises:
        UserError: none, other shapes or labels, or one outside of the image.
    """
    points = np.asarray([] if coords is None else coords, dtype=np.float64)
    polarity = np.asarray([] if labels is None else labels)
    if points.size == 0:
        raise UserError("There is no click: give point_coords=[[x, y], ...] and point_labels=[1, ...].")
    if points.ndim != 2 or points.shape[1] != 2 or polarity.shape != (len(points),):
        raise UserError(f"point_coords is (N, 2) and point_labels (N,); these are {points.shape} and {polarity.shape}.")
    if not np.isin(polarity, (0, 1)).all():
        raise UserError(f"point_labels are 1 (positive) or 0 (negative), not {sorted(set(polarity.tolist()))}.")
    return [to_click(x, y, bool(p), size) for (x, y), p in zip(points.tolist(), polarity.tolist(), strict=True)]


def to_device(name: str) -> torch.device:
    """The device of a name; auto: a GPU where there is one.

    Raises:
        UserError: no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device is auto, cpu or cuda, not {name!r}.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"There is no GPU {name}: this machine has {torch.cuda.device_count()} that torch can use.")
    return device
