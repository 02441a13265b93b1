"""COCO panoptic + LVIS v1 under their published names, merged (docs/method.md, section 7).

    ROOT/train2017/*.jpg  val2017/*.jpg
    ROOT/annotations/panoptic_{train,val}2017.json  panoptic_{train,val}2017/*.png  lvis_v1_{train,val}.json

An image is listed when both files of the split know it. LVIS moved some of COCO's training images into its own
validation file; those are in no panoptic file of the same split and are counted in `left_out`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import cv2
import numpy as np

from pipeline import storage
from pipeline.data import coco_merge
from pipeline.data.images import checked_size, decode
from pipeline.data.masks import Region, build_row, parents
from pipeline.data.readers.base import Skipped, fetch, load_json, need_folders, stem
from pipeline.data.readers.coco_masks import MALFORMED
from pipeline.data.readers.coco_names import key
from pipeline.data.readers.coco_records import NO_IMAGE, ONE_ID, REPEATED, told_apart
from pipeline.data.schema import Row
from pipeline.errors import BadRow, UserError, did_you_mean

SPLITS = ("train", "val")
LAYOUT = "coco-lvis needs train2017/, val2017/ and annotations/ under their published names."
PANOPTIC = "a COCO panoptic file"
LVIS = "an LVIS v1 file"
NOT_IN_PANOPTIC = "LVIS image that the panoptic file of the split does not list"
NOT_IN_LVIS = "panoptic image that the LVIS file of the split does not list"
NOT_LISTED = "panoptic annotation of an image that is not listed"
TWO_FILES = "one id of two files"
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
        problem: (reason, detail) of what is wrong with the annotation, or None.
        aside: (reason, detail) of each object that cannot be used for what its entry says.
    """

    image: str
    panoptic: str
    size: tuple[int, int] | None
    segments: tuple[tuple[int, bool], ...]
    vertices: np.ndarray
    polygons: tuple[tuple[int, ...], ...]
    problem: tuple[str, str] | None = None
    aside: tuple[tuple[str, str], ...] = ()


@dataclass
class CocoLvisReader:
    """Reader of one split of the original files."""

    root: str
    split: str = "train"
    source: str = "coco+lvis"
    left_out: dict[str, int] = field(default_factory=dict)
    hints: dict[str, str] = field(default_factory=dict)
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
        self.root = need_folders(self.root, [f"{self.split}2017", "annotations", masks], LAYOUT)
        panoptic_uri = self._annotation(f"panoptic_{self.split}2017.json")
        lvis_uri = self._annotation(f"lvis_v1_{self.split}.json")
        lists = ("images", "annotations", "categories")
        panoptic = load_json(panoptic_uri, PANOPTIC, lists)
        left_out: Counter[str] = Counter()
        problems: dict[str, tuple[str, str]] = {}
        try:
            is_thing = {key(c["id"])[0]: bool(c["isthing"]) for c in panoptic["categories"]}
            images = _by_id(panoptic["images"], "id", "file_name", problems)
            noted = _by_id(panoptic["annotations"], "image_id", "file_name", problems)
            segments = {
                number: (
                    str(a["file_name"]),
                    [(int(s["id"]), is_thing[key(s["category_id"])[0]]) for s in a["segments_info"]],
                )
                for number, a in noted.items()
            }
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{panoptic_uri} is not {PANOPTIC}: {_lack(error)}.") from error
        lvis = load_json(lvis_uri, LVIS, lists)
        try:
            records = _by_id(lvis["images"], "id", "coco_url", problems)
            objects: dict[str, list[Any]] = {number: [] for number in records}
            for annotation in lvis["annotations"]:
                segmentation, number = annotation["segmentation"], key(annotation["image_id"])[0]
                if number in objects:
                    objects[number].append({"id": annotation.get("id"), "segmentation": segmentation})
                else:
                    left_out[NO_IMAGE] += 1
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{lvis_uri} is not {LVIS}: {_lack(error)}.") from error
        annotations = len(lvis["annotations"])
        del lvis
        left_out[NOT_LISTED] = len(segments.keys() - images.keys())
        paired = [number for number in segments if number in objects and number in images]
        left_out[NOT_IN_PANOPTIC] = len(objects.keys() - segments.keys())
        left_out[NOT_IN_LVIS] = len(segments.keys() - objects.keys() - (segments.keys() - images.keys()))
        if not paired:
            raise UserError(f"No image is in both {panoptic_uri} and {lvis_uri}: they are of different data sets.")
        items = []
        for number in paired:
            name, record = str(images[number].get("file_name", "")), records[number]
            kept, aside = told_apart(objects[number], name, left_out)
            url = str(record.get("coco_url") or name)
            if url.rsplit("/", 1)[-1] != name.rsplit("/", 1)[-1]:
                problems.setdefault(number, (TWO_FILES, f"id {number} is {name!r} there and {url!r} in LVIS"))
            size = (record.get("height"), record.get("width"))
            masks = [entry["segmentation"] for entry in kept]
            items.append(_item(name, *segments[number], size, masks, problems.get(number), aside))
        self.left_out = {reason: left_out[reason] for reason in (NOT_IN_PANOPTIC, NOT_IN_LVIS)}
        self.left_out |= {reason: count for reason, count in left_out.items() if count}
        self.hints = {
            NOT_IN_PANOPTIC: f"of {len(objects)} LVIS images",
            NOT_IN_LVIS: f"of {len(segments)} panoptic images",
            NOT_LISTED: f"of {len(segments)} panoptic images",
            NO_IMAGE: f"of {annotations} LVIS annotations",
            REPEATED: f"of {annotations} LVIS annotations",
        }
        return items

    def name_of(self, item: Item) -> str:
        return stem(item.image)

    def path_of(self, item: Item) -> str:
        return storage.join(self._images, item.image)

    def read(self, item: Item, aside: list[BadRow] | None = None) -> Row:
        if item.problem:
            raise BadRow(*item.problem)
        data = fetch(self._images, item.image)
        height, width = checked_size(data)
        masks = self._annotation(f"panoptic_{self.split}2017")
        colours = decode(fetch(masks, item.panoptic, "mask"), cv2.IMREAD_COLOR_RGB, strict=True, what="mask")
        for shape, of in ((colours.shape[:2], "panoptic PNG"), (item.size, "LVIS record")):
            if shape is not None and tuple(shape) != (height, width):
                raise BadRow("mask has another size", f"image {height} x {width}, {of} {shape[0]} x {shape[1]}")

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

        if aside is not None:
            aside += [BadRow(*problem) for problem in item.aside]
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


def _by_id(
    entries: list[dict[str, Any]], field: str, name: str, problems: dict[str, tuple[str, str]]
) -> dict[str, dict[str, Any]]:
    """Entries by how an id reads; those that share one with an entry of another name get a problem."""
    found: dict[str, dict[str, Any]] = {}
    for entry in entries:
        number = key(entry[field])[0]
        other = found.setdefault(number, entry)
        if other.get(name) != entry.get(name) or (other is not entry and "segments_info" in entry and other != entry):
            problems[number] = (ONE_ID, f"{other.get(name)!r} and {entry.get(name)!r} both have id {number}")
    return found


def _item(
    image: str,
    panoptic: str,
    segments: list[tuple[int, bool]],
    size: tuple[int | None, int | None],
    objects: list[Any],
    problem: tuple[str, str] | None,
    aside: list[tuple[str, str]],
) -> Item:
    counts = tuple[tuple[int, ...], ...]()
    vertices = np.zeros((0, 2), np.int32)
    try:
        counts = tuple(tuple(_corners(polygon) for polygon in polygons) for polygons in objects)
        vertices = _vertices(objects)
    except (ValueError, TypeError) as error:
        problem, counts = problem or (MALFORMED, f"not a list of polygons: {error}"), ()
    return Item(
        image=image,
        panoptic=panoptic,
        size=None if None in size else (int(size[0] or 0), int(size[1] or 0)),
        segments=tuple(segments),
        vertices=vertices,
        polygons=counts,
        problem=problem,
        aside=tuple(aside),
    )


def _corners(polygon: Any) -> int:
    if not isinstance(polygon, list) or len(polygon) < 2 or len(polygon) % 2:
        raise ValueError(f"{str(polygon)[:60]}")
    return len(polygon) // 2


def _vertices(objects: list[list[list[float]]]) -> np.ndarray:
    """(V, 2) int32 vertices, rounded half to even, of flat lists x, y, x, y, ...; one pass for all of an image."""
    values = np.array([*chain.from_iterable(chain.from_iterable(objects))], np.float64)
    if not np.all(np.abs(values) < MAX_COORDINATE):
        raise ValueError("a coordinate is no number or out of bounds")
    return values.reshape(-1, 2).round().astype(np.int32)


def _split(item: Item) -> list[list[np.ndarray]]:
    """Per LVIS object the vertices of its polygons."""
    parts = np.split(item.vertices, np.cumsum([n for counts in item.polygons for n in counts])[:-1].astype(int))
    rest = iter(parts)
    return [[next(rest) for _ in counts] for counts in item.polygons]
