"""Folders of images and mask files: your own, and the benchmarks that come as such.

| source    | folders                        | mask                                                                  |
|-----------|--------------------------------|-----------------------------------------------------------------------|
| folder    | images/ masks/ or img/ gt/     | by its values, see `mask_rules.understand`                            |
| grabcut   | data_GT/ boundary_GT/          | grey: > 128 object, 128 ignore, less background                       |
| berkeley  | images/ masks/                 | as grabcut                                                            |
| davis     | img/ gt/                       | any nonzero channel is the object                                     |
| coco-mval | img/ gt/                       | as davis                                                              |
| brats     | image/ annotation/             | as davis                                                              |
| sstem     | raw/ mitochondria/             | each 8-connected component of what is not 0 is an object              |
| oaizib    | test/image test/annotations    | each value but 0 is an object                                         |

The published ssTEM reader asks for 4-connected components, but at the wrong place of an argument list, and gets 8.

An image and its mask have the same name but for the ending. In `folder`, `grabcut` and `berkeley`, NAME_1, NAME_2, ...
are masks of several objects on the image NAME; what one of them ignores and none claims is ignored for all of them.
Where names leave open which mask belongs to which image (two files that differ in ending, case or Unicode form only),
the images in question are set aside.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from pipeline import storage
from pipeline.data.images import decode_image, exif_orientation, orient
from pipeline.data.mask_files import Labels, read_labels
from pipeline.data.mask_rules import RULES, Rule, objects_of
from pipeline.data.masks import Region, build_row
from pipeline.data.readers.base import fetch, find_folders, folded, sizes, stem
from pipeline.data.schema import Row
from pipeline.errors import BadRow, UserError, did_you_mean

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
AMBIGUOUS = "two files of one name"
NUMBERED = ("trimap", "auto", *RULES)


@dataclass(frozen=True)
class Layout:
    """Where a family keeps its files: pairs of (image folder, mask folder), the first that exists counts."""

    folders: tuple[tuple[str, str], ...]
    rule: Rule


LAYOUTS = {
    "folder": Layout((("images", "masks"), ("img", "gt")), "auto"),
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
    """One image and its masks, as names in `image_folder` and `mask_folder` below the root; "" = missing.

    Attributes:
        problem: why nobody can tell which files belong together; "" if it is clear.
    """

    image_id: str
    image_folder: str
    image: str
    mask_folder: str
    masks: tuple[str, ...]
    problem: str = ""


@dataclass
class FolderReader:
    """Reader of one folder in one of the layouts above.

    Attributes:
        masks: of `folder`, what the numbers of masks mean: "" = by their values, else one of `RULES`.
    """

    root: str
    source: str = "folder"
    split: str = ""
    masks: str = ""
    left_out: dict[str, int] = field(default_factory=dict)
    understood: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        if self.split:
            raise UserError(f"{self.source} has no splits; leave out --split {self.split}.")
        if self.masks and self.masks not in RULES:
            hint = did_you_mean(self.masks, RULES)
            raise UserError(f"--masks {self.masks!r} is none of {', '.join(RULES)}.{hint}")
        if self.masks and self.source != "folder":
            raise UserError(f"--masks says what masks of 'folder' mean; {self.source!r} has a rule of its own.")

    @property
    def rule(self) -> str:
        return self.masks or LAYOUTS[self.source].rule

    def items(self) -> list[Item]:
        image_folder, mask_folder = self._folders()
        images, masks = self._files(image_folder), self._files(mask_folder)
        if not images:
            raise UserError(f"{storage.join(self.root, image_folder)} holds no image ({' '.join(SUFFIXES)}).")
        owned: dict[str, list[str]] = {key: [] for key in images}
        problems: dict[str, str] = {}
        for key, files in masks.items():
            owner = self._owner(key, images, masks)
            owned.setdefault(owner, []).extend(files)
            if len(files) > 1:
                problems[owner] = f"masks {files[0]} and {files[1]}"
            if owner == key and (other := self._second_owner(key, images, masks)):
                for name in (key, other):
                    problems[name] = f"mask {files[0]} may belong to image {images[key][0]} or {images[other][0]}"
        problems |= {key: f"images {files[0]} and {files[1]}" for key, files in images.items() if len(files) > 1}
        items = []
        for key in sorted(owned):
            found = images.get(key, [])
            for image in found or [""]:
                name = image if len(found) > 1 else stem(image) if image else stem(owned[key][0])
                ordered = tuple(sorted(owned[key], key=_by_number))
                items.append(Item(name, image_folder, image, mask_folder, ordered, problems.get(key, "")))
        return items

    def _owner(self, key: str, images: dict[str, list[str]], masks: dict[str, list[str]]) -> str:
        """The image that a mask belongs to."""
        numbered = self._numbered(key)
        return numbered if key not in images and numbered in images else key

    def _second_owner(self, key: str, images: dict[str, list[str]], masks: dict[str, list[str]]) -> str:
        """NAME, where the mask of image NAME_2 may as well be the second one of image NAME; else ""."""
        name = self._numbered(key)
        if key not in images or name not in images or name in masks:
            return ""
        return name

    def _numbered(self, key: str) -> str:
        found = re.fullmatch(r"(.+)_(\d+)", key) if self.rule in NUMBERED else None
        return found[1] if found else ""

    def _folders(self) -> tuple[str, str]:
        choices = LAYOUTS[self.source].folders
        self.root, pair = find_folders(self.root, choices, repr(self.source))
        return pair[0], pair[1]

    def _files(self, folder: str) -> dict[str, list[str]]:
        """File names by folded stem; other files and hidden ones do not count."""
        found: dict[str, list[str]] = {}
        for uri in storage.list_files(storage.join(self.root, folder), recursive=False):
            name = uri.rsplit("/", 1)[1]
            if not name.startswith(".") and name.lower().endswith(SUFFIXES):
                found.setdefault(folded(stem(name)), []).append(name)
        return found

    def name_of(self, item: Item) -> str:
        return item.image_id

    def path_of(self, item: Item) -> str:
        if item.image:
            return storage.join(self.root, item.image_folder, item.image)
        return storage.join(self.root, item.mask_folder, item.masks[0])

    def read(self, item: Item, aside: list[BadRow] | None = None) -> Row:
        if item.problem:
            raise BadRow(AMBIGUOUS, f"{item.problem}: nobody can tell which mask belongs to which image")
        if not item.image:
            raise BadRow("image is missing", f"mask {item.masks[0]} has no image {item.image_id}")
        data = fetch(storage.join(self.root, item.image_folder), item.image)
        shape = decode_image(data, strict=True).shape[:2]
        if not item.masks:
            raise BadRow("mask is missing", f"no mask {item.image_id} in {item.mask_folder}/")
        objects: list[Region] = []
        claimed, ignored = np.zeros(shape, bool), np.zeros(shape, bool)
        for name in item.masks:
            try:
                found = objects_of(self._labels(item, name, data, shape), self.rule)
            except BadRow as bad:
                problem = BadRow(bad.reason, f"{name}: {bad.detail}")
                if aside is None or len(item.masks) == 1:
                    raise problem from bad
                aside.append(problem)
                continue
            if self.source == "folder":
                self.understood[found.understood] += 1
            objects += found.regions
            for item_region in found.regions:
                claimed[item_region.window] |= item_region.mask
            if found.ignored is not None:
                ignored |= found.ignored
        if not objects:
            raise BadRow("object with no pixels", f"all {len(item.masks)} masks are empty")
        return build_row(item.image_id, data, shape, objects, ignore=ignored & ~claimed, source=self.source)

    def _labels(self, item: Item, name: str, image: bytes, shape: tuple[int, int]) -> Labels:
        """The mask, turned as the image is displayed where it was drawn on the image as it is stored."""
        labels = read_labels(fetch(storage.join(self.root, item.mask_folder), name, "mask"))
        turn = exif_orientation(image)
        if turn >= 5 and labels.values.shape == shape[::-1] != shape:
            self.understood["mask turned as the EXIF of its photograph says"] += 1
            labels = Labels(orient(labels.values, turn), labels.kind, labels.colours, labels.lossy)
        elif turn > 1 and labels.values.shape == shape:
            self.understood["mask taken as drawn on the photograph as its EXIF turns it"] += 1
        if labels.values.shape != shape:
            raise BadRow("mask has another size", f"image {sizes(shape)}, mask {sizes(labels.values.shape)}")
        return labels


def _by_number(name: str) -> tuple[int, str]:
    numbered = re.search(r"_(\d+)$", stem(name))
    return (int(numbered[1]) if numbered else -1, name)
