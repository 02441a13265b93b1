"""Drawn raw files in the very layout of COCO+LVIS, so that made data passes through the real reader.

    ROOT/train2017/ val2017/ annotations/   as `coco_lvis` reads them
    ROOT/eval/img/ eval/gt/                 as `folder` or `davis`: one object per picture
    ROOT/synthetic.json                     written last: what was drawn

Panoptic files hold most objects (visible pixels) and the background as stuff; LVIS files hold many of the same objects
again as polygons, which the merger has to recognise, and all parts.
"""

from __future__ import annotations

import json
from typing import Any

import cv2
import numpy as np

from pipeline import storage
from pipeline.data.readers.coco_lvis import CocoLvisReader, Item
from pipeline.data.readers.scenes import Scene, Thing, draw_scene
from pipeline.data.schema import encode_map
from pipeline.errors import UserError
from pipeline.storage.json_files import read_json

DONE = "synthetic.json"
THING, STUFF = 1, 2  # the two panoptic categories
IMAGES = {"train": 400, "val": 60}  # drawn by `jobs.prepare synthetic` in an empty folder
SIZE = (240, 320)
STREAMS = {"train": 0, "val": 1, "eval": 2}


class SyntheticReader(CocoLvisReader):
    """Reads what `write_synthetic` wrote, and has it written first where there is nothing yet."""

    def __init__(self, root: str, split: str = "train", seed: int = 0) -> None:
        super().__init__(root, split, source="synthetic")
        self.seed = seed

    def items(self) -> list[Item]:
        if not storage.exists(storage.join(self.root, DONE)):
            write_synthetic(self.root, train=IMAGES["train"], val=IMAGES["val"], seed=self.seed)
        return super().items()


def write_synthetic(
    root: str, train: int, val: int, seed: int = 0, size: tuple[int, int] = SIZE, evaluation: int = 24
) -> None:
    """Draw a raw data set; what is there already with the same arguments is kept.

    Args:
        root: new or empty folder, or one that an interrupted call left.
        train, val, evaluation: pictures of each part.
        seed: the same seed gives the same files.
        size: (height, width) of the pictures.

    Raises:
        UserError: the folder holds something else.
    """
    wanted = {"seed": seed, "train": train, "val": val, "evaluation": evaluation, "size": list(size)}
    begun, done = storage.join(root, "drawing.json"), storage.join(root, DONE)
    for note in (done, begun):
        if storage.exists(note):
            before = read_json(note)
            if before != wanted:
                raise UserError(f"{root} holds other drawn pictures ({before}); choose another folder.")
            if note == done:
                return
            break
    else:
        if storage.exists(root) and (storage.list_folders(root) or storage.list_files(root, recursive=False)):
            raise UserError(f"{root} holds something else than drawn pictures; choose a new folder.")
        storage.write_bytes(begun, json.dumps(wanted).encode())
    for split, count in (("train", train), ("val", val)):
        _write_split(root, split, count, seed, size)
    _write_eval(root, evaluation, seed, size)
    storage.write_bytes(done, json.dumps(wanted).encode())
    storage.remove(begun)


def _rng(seed: int, part: str, index: int) -> np.random.Generator:
    return np.random.default_rng((seed, STREAMS[part], index))


def _jpeg(image: np.ndarray, rng: np.random.Generator) -> bytes:
    quality = int(rng.integers(80, 96))
    return cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def _write_split(root: str, split: str, count: int, seed: int, size: tuple[int, int]) -> None:
    images: list[dict[str, Any]] = []
    panoptic: list[dict[str, Any]] = []
    lvis: list[dict[str, Any]] = []
    for index in range(count):
        rng = _rng(seed, split, index)
        scene = draw_scene(rng, *size)
        number = STREAMS[split] * 1_000_000 + index + 1
        name = f"{number:012d}"
        url = f"http://images.cocodataset.org/{split}2017/{name}.jpg"
        images.append({"id": number, "file_name": f"{name}.jpg", "coco_url": url, "height": size[0], "width": size[1]})
        storage.write_bytes(storage.join(root, f"{split}2017", f"{name}.jpg"), _jpeg(scene.image, rng))
        in_coco = rng.random(len(scene.things)) < 0.85
        colours, segments = _panoptic(scene, in_coco, rng)
        masks = storage.join(root, "annotations", f"panoptic_{split}2017")
        storage.write_bytes(storage.join(masks, f"{name}.png"), cv2.imencode(".png", colours)[1].tobytes())
        panoptic.append({"image_id": number, "file_name": f"{name}.png", "segments_info": segments})
        for mask in _lvis_masks(scene.things, in_coco, rng):
            polygons = _polygons(mask)
            area = int(np.count_nonzero(mask))
            lvis.append(
                {"id": len(lvis) + 1, "image_id": number, "segmentation": polygons, "area": area, "category_id": 1}
            )
    kinds = [{"id": THING, "name": "thing", "isthing": 1}, {"id": STUFF, "name": "stuff", "isthing": 0}]
    files = {
        f"panoptic_{split}2017.json": {"images": images, "annotations": panoptic, "categories": kinds},
        f"lvis_v1_{split}.json": {"images": images, "annotations": lvis, "categories": [{"id": 1, "name": "thing"}]},
    }
    for name, content in files.items():
        storage.write_bytes(storage.join(root, "annotations", name), json.dumps(content).encode())


def _panoptic(scene: Scene, in_coco: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """(H, W, 3) uint8 BGR colours and the segments of stuff and of the chosen things."""
    colours = np.zeros_like(scene.image)
    segments = []
    chosen = [(t.mask, THING) for t, wanted in zip(scene.things, in_coco, strict=True) if wanted]
    for mask, category in [(mask, STUFF) for mask in scene.stuff] + chosen:
        red, green = rng.integers(256, size=2)
        blue = len(segments) + 1  # makes the ids of a picture distinct
        colours[mask] = (blue, green, red)
        if mask.any():
            number = int(red) + 256 * int(green) + 65536 * blue
            area = int(np.count_nonzero(mask))
            segments.append({"id": number, "category_id": category, "iscrowd": 0, "area": area})
    return colours, segments


def _lvis_masks(things: list[Thing], in_coco: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Wholes (all that COCO lacks, half of the rest) and all parts."""
    masks = []
    for thing, known in zip(things, in_coco, strict=True):
        if not known or rng.random() < 0.5:
            masks.append(thing.mask)
        masks += thing.parts
    return masks


def _polygons(mask: np.ndarray) -> list[list[float]]:
    """COCO polygons of a mask, one per connected piece, holes filled."""
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [outline.reshape(-1).astype(float).tolist() for outline in outlines if len(outline) >= 3]


def _write_eval(root: str, count: int, seed: int, size: tuple[int, int]) -> None:
    for index in range(count):
        rng = _rng(seed, "eval", index)
        scene = draw_scene(rng, *size)
        while not (large := [t for t in scene.things if np.count_nonzero(t.mask) >= 0.02 * size[0] * size[1]]):
            scene = draw_scene(rng, *size)
        target = large[rng.integers(len(large))].mask
        name = f"{index:03d}"
        gt = encode_map(target.astype(np.uint8) * 255)
        storage.write_bytes(storage.join(root, "eval", "gt", f"{name}.png"), gt)
        storage.write_bytes(storage.join(root, "eval", "img", f"{name}.jpg"), _jpeg(scene.image, rng))
