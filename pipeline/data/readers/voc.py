"""PASCAL VOC 2012 segmentation with its instances.

    ROOT/JPEGImages/NAME.jpg  SegmentationObject/NAME.png  ImageSets/Segmentation/{train,val,trainval}.txt

| source   | object                      | ignore         |
|----------|-----------------------------|----------------|
| voc      | palette index 1..254        | index 255      |
| voc-grey | grey value of the palette's | grey value 220 |

The published evaluations decode the palette to grey values. Indices 1 and 16, 3 and 18, 6 and 21, 9 and 24 have the
same one, so that two instances of one image become one object; `voc-grey` reproduces that. Which was used is the row's
and the manifest's source.
"""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import dataclass, field

import cv2
import numpy as np
from PIL import Image

from pipeline import storage
from pipeline.data.images import decode, decode_image
from pipeline.data.mask_files import read_labels
from pipeline.data.masks import build_row, region
from pipeline.data.readers.base import fetch, name_list, need_folders, sizes
from pipeline.data.schema import Row
from pipeline.errors import BadRow, UserError, did_you_mean

SPLITS = ("train", "val", "trainval")
FOLDERS = ["JPEGImages", "SegmentationObject", "ImageSets/Segmentation"]
VOID_INDEX, VOID_GREY = 255, 220


@dataclass
class VocReader:
    """Reader of one split; an item is the name of an image."""

    root: str
    split: str = "val"
    source: str = "voc"
    left_out: dict[str, int] = field(default_factory=dict)
    understood: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            hint = did_you_mean(self.split, SPLITS)
            raise UserError(f"{self.source} has no split {self.split!r}: {', '.join(SPLITS)}.{hint}")

    def items(self) -> list[str]:
        self.root = need_folders(self.root, FOLDERS, self.source)
        return name_list(storage.join(self.root, "ImageSets/Segmentation", f"{self.split}.txt"))

    def name_of(self, item: str) -> str:
        return item

    def path_of(self, item: str) -> str:
        return storage.join(self.root, "JPEGImages", f"{item}.jpg")

    def read(self, item: str, aside: list[BadRow] | None = None) -> Row:
        data = fetch(storage.join(self.root, "JPEGImages"), f"{item}.jpg")
        shape = decode_image(data, strict=True).shape[:2]
        mask = fetch(storage.join(self.root, "SegmentationObject"), f"{item}.png", "mask")
        grey = self.source == "voc-grey"
        values, void = (grey_values(mask), VOID_GREY) if grey else (palette_indices(mask), VOID_INDEX)
        if values.shape != shape:
            detail = f"image {sizes(shape)}, {item}.png {sizes(values.shape)}"
            raise BadRow("mask has another size", detail)
        numbers = [number for number in np.unique(values) if number not in (0, void)]
        objects = [found for number in numbers if (found := region(values == number)) is not None]
        if not objects:
            raise BadRow("object with no pixels", f"{item}.png holds no object")
        return build_row(item, data, shape, objects, ignore=values == void, source=self.source)


def palette_indices(data: bytes) -> np.ndarray:
    """(H, W) uint8 indices of a palette PNG (or the values of a grey one).

    Raises:
        BadRow: it does not decode, or holds colours, in which the indices are lost.
    """
    decode(data, cv2.IMREAD_COLOR, strict=True, what="mask")  # refuses what is cut off or too large
    with Image.open(io.BytesIO(data)) as image:
        if image.mode not in ("P", "L"):
            raise BadRow("mask is no palette picture", f"its mode is {image.mode}")
        return np.array(image)


def grey_values(data: bytes) -> np.ndarray:
    """(H, W) uint8 grey values of the colours, as OpenCV weighs them.

    Raises:
        BadRow: it does not decode, or holds what the colours do not show.
    """
    read_labels(data)
    return cv2.cvtColor(decode(data, cv2.IMREAD_COLOR, strict=True, what="mask"), cv2.COLOR_BGR2GRAY)
