"""COCO instances JSON: polygons, run lengths, genuine and broken files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from pipeline.data.images import decode_sample
from pipeline.data.readers import open_reader
from pipeline.data.readers.coco_masks import decode_runs, segmentation_region, unpack
from pipeline.errors import BadRow, UserError

# Run lengths of a 9 x 10 mask and what pycocotools makes of them.
KNOWN_RUNS, KNOWN_TEXT = [6, 1, 40, 4, 5, 4, 5, 4, 21], "61X13mN000`0"


def runs_of(mask: np.ndarray) -> list[int]:
    flat = mask.T.reshape(-1)
    edges = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff([0, *edges.tolist(), len(flat)]).tolist()
    return [0, *lengths] if flat[0] else lengths


def pack_text(runs: list[int]) -> str:
    """`rleToString` of cocoapi's common/maskApi.c."""
    text = ""
    for index, run in enumerate(runs):
        value = run - runs[index - 2] if index > 2 else run
        more = True
        while more:
            low = value & 31
            value >>= 5
            more = value != -1 if low & 16 else value != 0
            text += chr(low + 32 * more + 48)
    return text


def problems(reader: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for item in reader.items():
        aside: list[BadRow] = []
        try:
            reader.read(item, aside)
        except BadRow as bad:
            aside.append(bad)
        if aside:
            found[reader.name_of(item)] = [bad.reason for bad in aside]
    return found


def test_known_run_lengths() -> None:
    assert unpack(KNOWN_TEXT) == KNOWN_RUNS
    assert pack_text(KNOWN_RUNS) == KNOWN_TEXT
    assert decode_runs([2, 3, 1, 1], 7, 1)[:, 0].tolist() == [False, False, True, True, True, False, True]


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.02, 0.5, 1.0]))
def test_run_lengths_round_trip(height: int, width: int, seed: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < share
    runs = runs_of(mask)
    assert unpack(pack_text(runs)) == runs
    np.testing.assert_array_equal(decode_runs(runs, height, width), mask)


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ({"size": [4, 6], "counts": [10, 4, 11]}, "annotation is malformed"),
        ({"size": [4, 6], "counts": [30, -10, 4]}, "annotation is malformed"),
        ({"size": [4, 6], "counts": [1.5, 22.5]}, "annotation is malformed"),
        ({"size": [4, 6], "counts": [1 << 62, 1 << 62]}, "annotation is malformed"),
        ({"size": [4, 6], "counts": None}, "annotation is malformed"),
        ({"size": [4, 6], "counts": "\x01"}, "annotation is malformed"),
        ({"size": [4, 6], "counts": "oooooooooooooooooooo"}, "annotation is malformed"),
        ({"size": [4, 6], "counts": "o"}, "annotation is malformed"),
        ({"size": [6, 4], "counts": [24]}, "mask has another size"),
        ({}, "mask has another size"),
        ([[1, 2, 3]], "annotation is malformed"),
        ([[1, 2, "a", 4]], "coordinate is no finite number"),
        ([[1, 2, float("inf"), 4]], "coordinate is no finite number"),
        ([1, 2, 3, 4], "annotation is malformed"),
        (None, "annotation is malformed"),
    ],
)
def test_bad_segmentations(segmentation: Any, reason: str) -> None:
    with pytest.raises(BadRow) as caught:
        segmentation_region(segmentation, 4, 6)
    assert caught.value.reason == reason


@pytest.fixture
def instances(shared: Path, tmp_path: Path) -> Path:
    """COCO's genuine instances of four images in the layout of coco-instances."""
    native = shared / "data" / "native" / "COCO_LVIS"
    shutil.copytree(native / "val2017", tmp_path / "images")
    shutil.copyfile(native / "annotations" / "instances_val2017.json", tmp_path / "annotations.json")
    return tmp_path


def test_native_instances(instances: Path) -> None:
    content = json.loads((instances / "annotations.json").read_text())
    coco = COCO(str(instances / "annotations.json"))
    reader = open_reader("coco-instances", str(instances))
    rows = {reader.name_of(item): reader.read(item) for item in reader.items()}
    assert sum(len(row.objects) for row in rows.values()) == sum(not a["iscrowd"] for a in content["annotations"])
    for image in content["images"]:
        theirs = [coco.annToMask(a) > 0 for a in content["annotations"] if a["image_id"] == image["id"]]
        crowds = [a["iscrowd"] for a in content["annotations"] if a["image_id"] == image["id"]]
        wanted = [mask for mask, crowd in zip(theirs, crowds) if not crowd]
        if wanted:
            sample = decode_sample(rows[Path(image["file_name"]).stem])
            for index, mask in enumerate(wanted):
                np.testing.assert_array_equal(sample.mask(index), mask)


def test_instances_of_every_kind(tmp_path: Path) -> None:
    mask = np.zeros((40, 60), bool)
    mask[5:20, 10:30] = True
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    (tmp_path / "images" / "sub folder").mkdir(parents=True)
    assert cv2.imwrite(str(tmp_path / "images" / "sub folder" / "a.png"), image)
    assert cv2.imwrite(str(tmp_path / "images" / "b.png"), image)
    runs = runs_of(mask)
    square = [10, 5, 30, 5, 30, 20, 10, 20]
    content = {
        "images": [
            {"id": 1, "file_name": "sub folder/a.png", "height": 40, "width": 60},
            {"id": "two", "file_name": "b.png"},
        ],
        "annotations": [
            {"image_id": 1, "segmentation": [square]},
            {"image_id": 1, "segmentation": {"size": [40, 60], "counts": runs}, "iscrowd": 0},
            {"image_id": 1, "segmentation": {"size": [40, 60], "counts": pack_text(runs)}},
            {"image_id": 1, "segmentation": {"size": [40, 60], "counts": runs}, "iscrowd": 1},
            {"image_id": 9, "segmentation": []},
        ],
    }
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    reader = open_reader("coco-instances", str(tmp_path))
    (item,) = reader.items()
    assert reader.name_of(item) == "sub folder_a"
    assert sorted(reader.left_out.values()) == [1, 1, 1]
    sample = decode_sample(reader.read(item))
    assert len(sample.objects) == 3
    for index in range(3):
        np.testing.assert_array_equal(sample.mask(index), mask)
    content["annotations"][1]["segmentation"] = []
    content["annotations"][2]["segmentation"]["counts"] = "junk"
    content["annotations"][4] = {"image_id": "two", "segmentation": [[-9, -9, -5, -9, -5, -5]]}
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    assert problems(reader) == {
        "sub folder_a": ["object with no pixels", "annotation is malformed"],
        "b": ["object outside the picture"],
    }


def test_instances_bad_rows(instances: Path) -> None:
    path = instances / "annotations.json"
    whole = path.read_text()
    for text, message in (
        (whole[: len(whole) // 2], "not a whole JSON file"),
        ('{"images": []}', "it has no list 'annotations'"),
        ('{"images": [{}], "annotations": []}', "lacks 'id'"),
        ('{"images": [{"id": 1}], "annotations": [{"image_id": 1}]}', "lacks 'segmentation'"),
        ('{"images": [{"id": [1]}], "annotations": []}', "unhashable"),
        ('{"images": [], "annotations": [5]}', "is not a COCO"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            open_reader("coco-instances", str(instances)).items()
    content = json.loads(whole)
    used = {a["image_id"] for a in content["annotations"]}
    first, second, third = [image for image in content["images"] if image["id"] in used][:3]
    first["file_name"] = "../../etc/passwd"
    second["height"] += 1
    (instances / "images" / third["file_name"]).unlink()
    path.write_text(json.dumps(content))
    found = problems(open_reader("coco-instances", str(instances)))
    reasons = ["name leads out of the data folder", "mask has another size", "image is missing"]
    assert list(found.values()) == [[reason] for reason in reasons]
    with pytest.raises(UserError, match="has no splits"):
        open_reader("coco-instances", str(instances), "val")
