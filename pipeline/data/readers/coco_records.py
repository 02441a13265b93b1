"""Image records and annotations of a COCO JSON joined by id; what cannot be told apart is never joined."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from pipeline.data.readers import coco_names
from pipeline.errors import BadRow

NO_IMAGE = "annotation of an image that is not listed"
REPEATED_IMAGE = "image record that repeats another one"
REPEATED = "annotation that repeats another one"
ONE_ID = "one id of several images"
ONE_FILE = "one file in several image records"
TWO_ANNOTATIONS = "one id of several annotations of an image"


@dataclass
class Image:
    """One image record and what is found out about it.

    Attributes:
        file_name: as recorded.
        size: (height, width) as recorded, or None.
        number: its id, for messages.
        path: of its picture below the root.
        end: of that path, as its row is called.
        problem: (reason, detail) why it cannot be used, or None.
        entries: its annotations.
        aside: (reason, detail) of annotations that cannot be used.
    """

    file_name: str
    size: tuple[int, int] | None
    number: str
    path: str = ""
    end: str = ""
    problem: tuple[str, str] | None = None
    entries: list[dict[str, Any]] = field(default_factory=list)
    aside: list[tuple[str, str]] = field(default_factory=list)


def images_of(records: list[Any], left_out: Counter[str]) -> tuple[list[Image], dict[str, list[Image]]]:
    """Images in the order of the file, and those of each id by how it reads: 1, 1.0 and "1" are one."""
    by_id: dict[str, list[Image]] = defaultdict(list)
    images: list[Image] = []
    for record in records:
        reads, kind = coco_names.key(record["id"])
        image = Image(name_in(record), _size(record), f"{record['id']} ({kind})")
        if any((image.file_name, image.size) == (other.file_name, other.size) for other in by_id[reads]):
            left_out[REPEATED_IMAGE] += 1
            continue
        by_id[reads].append(image)
        images.append(image)
    return images, by_id


def name_in(record: dict[str, Any]) -> str:
    """File name of an image record; LVIS has only the address, of which folder and name count. "" for none."""
    name = record.get("file_name")
    return str(name) if name else "/".join(str(record.get("coco_url", "")).split("/")[-2:])


def _size(record: dict[str, Any]) -> tuple[int, int] | None:
    if not record.get("height") or not record.get("width"):  # missing, null, or the 0 that some tools write for it
        return None
    return int(float(record["height"])), int(float(record["width"]))


def join(annotations: list[Any], by_id: dict[str, list[Image]], left_out: Counter[str]) -> None:
    """Give each image its annotations; where an id is that of several images, they get a problem instead."""
    for entry in annotations:
        mask = entry["segmentation"] if not ("bbox" in entry or "keypoints" in entry) else entry.get("segmentation")
        found = by_id.get(coco_names.key(entry["image_id"])[0], [])
        if not found:
            left_out[NO_IMAGE] += 1
        elif len(found) > 1:
            seen = ", ".join(f"{image.file_name!r} has id {image.number}" for image in found[:4])
            for image in found:
                image.problem = (ONE_ID, seen)
        else:
            found[0].entries.append({**entry, "segmentation": mask})
    for images in by_id.values():
        for image in images:
            image.entries, image.aside = told_apart(image.entries, image.file_name, left_out)


def told_apart(
    entries: list[dict[str, Any]], name: str, left_out: Counter[str]
) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """Of an image's annotations with one id the exact repeats are left out; different ones are set aside.

    Returns:
        The annotations that remain, and (reason, detail) of what was set aside.
    """
    groups: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for place, entry in enumerate(entries):
        number = entry.get("id")
        groups[place if number is None else coco_names.key(number)[0]].append(entry)
    if len(groups) == len(entries):
        return entries, []
    kept, aside = [], []
    for number, those in groups.items():
        different = {json.dumps([entry.get("segmentation"), entry.get("iscrowd", 0)]) for entry in those}
        if len(different) == 1:
            kept.append(those[0])
            left_out[REPEATED] += len(those) - 1
        else:
            aside.append((TWO_ANNOTATIONS, f"{len(those)} annotations of {name!r} have id {number}"))
    return kept, aside


def find_pictures(images: list[Image], pictures: coco_names.Pictures) -> None:
    """Find each image's picture; records of one file, and names that fit several, get a problem."""
    records: dict[str, list[Image]] = defaultdict(list)
    for image in images:
        try:
            image.path, image.end = pictures.find(image.file_name)
        except BadRow as bad:
            if image.entries:
                image.problem = image.problem or (bad.reason, bad.detail)
        if image.path and image.entries:
            records[image.path].append(image)
        image.path = image.path or image.file_name
        image.end = (image.end or image.file_name).removeprefix("images/")
    for path, those in records.items():
        if len(those) > 1:
            seen = ", ".join(f"{image.file_name!r} of id {image.number}" for image in those[:4])
            for image in those:
                image.problem = image.problem or (ONE_FILE, f"{path}: {seen}")
