"""Any data set of images with COCO's instances JSON: polygons and run lengths, as lists or as compressed text.

    ROOT/images/...  annotations.json      or what CVAT, Label Studio, Roboflow, labelme and COCO itself write

One row per image with all its objects, decoded as pycocotools decodes them. Crowd regions (iscrowd) are no objects
unless the reader is told so: tools like CVAT mark every mask as one. They are left out and counted, as are boxes
without masks and images without objects. What cannot be told apart (two images of one id, two records of one file) is
set aside.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline import storage
from pipeline.data.images import decode_image, header_size, orient
from pipeline.data.masks import Region, build_row, region
from pipeline.data.readers import coco_names
from pipeline.data.readers.base import fetch, load_json
from pipeline.data.readers.coco_masks import OTHER_SIZE, segmentation_region
from pipeline.data.readers.coco_records import REPEATED_IMAGE, Image, find_pictures, images_of, join, name_in
from pipeline.data.readers.exif import orientation_of
from pipeline.data.schema import Row
from pipeline.errors import BadRow, UserError, did_you_mean

KIND = "a COCO instances file"
CROWD = "crowd region, which is no object"
NO_OBJECT = "image without objects"
BOX = "box without a mask"
KEYPOINTS = "keypoints without a mask"
TURNED = "EXIF turns the picture, and no size tells how its masks lie"
HINTS = {
    CROWD: "jobs.prepare --crowd objects takes them in",
    BOX: "no mask can be made of a box",
    TURNED: "jobs.prepare --exif shown or --exif stored says which",
}
CROWDS = ("leave-out", "objects")
EXIFS = ("size", "shown", "stored")


@dataclass(frozen=True)
class Item:
    """What the JSON says about one image.

    Attributes:
        name: the image_id of its row.
        image: path of the picture below the root; as recorded where there is no such file.
        size: (height, width) as annotated, or None.
        segmentations: JSON list of the objects' segmentations.
        problem: (reason, detail) why the image cannot be used, or None.
        aside: (reason, detail) of each object that cannot be used for what its entry says.
        exif: as the reader's; here, so that it counts among what the rows are made from.
    """

    name: str
    image: str
    size: tuple[int, int] | None
    segmentations: bytes
    problem: tuple[str, str] | None = None
    aside: tuple[tuple[str, str], ...] = ()
    exif: str = "size"


@dataclass
class CocoInstancesReader:
    """Reader of one folder.

    Attributes:
        root: the folder, or the annotation file itself.
        annotations: the annotation file below the root or elsewhere, "" to look for it.
        crowd: what crowd marks mean: "leave-out", or "objects" where the tool marks masks so.
        exif: which pixels the masks of a photograph lie on that EXIF turns: those "shown" or "stored", or "size": those
            that have the size of its record.
        notes: what `items` understood, as lines for the user.
        hints: what to do about a reason for leaving out or setting aside.
    """

    root: str
    split: str = ""
    source: str = "coco-instances"
    annotations: str = ""
    crowd: str = "leave-out"
    exif: str = "size"
    left_out: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    hints: dict[str, str] = field(default_factory=dict)
    understood: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        if self.split:
            raise UserError(
                f"{self.source} has no splits; leave out --split {self.split} (--annotations names a split's file)."
            )
        for name, value, known in (("crowd", self.crowd, CROWDS), ("exif", self.exif, EXIFS)):
            if value not in known:
                raise UserError(f"--{name} {value}: one of {', '.join(known)}.{did_you_mean(value, known)}")
        if self.root.lower().endswith((".json", ".json.gz")) and not self.annotations:
            self.annotations = self.root
            folder = self.root.rsplit("/", 1)[0]
            self.root = folder.removesuffix("/annotations")

    def items(self) -> list[Item]:
        if not storage.exists(self.root):
            raise UserError(f"There is no folder {self.root}.")
        start = len(storage.join(self.root, ""))
        files = [uri[start:].lstrip("/") for uri in storage.list_files(self.root)]
        name = coco_names.find_annotations(self.root, files, self.annotations)
        uri = name if name.startswith("/") or "://" in name else storage.join(self.root, name)
        content = load_json(uri, KIND, ("images", "annotations"))
        left_out: Counter[str] = Counter()
        try:
            images, by_id = images_of(content["images"], left_out)
            join(content["annotations"], by_id, left_out)
            if not all(name_in(record) for record in content["images"]):
                raise KeyError("file_name")
        except KeyError as error:
            raise UserError(f"{uri} is not {KIND}: an entry lacks {error}.") from error
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise UserError(f"{uri} is not {KIND}: {error}.") from error
        pictures = coco_names.Pictures(files, name)
        find_pictures(images, pictures)
        stems = coco_names.names([image.end or "?" for image in images], [image.path for image in images])
        items = []
        for image, stem in zip(images, stems):
            masks = self._masks(image, left_out)
            if masks or image.aside or image.problem:
                aside = tuple(image.aside)
                text = json.dumps(masks).encode()
                items.append(Item(stem, image.path, image.size, text, image.problem, aside, self.exif))
            else:
                left_out[NO_OBJECT] += 1
        self.left_out = {reason: count for reason, count in left_out.items() if count}
        self._say(uri, len(content["images"]), len(content["annotations"]), pictures.by_rest)
        return items

    def _masks(self, image: Image, left_out: Counter[str]) -> list[Any]:
        """Segmentations of an image's objects; entries that are none are counted or put into its `aside`."""
        masks = []
        for entry in image.entries:
            mask = _mask_of(entry)
            try:
                if coco_names.crowd(entry.get("iscrowd", 0)) and self.crowd == "leave-out":
                    left_out[CROWD] += 1
                elif mask is None and ("bbox" in entry or "keypoints" in entry):
                    left_out[KEYPOINTS if entry.get("keypoints") else BOX] += 1
                else:
                    masks.append(entry["segmentation"])
            except BadRow as bad:
                image.aside.append((bad.reason, bad.detail))
        return masks

    def _say(self, uri: str, images: int, annotations: int, by_rest: int) -> None:
        of_images = {NO_OBJECT, REPEATED_IMAGE}
        counts = {reason: f"of {images if reason in of_images else annotations}" for reason in self.left_out}
        units = {reason: " images" if reason in of_images else " annotations" for reason in self.left_out}
        self.hints = {reason: counts[reason] + units[reason] for reason in counts}
        for reason, hint in HINTS.items():
            self.hints[reason] = "; ".join(filter(None, [self.hints.get(reason, ""), hint]))
        self.notes = [f"{uri}: {images} images, {annotations} annotations"]
        if by_rest:
            self.notes.append(
                f"{by_rest} of {images} file names fit a picture only without their folders, case or Unicode form"
            )

    def name_of(self, item: Item) -> str:
        return item.name

    def path_of(self, item: Item) -> str:
        return storage.join(self.root, item.image)

    def read(self, item: Item, aside: list[BadRow] | None = None) -> Row:
        if item.problem:
            raise BadRow(*item.problem)
        data = fetch(self.root, item.image)
        image = decode_image(data, strict=True)
        segmentations = json.loads(item.segmentations)
        orientation = _orientation(data, image, item, segmentations)
        shape = image.shape[:2]
        drawn = (shape[1], shape[0]) if orientation >= 5 else shape
        objects: list[Region] = []
        problems = [BadRow(*problem) for problem in item.aside]
        for index, segmentation in enumerate(segmentations):
            try:
                found = segmentation_region(segmentation, drawn[0], drawn[1], problems)
                if found is not None and orientation != 1:
                    mask = np.zeros(drawn, bool)
                    mask[found.window] = found.mask
                    found = region(orient(mask, orientation))
                if found is None:
                    raise BadRow("object with no pixels", f"object {index} of the image")
                objects.append(found)
            except BadRow as bad:
                problems.append(bad)
        if not objects:
            raise problems[0]
        if aside is not None:
            aside += problems
        return build_row(item.name, data, shape, objects, source=self.source)


def _orientation(data: bytes, image: np.ndarray, item: Item, segmentations: list[Any]) -> int:
    """EXIF orientation by which the masks are to be turned: 1 when they lie on the picture as it is shown.

    Raises:
        BadRow: the record has another size than the picture, or nothing tells how the masks lie.
    """
    shown, stored, size = image.shape[:2], header_size(data), item.size
    orientation = orientation_of(data, image)
    turned = f", {stored[1]} x {stored[0]} as stored (EXIF orientation {orientation})" if orientation != 1 else ""
    if size is not None and size != shown and (orientation == 1 or size != stored):
        exchanged = " (width and height exchanged)" if size == (shown[1], shown[0]) else ""
        seen = f"picture {shown[1]} x {shown[0]}{turned}, its record {size[1]} x {size[0]}"
        raise BadRow(OTHER_SIZE, seen + exchanged)
    if orientation == 1:
        return 1
    sizes = {size} if size else {_size_of(s) for s in segmentations} - {None}
    if shown != stored and sizes in ({shown}, {stored}):
        return 1 if sizes == {shown} else orientation
    if item.exif == "size":
        raise BadRow(TURNED, f"picture {shown[1]} x {shown[0]} as shown{turned}")
    return orientation if item.exif == "stored" else 1


def _size_of(segmentation: Any) -> tuple[int, int] | None:
    size = segmentation.get("size") if isinstance(segmentation, dict) else None
    return tuple(size) if isinstance(size, list) and len(size) == 2 else None


def _mask_of(entry: dict[str, Any]) -> Any:
    """The segmentation of an entry, None when it is empty."""
    mask = entry.get("segmentation")
    return mask if mask and mask != [[]] and (not isinstance(mask, dict) or mask.get("counts")) else None
