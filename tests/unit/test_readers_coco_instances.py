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

from pipeline.data.coco_masks import decode_runs, draw_polygon, segmentation_region, unpack
from pipeline.data.images import decode_sample
from pipeline.data.readers import open_reader
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
        ({}, "object with no pixels"),
        ({"size": [4], "counts": [24]}, "mask has another size"),
        ({"size": [4, 6], "counts": [24]}, "object with no pixels"),
        ([], "object with no pixels"),
        ([[1, 1, 3, 3]], "polygon with fewer than three corners"),
        ([[1, 1, 1, 1, 1, 1]], "polygon with fewer than three corners"),
        ([[1, 1, 3, 1, 5, 1]], "polygon without an area"),
        ([[1, 1, 3, 3, 1, 1]], "polygon with fewer than three corners"),
        ([[9, 9, 12, 9, 12, 12]], "object outside the picture"),
        ([[-9, 1, -5, 1, -5, 3]], "object outside the picture"),
        ([[1, 2, "3", 4]], "annotation is malformed"),
        ([[1, 2, True, 4]], "annotation is malformed"),
        ([[1, 2, float("nan"), 4]], "annotation is malformed"),
        ([[1, 2, 3]], "annotation is malformed"),
        ([[1, 2, "a", 4]], "annotation is malformed"),
        ([[1, 2, float("inf"), 4]], "annotation is malformed"),
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
    reader = open_reader("coco-instances", str(instances))
    rows = {reader.name_of(item): reader.read(item) for item in reader.items()}
    assert sum(len(row.objects) for row in rows.values()) == sum(not a["iscrowd"] for a in content["annotations"])
    for image in content["images"]:
        theirs = [a["area"] for a in content["annotations"] if a["image_id"] == image["id"]]
        if theirs:
            ours = [o.area for o in rows[Path(image["file_name"]).stem].objects]
            # COCO's own area is that of the exact polygons; ours counts pixels.
            assert all(abs(t - o) <= 2 * np.sqrt(t) + 4 for o, t in zip(ours, theirs, strict=True))


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


def random_polygons(rng: np.random.Generator, count: int) -> Any:
    """(height, width, corners): half and whole pixels, repeated corners, across and outside the border."""
    for index in range(count):
        height, width = rng.integers(1, 60, 2).tolist()
        corners = rng.uniform(-20, 80, (int(rng.integers(1, 12)), 2))
        step = (0, 1, 2, 10, 0)[index % 5]
        if step:
            corners = np.round(corners * step) / step
        if index % 7 == 0 and len(corners) > 2:
            corners[1], corners[-1] = corners[0], corners[0]
        yield height, width, corners


def test_polygons_and_run_lengths_are_those_of_pycocotools() -> None:
    from pycocotools import mask as reference

    rng = np.random.default_rng(5)
    for height, width, corners in random_polygons(rng, 10_000):
        if len(corners) <= 2:
            continue  # four numbers are a box to pycocotools, two are refused
        expected = reference.frPyObjects([corners.ravel().tolist()], height, width)
        drawn = draw_polygon(corners, height, width)
        np.testing.assert_array_equal(drawn, reference.decode(expected)[..., 0] > 0)
        text = reference.encode(np.asfortranarray(drawn.astype(np.uint8)))["counts"].decode()
        np.testing.assert_array_equal(decode_runs(unpack(text), height, width), drawn)
    square = [[2.0, 2.0, 10.0, 2.0, 10.0, 10.0, 2.0, 10.0]]
    assert segmentation_region(square, 20, 20).area == 64
