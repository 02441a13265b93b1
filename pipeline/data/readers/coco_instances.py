"""Any data set of images with COCO's instances JSON: polygons and run lengths, as lists or as compressed text.

    ROOT/images/...  annotations.json

One row per image with all its objects. Crowd regions (iscrowd) are no objects: they are left out and counted, as are
images without objects. Polygons are drawn as those of LVIS are (docs/method.md, section 7): vertices rounded, each
filled, union; pycocotools' own drawing differs from it along the outline.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from pipeline import storage
from pipeline.data import coco_merge
from pipeline.data.images import decode_image
from pipeline.data.masks import Region, build_row, region
from pipeline.data.readers.base import fetch, load_json, need_folders, sizes
from pipeline.data.schema import Row
from pipeline.errors import BadRow, UserError

KIND = "a COCO instances file"
CROWD = "crowd region, which is no object"
NO_OBJECT = "image without objects"
NO_IMAGE = "annotation of an image that is not listed"
MALFORMED = "annotation is malformed"
MAX_COORDINATE = 1 << 20
MAX_CHARACTERS = 7  # of a number in compressed run lengths: 35 bits


@dataclass(frozen=True)
class Item:
    """What the JSON says about one image.

    Attributes:
        image: file name below images/.
        size: (height, width) as annotated, or None.
        segmentations: JSON list of the objects' segmentations.
    """

    image: str
    size: tuple[int, int] | None
    segmentations: bytes


@dataclass
class CocoInstancesReader:
    """Reader of one folder."""

    root: str
    split: str = ""
    source: str = "coco-instances"
    left_out: dict[str, int] = field(default_factory=dict)
    understood: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        if self.split:
            raise UserError(f"{self.source} has no splits; leave out --split {self.split}.")

    def items(self) -> list[Item]:
        self.root = need_folders(self.root, ["images"], self.source)
        uri = storage.join(self.root, "annotations.json")
        content = load_json(uri, KIND, ("images", "annotations"))
        left_out = {CROWD: 0, NO_OBJECT: 0, NO_IMAGE: 0}
        try:
            objects: dict[Any, list[Any]] = {image["id"]: [] for image in content["images"]}
            for annotation in content["annotations"]:
                if annotation.get("iscrowd", 0):
                    left_out[CROWD] += 1
                elif annotation["image_id"] not in objects:
                    left_out[NO_IMAGE] += 1
                else:
                    objects[annotation["image_id"]].append(annotation["segmentation"])
            items = [
                Item(str(image["file_name"]), _size(image), json.dumps(objects[image["id"]]).encode())
                for image in content["images"]
                if objects[image["id"]]
            ]
        except KeyError as error:
            raise UserError(f"{uri} is not {KIND}: an entry lacks {error}.") from error
        except (TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{uri} is not {KIND}: {error}.") from error
        left_out[NO_OBJECT] = len(content["images"]) - len(items)
        self.left_out = left_out
        return items

    def name_of(self, item: Item) -> str:
        """The file name without its ending; folders become part of it."""
        path = PurePosixPath(item.image)
        return "_".join([part for part in path.parts[:-1] if part != "/"] + [path.stem])

    def path_of(self, item: Item) -> str:
        return storage.join(self.root, "images", item.image)

    def read(self, item: Item, aside: list[BadRow] | None = None) -> Row:
        data = fetch(storage.join(self.root, "images"), item.image)
        shape = decode_image(data, strict=True).shape[:2]
        if item.size is not None and item.size != shape:
            detail = f"image {sizes(shape)}, its record {sizes(item.size)}"
            raise BadRow("mask has another size", detail)
        objects: list[Region] = []
        problems: list[BadRow] = []
        for index, segmentation in enumerate(json.loads(item.segmentations)):
            try:
                found = segmentation_region(segmentation, *shape)
                if found is None:
                    raise BadRow("object with no pixels", f"object {index} of the image")
                objects.append(found)
            except BadRow as bad:
                problems.append(bad)
        if not objects:
            raise problems[0]
        if aside is not None:
            aside += problems
        return build_row(self.name_of(item), data, shape, objects, source=self.source)


def _size(image: dict[str, Any]) -> tuple[int, int] | None:
    if image.get("height") is None or image.get("width") is None:
        return None
    return int(image["height"]), int(image["width"])


def segmentation_region(segmentation: Any, height: int, width: int) -> Region | None:
    """Region of COCO's `segmentation`, None when no pixel is in the image.

    Raises:
        BadRow: it is neither polygons nor run lengths, or of an image of another size.
    """
    if isinstance(segmentation, dict):
        size, counts = segmentation.get("size"), segmentation.get("counts")
        if size != [height, width]:
            raise BadRow("mask has another size", f"image {height} x {width}, run lengths of {str(size)[:40]}")
        try:
            runs = unpack(counts) if isinstance(counts, str) else counts
            return region(decode_runs(runs, height, width))
        except (ValueError, TypeError) as error:
            raise BadRow(MALFORMED, f"run lengths: {error}") from error
    try:
        polygons = [_polygon(points) for points in segmentation]
    except (ValueError, TypeError) as error:
        raise BadRow(MALFORMED, f"not a list of polygons: {error}") from error
    return coco_merge.polygon_region(polygons, height, width) if polygons else None


def _polygon(points: Any) -> np.ndarray:
    """(K, 2) int32 (column, row) vertices, rounded half to even, of a flat list x, y, x, y, ..."""
    if not isinstance(points, list) or len(points) < 2 or len(points) % 2:
        raise ValueError(f"{str(points)[:60]}")
    values = np.array(points, np.float64)
    if values.ndim != 1 or not np.all(np.abs(values) < MAX_COORDINATE):
        raise ValueError("a coordinate is no number or out of bounds")
    return values.reshape(-1, 2).round().astype(np.int32)


def decode_runs(runs: Any, height: int, width: int) -> np.ndarray:
    """(height, width) bool of run lengths in column order, the first of them outside the object.

    Raises:
        ValueError: they are no lengths, or do not fill the picture.
    """
    if not isinstance(runs, list) or not all(type(n) is int and n >= 0 for n in runs):
        raise ValueError("a length is no number from 0 up")
    if sum(runs) != height * width:
        raise ValueError(f"they fill {sum(runs)} of {height * width} pixels")
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(width, height).T


def unpack(text: str) -> list[int]:
    """Run lengths of pycocotools' compressed text.

    Five bits a character, lowest first, from "0" up, 32 = more follow, signed; from the fourth number on it is the
    difference to the number two before (`rleFrString` in cocoapi's common/maskApi.c).

    Raises:
        ValueError: it is something else.
    """
    runs: list[int] = []
    value, bits = 0, 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or bits >= 5 * MAX_CHARACTERS:
            raise ValueError(f"{character!r} in compressed run lengths")
        value |= (code & 31) << bits
        bits += 5
        if not code & 32:
            if code & 16:
                value -= 1 << bits
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value, bits = 0, 0
    if bits:
        raise ValueError("compressed run lengths end in a number")
    return runs
