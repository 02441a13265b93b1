"""COCO+LVIS conversion against what RITM's converter made of the sample, and cut polygons as OpenCV 4.7 filled them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.coco_merge import polygon_region
from pipeline.data.images import decode_sample
from pipeline.data.masks import region
from pipeline.data.readers import open_reader

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize("split", ["train", "val"])
def test_every_object_of_every_image(split: str, sample: Path, golden: Path) -> None:
    expected = json.loads((golden / "coco_lvis.json").read_text())[split]
    reader = open_reader("coco-lvis", str(sample), split)
    items = reader.items()
    assert [reader.name_of(item) for item in items] == list(expected)
    for item in items:
        want = expected[reader.name_of(item)]
        row = reader.read(item)
        decoded = decode_sample(row)
        found = [region(decoded.mask(index)) for index in range(len(row.objects))]
        assert [(r.area, *r.box) for r in found if r] == [tuple(o[2:]) for o in want["objects"]], row.image_id
        assert [o.area for o in row.objects] == [o[2] for o in want["objects"]]
        things = [o for o in row.objects if o.kind == "thing"]
        assert len(things) == want["num_instance_masks"] and row.objects[: len(things)] == things
        assert [None if o.parent < 0 else o.parent for o in things] == want["parents"]
        assert all(o.parent == -1 for o in row.objects[len(things) :])


def test_polygons_that_leave_the_image() -> None:
    for case in json.loads((DATA / "cut_polygons.json").read_text()):
        height, width = case["height"], case["width"]
        found = polygon_region([np.array(case["polygon"], np.int32)], height, width)
        mask = np.zeros((height, width), np.uint8)
        if found is not None:
            mask[found.window] = found.mask
        assert np.packbits(mask).tobytes().hex() == case["pixels"]
