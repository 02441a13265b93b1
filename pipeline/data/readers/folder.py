"""Folders of images and mask files: your own, and the benchmarks that come as such.

| source    | folders                        | mask                                                                  |
|-----------|--------------------------------|-----------------------------------------------------------------------|
| folder    | images/ masks/ or img/ gt/     | first (blue) channel: > 128 object, 128 ignore, less background       |
| grabcut   | data_GT/ boundary_GT/          | as folder                                                             |
| berkeley  | images/ masks/                 | as folder                                                             |
| davis     | img/ gt/                       | any nonzero channel is the object                                     |
| coco-mval | img/ gt/                       | as davis                                                              |
| brats     | image/ annotation/             | as davis                                                              |
| sstem     | raw/ mitochondria/             | each 8-connected component of what is not 0 is an object              |
| oaizib    | test/image test/annotations    | each value but 0 is an object                                         |

The published ssTEM reader asks for 4-connected components, but at the wrong place of an argument list, and gets 8.

An image and its mask have the same name but for the ending. Where the first rule holds, NAME_1, NAME_2, ... are
masks of several objects on the image NAME; what one of them ignores and none claims is ignored for all of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

import cv2
import numpy as np

from pipeline import storage
from pipeline.data.images import decode, decode_image
from pipeline.data.masks import Region, build_row, region
from pipeline.data.readers.base import fetch, stem
from pipeline.data.schema import Row
from pipeline.errors import BadRow, UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
IGNORE = 128

Rule = Literal["trimap", "nonzero", "components", "values"]


@dataclass(frozen=True)
class Layout:
    """Where a family keeps its files: pairs of (image folder, mask folder), the first that exists counts."""

    folders: tuple[tuple[str, str], ...]
    rule: Rule


LAYOUTS = {
    "folder": Layout((("images", "masks"), ("img", "gt")), "trimap"),
    "grabcut": Layout((("data_GT", "boundary_GT"),), "trimap"),
    "berkeley": Layout((("images", "masks"),), "trimap"),
    "davis": Layout((("img", "gt"),), "nonzero"),
    "coco-mval": Layout((("img", "gt"),), "nonzero"),
    "brats": Layout((("image", "annotation"),), "nonzero"),
    "sstem": Layout((("raw", "mitochondria"),), "components"),
    "oaizib": Layout((("test/image", "test/annotations"),), "values"),
}


@dataclass(frozen=True)
class Item:
    """One image and its masks, as names in `image_folder` and `mask_folder` below the root; "" = missing."""

    image_id: str
    image_folder: str
    image: str
    mask_folder: str
    masks: tuple[str, ...]


@dataclass
class FolderReader:
    """Reader of one folder in one of the layouts above."""

    root: str
    source: str = "folder"
    split: str = ""
    left_out: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.split:
            raise UserError(f"{self.source} has no splits; leave out --split {self.split}.")

    def items(self) -> list[Item]:
        image_folder, mask_folder = self._folders()
        images = self._files(image_folder)
        masks: dict[str, list[str]] = {name: [] for name in images}
        for name, file in self._files(mask_folder).items():
            owner = name
            if name not in images and LAYOUTS[self.source].rule == "trimap":
                numbered = re.fullmatch(r"(.+)_(\d+)", name)
                owner = numbered[1] if numbered and numbered[1] in images else name
            masks.setdefault(owner, []).append(file)
        if not images:
            raise UserError(f"{storage.join(self.root, image_folder)} holds no image ({' '.join(SUFFIXES)}).")
        return [
            Item(name, image_folder, images.get(name, ""), mask_folder, tuple(sorted(masks[name], key=_by_number)))
            for name in sorted(masks)
        ]

    def _folders(self) -> tuple[str, str]:
        if not storage.exists(self.root):
            raise UserError(f"There is no folder {self.root}.")
        choices = LAYOUTS[self.source].folders
        for pair in choices:
            if all(storage.is_folder(storage.join(self.root, name)) for name in pair):
                return pair
        wanted = " or ".join(f"{images}/ and {masks}/" for images, masks in choices)
        raise UserError(f"{self.root} is not in the layout of {self.source!r}: it needs {wanted}.")

    def _files(self, folder: str) -> dict[str, str]:
        """File names by stem; other files and hidden ones do not count."""
        found: dict[str, str] = {}
        for uri in storage.list_files(storage.join(self.root, folder), recursive=False):
            name = uri.rsplit("/", 1)[1]
            if name.startswith(".") or not name.lower().endswith(SUFFIXES):
                continue
            if stem(name) in found:
                raise UserError(f"{self.root}/{folder} has both {found[stem(name)]} and {name}: remove one of them.")
            found[stem(name)] = name
        return found

    def name_of(self, item: Item) -> str:
        return item.image_id

    def path_of(self, item: Item) -> str:
        if item.image:
            return storage.join(self.root, item.image_folder, item.image)
        return storage.join(self.root, item.mask_folder, item.masks[0])

    def read(self, item: Item, aside: list[BadRow] | None = None) -> Row:
        if not item.image:
            raise BadRow("image is missing", f"mask {item.masks[0]} has no image {item.image_id}")
        data = fetch(storage.join(self.root, item.image_folder), item.image)
        shape = decode_image(data, strict=True).shape[:2]
        if not item.masks:
            raise BadRow("mask is missing", f"no mask {item.image_id} in {item.mask_folder}/")
        objects: list[Region] = []
        claimed, ignored = np.zeros(shape, bool), np.zeros(shape, bool)
        rule = LAYOUTS[self.source].rule
        for name in item.masks:
            values = self._mask(item, name, shape)
            mine = values > (IGNORE if rule == "trimap" else 0)
            found = _regions(values, mine, rule)
            if not found:
                problem = BadRow("object with no pixels", f"{name} holds the values {np.unique(values)[:8].tolist()}")
                if aside is None or len(item.masks) == 1:
                    raise problem
                aside.append(problem)
                continue
            objects += found
            claimed |= mine
            if rule == "trimap":
                ignored |= values == IGNORE
        if not objects:
            raise BadRow("object with no pixels", f"all {len(item.masks)} masks are empty")
        return build_row(item.image_id, data, shape, objects, ignore=ignored & ~claimed, source=self.source)

    def _mask(self, item: Item, name: str, shape: tuple[int, int]) -> np.ndarray:
        """(H, W) mask values: the first channel, the largest where any channel counts, or a grey file's own numbers."""
        folder, rule = storage.join(self.root, item.mask_folder), LAYOUTS[self.source].rule
        flags = cv2.IMREAD_UNCHANGED if rule == "values" else cv2.IMREAD_COLOR  # which cuts 16 bits to 8
        colours = decode(fetch(folder, name, "mask"), flags, strict=True, what="mask")
        if colours.shape[:2] != shape:
            sizes = f"image {shape[0]} x {shape[1]}, {name} {colours.shape[0]} x {colours.shape[1]}"
            raise BadRow("mask has another size", sizes)
        if rule == "values":
            grey = colours.reshape(*shape, -1)[..., :3]
            if (grey != grey[..., :1]).any():
                raise BadRow("mask is not grey", f"{name}: the colours of a pixel are no number of an object")
            return grey[..., 0]
        return colours[..., 0] if rule == "trimap" else colours.max(axis=2)


def _regions(values: np.ndarray, mine: np.ndarray, rule: Rule) -> list[Region]:
    """Objects of one mask, in the order of their numbers or of their first pixels."""
    if rule == "components":
        count, values = cv2.connectedComponents(mine.astype(np.uint8), connectivity=8)
        numbers = range(1, count)
    elif rule == "values":
        numbers = np.unique(values[mine])
    else:
        found = region(mine)
        return [] if found is None else [found]
    return [found for number in numbers if (found := region(values == number)) is not None]


def _by_number(name: str) -> tuple[int, str]:
    numbered = re.search(r"_(\d+)$", stem(name))
    return (int(numbered[1]) if numbered else -1, name)
