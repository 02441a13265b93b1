"""Masks as files for other tools: a PNG for each object, and COCO's annotations.json.

Of an evaluation below OUT/masks/DATASET/SETTING/, of each object the mask after its last click; taken from the parts,
so nothing is computed again. A prediction writes the same files in its own places (`predict.outputs`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as rle

from pipeline import storage
from pipeline.data.manifest import read_table as read_rows
from pipeline.data.readers import open_reader
from pipeline.errors import UserError
from pipeline.evaluate.plan import WorkUnit
from pipeline.evaluate.results import decode_mask, read_table
from pipeline.evaluate.setting import Setting
from pipeline.evaluate.sources import SPLIT, Source
from pipeline.storage.json_files import write_json

FOLDER, ANNOTATIONS = "masks", "annotations.json"
LONGEST = 200  # bytes of a folder's name
ENDINGS = {b"\xff\xd8": ".jpg", b"\x89P": ".png", b"BM": ".bmp", b"II": ".tif", b"MM": ".tif", b"RI": ".webp"}
"""Of a picture by its first two bytes."""


@dataclass(frozen=True)
class MaskFacts:
    """What COCO says of a mask.

    Attributes:
        bbox: x, y, width and height, pixels.
        segmentation: compressed run lengths.
    """

    area: int
    bbox: list[int]
    segmentation: dict[str, Any]

    @classmethod
    def of(cls, mask: np.ndarray) -> MaskFacts:
        """Those of an (H, W) bool mask."""
        bits = mask.astype(np.uint8)
        runs: Any = rle.encode(np.asfortranarray(bits))
        segmentation = {"size": [int(side) for side in runs["size"]], "counts": runs["counts"].decode("ascii")}
        return cls(int(np.count_nonzero(mask)), [int(v) for v in cv2.boundingRect(bits)], segmentation)


@dataclass
class CocoFile:
    """An annotation file that grows object by object; `labels`: its categories in their order."""

    labels: Sequence[str] = ("object",)
    images: dict[str, dict[str, Any]] = field(default_factory=dict)
    annotations: list[dict[str, Any]] = field(default_factory=list)

    def add(self, number: int, image: str, mask: MaskFacts, label: str = "object", **more: Any) -> None:
        """An object: its id, its picture's file name, its mask, its category, and further entries."""
        height, width = mask.segmentation["size"]
        record = {"id": len(self.images) + 1, "file_name": image, "width": width, "height": height}
        self.annotations.append(
            {
                "id": number,
                "image_id": self.images.setdefault(image, record)["id"],
                "category_id": self.labels.index(label) + 1,
                "iscrowd": 0,
                "area": mask.area,
                "bbox": mask.bbox,
                "segmentation": mask.segmentation,
                **more,
            }
        )

    def write(self, uri: str) -> None:
        categories = [{"id": i, "name": label, "supercategory": ""} for i, label in enumerate(self.labels, 1)]
        content = {"images": list(self.images.values()), "annotations": self.annotations, "categories": categories}
        write_json(uri, content)


def check_masks(parts: Iterable[str]) -> None:
    """Whether the parts that an evaluation has left so far hold masks; of many the first is looked at.

    Raises:
        UserError: they do not, and what to do.
    """
    for uri in sorted(parts)[:1]:
        _final_masks(uri)


def _final_masks(uri: str) -> list[dict[str, Any]]:
    """Of a part's results image_id, object_id, trial, iou (the last), and png, the mask after the last click."""
    found = []
    for row in read_table(uri, ["image_id", "object_id", "trial", "iou", "masks"]).to_pylist():
        if row["trial"] is None:  # an object that was set aside
            continue
        if not row.get("masks"):
            raise UserError(
                f"{uri} holds no masks: it comes from an earlier version. Delete {uri.rsplit('/', 1)[0]} and run the "
                "same command again, or choose another --out; or leave out --masks."
            )
        last = max(row["masks"], key=lambda mask: mask["clicks"])
        found.append({**row, "iou": row["iou"][-1], "png": last["png"]})
    return found


def write_masks(
    out: str,
    units: Sequence[WorkUnit],
    parts: Mapping[str, str],
    sources: Sequence[Source],
    settings: Sequence[Setting],
) -> dict[str, int]:
    """Write the final masks of an evaluation, each annotations.json when its PNGs are there.

    Args:
        units, parts: as `job.make_parts` has them.
        settings: by number.

    Returns:
        Number of masks by folder below `out`.

    Raises:
        UserError: a part holds no masks.
    """
    names = {source.name: _picture_names(source, units) for source in sources}
    files = {(source.name, k): CocoFile() for source in sources for k in range(len(settings))}

    def write(unit: WorkUnit) -> list[tuple[dict[str, Any], str, MaskFacts]]:
        made = []
        for row in _final_masks(parts[unit.name]):
            file = f"{_folder(row['image_id'])}/{row['object_id']}.png"
            png = row.pop("png")
            storage.write_bytes(storage.join(out, _place(unit.dataset, settings[row["trial"]]), file), png)
            made.append((row, file, MaskFacts.of(decode_mask(png))))
        return made

    for unit, made in zip(units, storage.map_parallel(write, units), strict=True):
        for row, file, mask in made:
            coco = files[unit.dataset, row["trial"]]
            picture, more = names[unit.dataset][row["image_id"]], {"object": row["object_id"], "iou": row["iou"]}
            coco.add(len(coco.annotations) + 1, picture, mask, mask_file=file, **more)
    for (dataset, number), coco in files.items():
        coco.write(storage.join(out, _place(dataset, settings[number]), ANNOTATIONS))
    return {_place(dataset, settings[number]): len(coco.annotations) for (dataset, number), coco in files.items()}


def _place(dataset: str, setting: Setting) -> str:
    return f"{FOLDER}/{dataset}/{setting.label}"


def _folder(image_id: str) -> str:
    """Folder of an image's masks: its id, without what leads out of a folder or is too long for a disk."""
    parts = [part if part not in ("", ".", "..") else "_" for part in image_id.split("/")]
    return "/".join(part if len(part.encode(errors="replace")) <= LONGEST else _short(part) for part in parts)


def _short(part: str) -> str:
    return f"{part[:40]}~{hashlib.sha256(part.encode(errors='surrogateescape')).hexdigest()[:16]}"


def _picture_names(source: Source, units: Sequence[WorkUnit]) -> dict[str, str]:
    """File name of every image: its path in the raw folder; of shards, which know none, its id with an ending."""
    if source.layout:
        reader = open_reader(source.layout, source.uri, SPLIT.get(source.layout, ""))
        start = len(storage.join(source.uri, ""))
        return {reader.name_of(item): reader.path_of(item)[start:].lstrip("/") for item in reader.items()}
    groups = list(dict.fromkeys((u.uri, u.shard, u.group) for u in units if u.dataset == source.name))
    found: dict[str, str] = {}
    for some in storage.map_parallel(_named, groups):
        found |= some
    return found


def _named(group: tuple[str, str, int]) -> dict[str, str]:
    uri, shard, number = group
    rows = read_rows(storage.join(uri, shard), number, columns=["image_id", "image"]).to_pylist()
    return {row["image_id"]: f"{row['image_id']}{ENDINGS.get(row['image'][:2], '')}" for row in rows}
