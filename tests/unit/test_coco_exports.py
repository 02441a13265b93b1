"""COCO files as annotation tools export them: ids, names, places, crowds, boxes, photographs that EXIF turns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.data.images import decode_sample
from pipeline.data.readers import open_reader
from pipeline.errors import BadRow, UserError

SQUARE = [[10, 5, 30, 5, 30, 20, 10, 20]]


def picture(path: Path, size: tuple[int, int] = (40, 60)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((*size, 3), 90, np.uint8))


def export(
    root: Path,
    images: list[tuple[str, Any]],
    annotations: list[tuple[Any, Any]],
    file: str = "annotations.json",
    files: list[str] | None = None,
    **more: Any,
) -> None:
    """A COCO export: (file_name, id) of images, (image_id, segmentation) of annotations; pictures below images/."""
    for name in files if files is not None else [f"images/{name}" for name, _ in images]:
        picture(root / name)
    content = {
        "images": [{"id": i, "file_name": n, "height": 40, "width": 60} for n, i in images],
        "annotations": [{"id": k, "image_id": i, "segmentation": s, **more} for k, (i, s) in enumerate(annotations)],
        "categories": [],
    }
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(json.dumps(content))


def outcome(root: Path, **options: str) -> dict[str, Any]:
    """Areas of the objects of each row, or the reason why it is set aside."""
    reader = open_reader("coco-instances", str(root), **options)
    found: dict[str, Any] = {}
    for item in reader.items():
        try:
            found[reader.name_of(item)] = [o.area for o in reader.read(item).objects]
        except BadRow as bad:
            found[reader.name_of(item)] = bad.reason
    return found


def test_several_polygons_are_one_object_and_a_stray_rest_is_counted(tmp_path: Path) -> None:
    from pycocotools import mask as reference

    polygons = [[2, 2, 9, 2, 9, 9, 2, 9], [5, 5, 15, 6, 12, 14], [1, 1, 3, 3, 1, 1]]
    merged = reference.decode(reference.merge(reference.frPyObjects(polygons, 40, 60))) > 0
    export(tmp_path, [("a.png", 1)], [(1, polygons)])
    reader = open_reader("coco-instances", str(tmp_path))
    assert reader.read(reader.items()[0]).objects[0].area == merged.sum()
    assert reader.understood == {"polygon with fewer than three corners beside a real one, left out": 1}


def test_ids_that_leave_open_what_belongs_together_are_set_aside(tmp_path: Path) -> None:
    names = [("left.png", 12), ("right.png", 12), ("three.png", 3), ("text.png", "3"), ("good.png", "7")]
    names.append(("half.png", 8.0))
    export(tmp_path, names, [(12, SQUARE), (3, SQUARE), (7, SQUARE), ("8", SQUARE)])
    assert outcome(tmp_path) == {
        **dict.fromkeys(("left", "right", "three", "text"), "image id is ambiguous"),
        "good": [300],
        "half": [300],
    }


def test_files_of_one_stem_and_a_file_of_two_ids(tmp_path: Path) -> None:
    names = [("a.jpg", 1), ("a.png", 2), ("b.png", 3), ("b.png", 4), ("sub/c.png", 5), ("c.png", 6)]
    export(tmp_path, names, [(i, SQUARE) for _, i in names])
    assert outcome(tmp_path) == {
        "a.jpg": [300],
        "a.png": [300],
        "b.png": "image is listed twice",
        "b.png (2)": "image is listed twice",
        "sub_c": [300],
        "c": [300],
    }


@pytest.mark.parametrize(
    "given",
    [
        "images/a b.png",
        "images\\a b.png",
        "C:\\data\\a b.png",
        "/home/somebody/project/images/a b.png",
        "../../label-studio/data/media/upload/1/a b.png",
        "/data/local-files/?d=upload/1/a%20b.png",
        "https://host.example/bucket/a%20b.png?signature=x",
        "train2017/a b.png",
        "A B.PNG",
    ],
)
def test_file_names_as_tools_write_them(tmp_path: Path, given: str) -> None:
    export(tmp_path, [(given, 1)], [(1, SQUARE)], files=["images/a b.png", "images/other.png"])
    assert outcome(tmp_path) == {"a b": [300]}


def test_a_name_that_fits_two_files_is_set_aside(tmp_path: Path) -> None:
    export(tmp_path, [("x/a.png", 1)], [(1, SQUARE)], files=["images/one/a.png", "images/two/a.png"])
    assert list(outcome(tmp_path).values()) == ["image file is ambiguous"]


@pytest.mark.parametrize(
    ("file", "files", "options"),
    [
        ("result.json", ["images/a.png"], {}),
        ("annotations/instances_default.json", ["images/default/a.png"], {}),
        ("annotations/instances_val2017.json", ["val2017/a.png"], {}),
        ("annotations/instances_val2017.json", ["val2017/a.png"], {"split": "val"}),
        ("_annotations.coco.json", ["a.png"], {}),
        ("valid/_annotations.coco.json", ["valid/a.png", "train/a.png"], {"split": "valid"}),
        ("via_export_coco.json", ["a.png"], {}),
        ("some/where.json", ["pictures/a.png"], {"annotations": "some/where.json"}),
    ],
)
def test_where_tools_put_their_files(tmp_path: Path, file: str, files: list[str], options: dict[str, str]) -> None:
    export(tmp_path, [("a.png", 1)], [(1, SQUARE)], file=file, files=files)
    (areas,) = outcome(tmp_path, **options).values()
    assert areas == [300]


def test_several_sets_want_a_choice(tmp_path: Path) -> None:
    for name in ("train", "test"):
        export(tmp_path / name, [("a.png", 1)], [(1, SQUARE)], file="_annotations.coco.json", files=["a.png"])
    with pytest.raises(UserError, match=r"several sets \(test, train\): choose one with --split"):
        outcome(tmp_path)
    with pytest.raises(UserError, match=r"no split 'trian': .*Did you mean 'train'"):
        outcome(tmp_path, split="trian")
    with pytest.raises(UserError, match=r"no file absent.json"):
        outcome(tmp_path, annotations="absent.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"needs a JSON file"):
        outcome(tmp_path / "empty")


@pytest.mark.parametrize("crowd", [1, "1", True, "true", 1.0])
def test_crowds_can_be_objects(tmp_path: Path, crowd: Any) -> None:
    export(tmp_path, [("a.png", 1)], [(1, SQUARE)], iscrowd=crowd)
    reader = open_reader("coco-instances", str(tmp_path))
    assert reader.items() == []
    assert "crowd region (of 1 annotations); --crowd objects takes them as objects" in reader.left_out
    assert outcome(tmp_path, crowd="objects") == {"a": [300]}


@pytest.mark.parametrize("crowd", [0, "0", False, "false", None, "", 0.0])
def test_what_is_no_crowd(tmp_path: Path, crowd: Any) -> None:
    export(tmp_path, [("a.png", 1)], [(1, SQUARE)], iscrowd=crowd)
    assert outcome(tmp_path) == {"a": [300]}


def test_boxes_without_masks_are_counted_as_such(tmp_path: Path) -> None:
    export(tmp_path, [("a.png", 1)], [(1, []), (1, SQUARE)], bbox=[1, 1, 5, 5])
    reader = open_reader("coco-instances", str(tmp_path))
    assert len(reader.items()) == 1 and reader.left_out == {"box without a mask (of 2 annotations)": 1}


def test_photographs_that_exif_turns(tmp_path: Path) -> None:
    from PIL import Image

    tags = Image.Exif()
    export(tmp_path, [(f"{o}.jpg", o) for o in (3, 6)], [(3, SQUARE), (6, SQUARE)], files=[])
    (tmp_path / "images").mkdir()
    for orientation in (3, 6):
        tags[0x0112] = orientation
        Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "images" / f"{orientation}.jpg", exif=tags)
    reader = open_reader("coco-instances", str(tmp_path))
    rows = {item.name: reader.read(item) for item in reader.items()}
    assert (rows["6"].height, rows["6"].width) == (60, 40)
    stored = np.zeros((40, 60), bool)
    stored[5:20, 10:30] = True
    np.testing.assert_array_equal(decode_sample(rows["6"]).mask(0), np.rot90(stored, -1))
    np.testing.assert_array_equal(decode_sample(rows["3"]).mask(0), stored)
    assert reader.understood == {
        "annotations turned as the EXIF of the photograph says": 1,
        "annotations taken as drawn on the photograph as its EXIF turns it": 1,
    }
