"""Any data set of images with COCO's instances JSON, as annotation tools export it.

    ROOT/images/  annotations.json                     or result.json (Label Studio), or the one JSON file there is
    ROOT/images/  annotations/instances_default.json   CVAT
    ROOT/train2017/  annotations/instances_train2017.json
    ROOT/[train/ valid/ test/]  _annotations.coco.json beside the images (Roboflow); --split names the folder
    ROOT, --annotations FILE                           any other place

One row per image with all its objects, decoded as pycocotools does (`pipeline.data.coco_masks`). What is no object
(crowd regions, boxes without a mask) is left out and counted. Where ids or names leave open what belongs together, the
images in question are set aside. Files are found by their name below ROOT, whatever folder the JSON says.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pipeline import storage
from pipeline.data.coco_masks import TWO_CORNERS, segmentation_region
from pipeline.data.images import decode_image, exif_orientation, orient
from pipeline.data.masks import Region, build_row, region
from pipeline.data.readers.base import checked, fetch, load_json, sizes
from pipeline.data.readers.coco_files import FileNames, annotation_file, identity
from pipeline.data.schema import Row
from pipeline.errors import BadRow, UserError

KIND = "a COCO instances file"
NO_OBJECT = "image without objects"
NO_IMAGE = "annotation of an image that is not listed"
NO_MASK = "box without a mask"
AMBIGUOUS_ID = "image id is ambiguous"
TWICE = "image is listed twice"
CROWD = ("leave-out", "objects")


@dataclass(frozen=True)
class Item:
    """What the JSON says about one image.

    Attributes:
        name: of the row.
        image: file name below the root, or as the JSON has it where there is no such file.
        size: (height, width) as annotated, or None.
        segmentations: JSON list of the objects' segmentations.
        problem: (reason, detail) for which it is set aside, or None.
    """

    name: str
    image: str
    size: tuple[int, int] | None
    segmentations: bytes
    problem: tuple[str, str] | None = None


@dataclass
class CocoInstancesReader:
    """Reader of one annotation file.

    Attributes:
        annotations: file (name below the root, or URI) to read instead of the one that is found.
        crowd: "objects": regions marked `iscrowd` are objects, as in CVAT's exports of masks.
    """

    root: str
    split: str = ""
    annotations: str = ""
    crowd: str = "leave-out"
    source: str = "coco-instances"
    left_out: dict[str, int] = field(default_factory=dict)
    understood: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        if self.crowd not in CROWD:
            raise UserError(f"--crowd {self.crowd!r} is none of {', '.join(CROWD)}.")
        if self.split:
            annotation_file(self.root, self.split, self.annotations)

    def items(self) -> list[Item]:
        uri, self.root = annotation_file(self.root, self.split, self.annotations)
        content = load_json(uri, KIND, ("images", "annotations"))
        try:
            items = self._items(content, FileNames(self.root, uri))
        except KeyError as error:
            raise UserError(f"{uri} is not {KIND}: an entry lacks {error}.") from error
        except (TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{uri} is not {KIND}: {error}.") from error
        return items

    def _items(self, content: dict[str, Any], files: FileNames) -> list[Item]:
        records: dict[Any, list[dict[str, Any]]] = {}
        for record in content["images"]:
            records.setdefault(identity(record["id"]), []).append(record)
        objects: dict[Any, list[Any]] = {key: [] for key in records}
        left_out: Counter[str] = Counter()
        total = len(content["annotations"])
        for annotation in content["annotations"]:
            segmentation = _segmentation(annotation)
            if _is_crowd(annotation) and self.crowd != "objects":
                left_out[f"crowd region (of {total} annotations); --crowd objects takes them as objects"] += 1
            elif (key := identity(annotation["image_id"])) not in objects:
                left_out[NO_IMAGE] += 1
            elif segmentation is None:
                left_out[f"{NO_MASK} (of {total} annotations)"] += 1
            else:
                objects[key].append(segmentation)
        items = []
        for key, several in records.items():
            for record in several:
                if not objects[key]:
                    left_out[NO_OBJECT] += 1
                    continue
                given = str(record["file_name"])
                item = Item("", given, _size(record), json.dumps(objects[key]).encode())
                if len(several) > 1:
                    names = " and ".join(repr(str(r.get("file_name"))) for r in several[:2])
                    detail = f"{len(several)} images have the id {several[0]['id']!r}: {names}"
                    item = replace(item, problem=(AMBIGUOUS_ID, detail))
                else:
                    item = self._found(item, files)
                items.append(item)
        self.left_out = dict(left_out)
        return _told_apart(items, files)

    def _found(self, item: Item, files: FileNames) -> Item:
        """The item with the file that its name means."""
        name, several = files.find(item.image)
        if several:
            return replace(item, problem=("image file is ambiguous", f"{item.image}: {' or '.join(several[:2])}"))
        return replace(item, image=name) if name else item

    def name_of(self, item: Item) -> str:
        return item.name

    def path_of(self, item: Item) -> str:
        return storage.join(self.root, item.image)

    def read(self, item: Item, aside: list[BadRow] | None = None) -> Row:
        if item.problem is not None:
            raise BadRow(*item.problem)
        data = fetch(self.root, checked(item.image))
        shape = decode_image(data, strict=True).shape[:2]
        turn, stored = exif_orientation(data), shape
        if item.size is not None and item.size != shape:
            stored = item.size
            if turn < 5 or item.size != shape[::-1]:
                turned = f" (as its EXIF orientation {turn} turns it)" if turn > 1 else ""
                raise BadRow("mask has another size", f"image {sizes(shape)}{turned}, its record {sizes(item.size)}")
            self.understood["annotations turned as the EXIF of the photograph says"] += 1
        elif turn > 1:
            self.understood["annotations taken as drawn on the photograph as its EXIF turns it"] += 1
        objects: list[Region] = []
        problems: list[BadRow] = []
        for index, segmentation in enumerate(json.loads(item.segmentations)):
            try:
                found = segmentation_region(segmentation, *stored)
            except BadRow as bad:
                problems.append(BadRow(bad.reason, f"object {index} of the image: {bad.detail}"))
                continue
            if isinstance(segmentation, list) and any(_is_rest(polygon) for polygon in segmentation):
                self.understood[f"{TWO_CORNERS} beside a real one, left out"] += 1
            objects.append(found if stored == shape else _turned(found, stored, turn))
        if not objects:
            raise problems[0]
        if aside is not None:
            aside += problems
        return build_row(item.name, data, shape, objects, source=self.source)


def _told_apart(items: Sequence[Item], files: FileNames) -> list[Item]:
    """Items with names of their own, those of one file set aside."""
    count = Counter(item.image for item in items if item.problem is None)
    stems = Counter(files.short(item.image, ending=False) for item in items)
    named = []
    for item in items:
        short = files.short(item.image, ending=False)
        name = short if stems[short] == 1 else files.short(item.image, ending=True)
        if item.problem is None and count[item.image] > 1:
            item = replace(item, problem=(TWICE, f"{item.image} belongs to {count[item.image]} ids"))
        named.append(replace(item, name=name))
    seen: Counter[str] = Counter()
    unique = []
    for item in named:  # what is set aside may still share a name
        seen[item.name] += 1
        unique.append(replace(item, name=f"{item.name} ({seen[item.name]})") if seen[item.name] > 1 else item)
    return unique


def _segmentation(annotation: dict[str, Any]) -> Any:
    """The annotation's segmentation; None where it only has a box or key points."""
    if annotation.get("segmentation") or not (annotation.get("bbox") or annotation.get("keypoints")):
        return annotation["segmentation"]
    return None


def _is_crowd(annotation: dict[str, Any]) -> bool:
    """`iscrowd`, which some tools write as text or leave empty."""
    value = annotation.get("iscrowd", 0)
    if isinstance(value, str):
        return value.strip().lower() not in ("", "0", "0.0", "false", "no", "none", "null")
    return bool(value)


def _size(image: dict[str, Any]) -> tuple[int, int] | None:
    if not image.get("height") or not image.get("width"):
        return None
    return int(float(image["height"])), int(float(image["width"]))


def _is_rest(polygon: Any) -> bool:
    return isinstance(polygon, list) and len({tuple(polygon[i : i + 2]) for i in range(0, len(polygon), 2)}) < 3


def _turned(found: Region, shape: tuple[int, int], turn: int) -> Region:
    mask = np.zeros(shape, bool)
    mask[found.window] = found.mask
    turned = region(orient(mask, turn))
    assert turned is not None
    return turned
