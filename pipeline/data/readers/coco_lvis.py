"""COCO panoptic + LVIS v1 under their published names, merged (docs/method.md, section 7).

    ROOT/train2017/*.jpg  val2017/*.jpg
    ROOT/annotations/panoptic_{train,val}2017.json  panoptic_{train,val}2017/*.png  lvis_v1_{train,val}.json

An image is listed when both files of the split know it. LVIS moved some of COCO's training images into its own
validation file; those are in no panoptic file of the same split and are counted in `left_out`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from pipeline import storage
from pipeline.data import coco_merge
from pipeline.data.images import decode, decode_image
from pipeline.data.masks import Region, build_row, parents
from pipeline.data.readers.base import Skipped, fetch, load_json, need_folders, sizes, stem
from pipeline.data.schema import Row
from pipeline.errors import BadRow, UserError, did_you_mean

SPLITS = ("train", "val")
PANOPTIC = "a COCO panoptic file"
LVIS = "an LVIS v1 file"
NOT_IN_PANOPTIC = "LVIS image that the panoptic file of the split does not list"
NOT_LISTED = "LVIS object of an image that the LVIS file does not list"
TWICE = "an annotation file lists its id twice"
NOT_IN_LVIS = "panoptic image that the LVIS file of the split does not list"
MAX_COORDINATE = 1 << 20


@dataclass(frozen=True)
class Item:
    """What the two annotation files say about one image.

    Attributes:
        image: file name of the photograph in {split}2017/.
        panoptic: file name of its PNG in annotations/panoptic_{split}2017/.
        size: (height, width) as annotated, or None.
        segments: (id, is a thing) of the COCO segments.
        vertices: (V, 2) int32 (column, row) of all LVIS polygons, one after the other.
        polygons: per LVIS object the number of vertices of each of its polygons.
        problem: what is wrong with the annotation, or "".
    """

    image: str
    panoptic: str
    size: tuple[int, int] | None
    segments: tuple[tuple[int, bool], ...]
    vertices: np.ndarray
    polygons: tuple[tuple[int, ...], ...]
    problem: str = ""


@dataclass
class CocoLvisReader:
    """Reader of one split of the original files."""

    root: str
    split: str = "train"
    source: str = "coco+lvis"
    left_out: dict[str, int] = field(default_factory=dict)
    understood: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise UserError(f"coco-lvis has no split {self.split!r}: train or val.{did_you_mean(self.split, SPLITS)}")

    def _annotation(self, name: str) -> str:
        return storage.join(self.root, "annotations", name)

    @property
    def _images(self) -> str:
        return storage.join(self.root, f"{self.split}2017")

    def items(self) -> list[Item]:
        masks = f"annotations/panoptic_{self.split}2017"
        self.root = need_folders(self.root, [f"{self.split}2017", "annotations", masks], self.source)
        panoptic_uri = self._annotation(f"panoptic_{self.split}2017.json")
        lvis_uri = self._annotation(f"lvis_v1_{self.split}.json")
        lists = ("images", "annotations", "categories")
        panoptic = load_json(panoptic_uri, PANOPTIC, lists)
        try:
            is_thing = {c["id"]: bool(c["isthing"]) for c in panoptic["categories"]}
            images = {i["id"]: i for i in panoptic["images"]}
            listed = [
                Counter(i["id"] for i in panoptic["images"]),
                Counter(a["image_id"] for a in panoptic["annotations"]),
            ]
            segments = {
                a["image_id"]: (
                    str(a["file_name"]),
                    [(int(s["id"]), is_thing[s["category_id"]]) for s in a["segments_info"]],
                )
                for a in panoptic["annotations"]
            }
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{panoptic_uri} is not {PANOPTIC}: {_lack(error)}.") from error
        lvis = load_json(lvis_uri, LVIS, lists)
        try:
            objects: dict[Any, list[Any]] = {i["id"]: [] for i in lvis["images"]}
            shapes = {i["id"]: (i.get("height"), i.get("width")) for i in lvis["images"]}
            listed.append(Counter(i["id"] for i in lvis["images"]))
            unlisted = 0
            for annotation in lvis["annotations"]:
                if annotation["image_id"] in objects:
                    objects[annotation["image_id"]].append(annotation["segmentation"])
                else:
                    unlisted += 1
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{lvis_uri} is not {LVIS}: {_lack(error)}.") from error
        del lvis
        paired = [key for key in segments if key in objects]
        self.left_out = {
            NOT_IN_PANOPTIC: len(objects) - len(paired),
            NOT_IN_LVIS: len(segments) - len(paired),
            **({NOT_LISTED: unlisted} if unlisted else {}),
        }
        twice = {key for counts in listed for key, count in counts.items() if count > 1}
        if not paired:
            raise UserError(f"No image is in both {panoptic_uri} and {lvis_uri}: they are of different data sets.")
        return [_item(images.get(key, {}), *segments[key], shapes[key], objects[key], key in twice) for key in paired]

    def name_of(self, item: Item) -> str:
        return stem(item.image)

    def path_of(self, item: Item) -> str:
        return storage.join(self._images, item.image)

    def read(self, item: Item, aside: list[BadRow] | None = None) -> Row:
        if item.problem:
            raise BadRow("image id is ambiguous" if item.problem == TWICE else "annotation is malformed", item.problem)
        data = fetch(self._images, item.image)
        height, width = decode_image(data, strict=True).shape[:2]
        masks = self._annotation(f"panoptic_{self.split}2017")
        colours = decode(fetch(masks, item.panoptic, "mask"), cv2.IMREAD_COLOR, strict=True, what="mask")
        for shape, of in ((colours.shape[:2], "panoptic PNG"), (item.size, "LVIS record")):
            if shape is not None and tuple(shape) != (height, width):
                raise BadRow("mask has another size", f"image {width} x {height}, {of} {sizes(shape)}")

        ids = coco_merge.panoptic_ids(colours)
        coco: dict[bool, list[Region]] = {True: [], False: []}
        found = coco_merge.segment_regions(ids, [number for number, _ in item.segments])
        for (number, thing), region in zip(item.segments, found, strict=True):
            if region is None:
                _set_aside(aside, f"panoptic segment {number}")
            else:
                coco[thing].append(region)
        lvis: list[Region] = []
        for index, polygons in enumerate(_split(item)):
            region = coco_merge.polygon_region(polygons, height, width) if polygons else None
            if region is None:
                _set_aside(aside, f"LVIS object {index} of the image")
            else:
                lvis.append(region)

        things = coco_merge.merge(coco[True], lvis)
        if not things:
            raise Skipped("image without objects", "nothing is left after merging")
        stuff = coco_merge.free_stuff(coco[False], things, height, width)
        return build_row(
            self.name_of(item), data, (height, width), things, stuff, tree=parents(things), source=self.source
        )


def _set_aside(aside: list[BadRow] | None, what: str) -> None:
    if aside is not None:
        aside.append(BadRow("object with no pixels", what))


def _lack(error: Exception) -> str:
    return f"an entry lacks {error}" if isinstance(error, KeyError) else str(error)


def _item(
    image: dict[str, Any],
    panoptic: str,
    segments: list[tuple[int, bool]],
    size: tuple[int | None, int | None],
    objects: list[Any],
    twice: bool,
) -> Item:
    problem, counts = "", tuple[tuple[int, ...], ...]()
    vertices = np.zeros((0, 2), np.int32)
    try:
        counts = tuple(tuple(_corners(polygon) for polygon in polygons) for polygons in objects)
        vertices = _vertices(objects)
    except (ValueError, TypeError) as error:
        problem, counts = f"not a list of polygons: {error}", ()
    return Item(
        image=str(image.get("file_name", "")),
        panoptic=panoptic,
        size=None if None in size else (int(size[0] or 0), int(size[1] or 0)),
        segments=tuple(segments),
        vertices=vertices,
        polygons=counts,
        problem=TWICE if twice else problem,
    )


def _corners(polygon: Any) -> int:
    if not isinstance(polygon, list) or len(polygon) < 2 or len(polygon) % 2:
        raise ValueError(f"{str(polygon)[:60]}")
    return len(polygon) // 2


def _vertices(objects: list[list[list[float]]]) -> np.ndarray:
    """(V, 2) int32 vertices, rounded half to even, of flat lists x, y, x, y, ...; one pass for all of an image."""
    values = np.array([v for polygons in objects for polygon in polygons for v in polygon], np.float64)
    if not np.all(np.abs(values) < MAX_COORDINATE):
        raise ValueError("a coordinate is no number or out of bounds")
    return values.reshape(-1, 2).round().astype(np.int32)


def _split(item: Item) -> list[list[np.ndarray]]:
    """Per LVIS object the vertices of its polygons."""
    parts = np.split(item.vertices, np.cumsum([n for counts in item.polygons for n in counts])[:-1].astype(int))
    rest = iter(parts)
    return [[next(rest) for _ in counts] for counts in item.polygons]
