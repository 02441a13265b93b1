"""A few objects of every photograph, as a folder that `jobs.evaluate` reads: objects of one photograph say less."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline import storage
from pipeline.data.images import decode_sample
from pipeline.data.manifest import load_manifest, read_group
from pipeline.data.schema import Row
from pipeline.evaluate.plan import is_evaluated
from pipeline.storage.json_files import write_json

DONE = "chosen.json"


def chosen(row: Row, count: int, seed: int, number: int) -> list[int]:
    """Indices of at most `count` objects of photograph `number`, uniformly from its things."""
    things = [index for index, info in enumerate(row.objects) if is_evaluated(info)]
    rng = np.random.default_rng((seed, number))
    return sorted(rng.permutation(things)[:count].tolist())


def write_some(val: str, out: str, count: int, seed: int = 0) -> str:
    """Write images/ and masks/ of `count` objects of each photograph of prepared shards; returns the folder.

    A folder that is complete stays as it is.
    """
    folder = storage.join(out, f"{count}-per-image")
    if storage.exists(storage.join(folder, DONE)):
        return folder
    taken: dict[str, list[int]] = {}
    number = 0
    for shard in load_manifest(val).shards:
        for group in range(len(shard.row_groups)):
            for row in read_group(val, shard.path, group):
                number += 1
                if objects := chosen(row, count, seed, number):
                    taken[row.image_id] = objects
                    _write(row, objects, folder)
    write_json(storage.join(folder, DONE), {"val": val, "seed": seed, "objects": taken})
    return folder


def _write(row: Row, objects: list[int], folder: str) -> None:
    sample = decode_sample(row)
    name = row.image_id.replace("/", "-").rsplit(".", 1)[0]
    suffix = "png" if row.image.startswith(b"\x89PNG") else "jpg"
    storage.write_bytes(storage.join(folder, "images", f"{name}.{suffix}"), row.image)
    for place, index in enumerate(objects, 1):
        truth = sample.target(index)
        grey = np.select([truth == 1, truth == -1], [255, 128], 0).astype(np.uint8)
        ok, png = cv2.imencode(".png", grey)
        if not ok:
            raise ValueError(f"cannot encode the mask of {row.image_id}")
        storage.write_bytes(storage.join(folder, "masks", f"{name}_{place}.png"), png.tobytes())
