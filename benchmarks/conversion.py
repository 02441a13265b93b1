"""Images per second and core of the conversion COCO+LVIS -> rows, split by stage; as they are, and crowded.

    python -m benchmarks.conversion [--root ../shared/data/sample] [--tiles 2] [--rounds 5]

The photographs of a COCO+LVIS folder are converted in this process by the functions that the job's tasks call, down to
the Parquet file. Crowded pictures are made of them: tiles x tiles photographs with their annotations in one picture,
of those that have the most objects. One core: OpenCV and everything else run one thread. All times are CPU times, the
least of several rounds, so other programs on the machine disturb them little.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import platform
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq

from benchmarks.stream import Clock, commit, processor
from pipeline.data import coco_merge, masks, shards
from pipeline.data.images import decode
from pipeline.data.readers import coco_lvis, open_reader
from pipeline.data.shards import Job

SPLIT = "train"
PARSE, READ, WRITE = "parse the two JSON files", "row, and what is left of reading", "Parquet, notes beside it"
FILES = "read and fingerprint the files"
STAGES: list[tuple[ModuleType | type, str, str]] = [
    (coco_lvis.CocoLvisReader, "items", PARSE),
    (coco_lvis, "fetch", FILES),
    (coco_lvis, "checked_size", "check the photograph"),
    (coco_lvis, "decode", "decode panoptic PNG"),
    (coco_merge, "panoptic_ids", "decode panoptic PNG"),
    (coco_merge, "segment_regions", "regions of segments"),
    (coco_merge, "polygon_region", "polygons"),
    (coco_merge, "merge", "merge"),
    (coco_merge, "free_stuff", "merge"),
    (coco_lvis, "parents", "tree"),
    (masks, "pack", "pack"),
    (masks, "encode_map", "encode layers"),
    (coco_lvis.CocoLvisReader, "read", READ),
    (shards, "write_shard", WRITE),
]


def convert(root: str, out: str) -> int:
    """Convert a folder into one shard, in this process; returns the number of images."""
    reader = open_reader("coco-lvis", root, SPLIT)
    items = reader.items()
    shards.write_shard(0, pickle.dumps([pickle.dumps(item) for item in items]), Job(reader, out, rows_per_group=32))
    return len(items)


def measure(root: str, rounds: int) -> tuple[dict[str, float], float, str]:
    """CPU ms per image by stage, of the whole without the clock's own cost, and what was converted in words."""
    with tempfile.TemporaryDirectory() as out:
        count = convert(root, out)
        rows = pq.read_table(Path(out, "shard-00000.parquet"), columns=["objects"]).column("objects").to_pylist()
        kinds = Counter(thing["kind"] for objects in rows for thing in objects)
        what = f"{count} pictures of {kinds['thing'] / count:.1f} things and {kinds['stuff'] / count:.1f} stuff"
        whole = []
        for _ in range(rounds):
            start = time.process_time()
            convert(root, out)
            whole.append(time.process_time() - start)
        plain = [(module, name, getattr(module, name)) for module, name, _ in STAGES]
        found: list[dict[str, float]] = []
        for _ in range(rounds):
            clock = Clock()
            for (module, name, function), (_, _, stage) in zip(plain, STAGES):
                setattr(module, name, clock.wrap(function, stage))
            convert(root, out)
            found.append(clock.seconds)
        for module, name, function in plain:
            setattr(module, name, function)
    stages = {stage: 1e3 * min(seconds[stage] for seconds in found) / count for _, _, stage in STAGES}
    return stages, 1e3 * min(whole) / count, what


def crowd(root: str, out: str, tiles: int) -> None:
    """Write pictures of tiles x tiles photographs each, those with the most objects, in the layout of COCO+LVIS.

    No pixel is lost: each photograph lies in a cell as large as the largest of the picture. Segments get new ids.
    """
    source, target = Path(root), Path(out)
    folders = (f"{SPLIT}2017", f"annotations/panoptic_{SPLIT}2017")
    for folder in folders:
        (target / folder).mkdir(parents=True)
    panoptic = json.loads((source / f"annotations/panoptic_{SPLIT}2017.json").read_text())
    lvis = json.loads((source / f"annotations/lvis_v1_{SPLIT}.json").read_text())
    names = {image["id"]: image["file_name"] for image in panoptic["images"]}
    noted = {note["image_id"]: note for note in panoptic["annotations"]}
    objects: dict[int, list[Any]] = {image["id"]: [] for image in lvis["images"] if image["id"] in noted}
    for note in lvis["annotations"]:
        if note["image_id"] in objects:
            objects[note["image_id"]].append(note)
    chosen = sorted(objects, key=lambda number: -len(objects[number]))[: max(1, len(objects) // 2)]
    picked = [chosen[first :: len(chosen) // tiles**2][: tiles**2] for first in range(len(chosen) // tiles**2)]
    whole: dict[str, list[Any]] = {"images": [], "annotations": [], "segments": []}
    for number, parts in enumerate(picked, 1):
        images = [_picture(source / folders[0] / names[part]) for part in parts]
        colours = [_picture(source / folders[1] / noted[part]["file_name"]) for part in parts]
        high, wide = (max(image.shape[axis] for image in images) for axis in (0, 1))
        picture = np.zeros((tiles * high, tiles * wide, 3), np.uint8)
        ids, segments = np.zeros((tiles * high, tiles * wide), np.int32), []
        for place, (part, image, colour) in enumerate(zip(parts, images, colours)):
            top, left = place // tiles * high, place % tiles * wide
            window = (slice(top, top + len(image)), slice(left, left + len(image[0])))
            picture[window] = image
            held = coco_merge.panoptic_ids(colour)
            for segment in noted[part]["segments_info"]:
                new = (len(segments) + 1) * 65537 % (1 << 24)  # as scattered as COCO's, none twice
                ids[window][held == segment["id"]] = new
                segments.append({"id": new, "category_id": segment["category_id"]})
            for note in objects[part]:
                polygons = [[v + (top if i % 2 else left) for i, v in enumerate(p)] for p in note["segmentation"]]
                one = {"id": len(whole["annotations"]) + 1, "image_id": number, "segmentation": polygons}
                whole["annotations"].append(one)
        name = f"{number:012d}"
        rgb = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8)
        cv2.imwrite(str(target / folders[0] / f"{name}.jpg"), picture[..., ::-1])
        cv2.imwrite(str(target / folders[1] / f"{name}.png"), rgb[..., ::-1])
        size = {"height": len(picture), "width": len(picture[0])}
        whole["images"].append({"id": number, "file_name": f"{name}.jpg", "coco_url": f"{name}.jpg", **size})
        whole["segments"].append({"image_id": number, "file_name": f"{name}.png", "segments_info": segments})
    common = {"images": whole["images"], "categories": panoptic["categories"]}
    for file, notes in ((f"panoptic_{SPLIT}2017", whole["segments"]), (f"lvis_v1_{SPLIT}", whole["annotations"])):
        (target / f"annotations/{file}.json").write_text(json.dumps({**common, "annotations": notes}))


def _picture(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB."""
    return decode(path.read_bytes(), cv2.IMREAD_COLOR_RGB)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(os.environ.get("CFR_ICL_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    parser.add_argument("--root", default=str(shared / "data" / "sample"), help="folder in the COCO+LVIS layout")
    parser.add_argument("--tiles", type=int, default=2, help="photographs along a side of a crowded picture")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        crowd(options.root, folder, options.tiles)
        found = [measure(root, options.rounds) for root in (options.root, folder)]
    print(f"{processor()}; Python {platform.python_version()}, OpenCV {cv2.__version__}, ", end="")
    print(f"NumPy {np.__version__}; commit {commit()}\n")
    print(f"| CPU ms per image | {' | '.join(what for _, _, what in found)} |\n|---|---:|---:|")
    for stage in found[0][0]:
        print(f"| {stage} | {' | '.join(f'{stages[stage]:.2f}' for stages, _, _ in found)} |")
    print(f"| whole, without the clocks | {' | '.join(f'{whole:.2f}' for _, whole, _ in found)} |")
    print(f"| images/s/core | {' | '.join(f'{1e3 / whole:.0f}' for _, whole, _ in found)} |")


if __name__ == "__main__":
    main()
