"""COCO files as CVAT, Label Studio, Roboflow, labelme and VIA write them; what fits twice is not joined."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.data.images import decode_image, decode_sample
from pipeline.data.manifest import PLAN, REJECTED, Manifest
from pipeline.data.readers import open_reader
from pipeline.data.readers.coco_names import find_annotations, key, names
from pipeline.data.rejects import lines
from pipeline.errors import BadRow, UserError

SIZE = {"height": 40, "width": 60}
BOX = [[2, 2, 12, 2, 12, 12, 2, 12]]


def picture(path: Path, orientation: int = 1, shape: tuple[int, int] = (40, 60)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if orientation != 1:
        exif[0x0112] = orientation
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    Image.fromarray(noise).save(path, exif=exif)


def export(path: Path, images: list[Any], annotations: list[Any], pack: Any = lambda data: data) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"images": images, "annotations": annotations, "categories": []}
    path.write_bytes(pack(json.dumps(content).encode()))


def note(image: Any, **more: Any) -> dict[str, Any]:
    return {"image_id": image, "segmentation": BOX, **more}


def read(root: Path, **options: Any) -> tuple[dict[str, int], dict[str, list[str]], Any]:
    """Objects by row, (reason, detail) of what was set aside by image, the reader."""
    reader: Any = open_reader("coco-instances", str(root), **options)
    rows: dict[str, int] = {}
    problems: dict[str, list[str]] = {}
    for item in reader.items():
        aside: list[BadRow] = []
        try:
            row = reader.read(item, aside)
            rows[row.image_id] = len(row.objects)
        except BadRow as bad:
            aside.append(bad)
        if aside:
            problems[reader.name_of(item)] = [str(bad) for bad in aside]
    return rows, problems, reader


@pytest.mark.parametrize(
    ("annotations", "pictures", "file_name"),
    [
        ("annotations/instances_default.json", "images/a b.png", "a b.png"),  # CVAT
        ("annotations/instances_default.json", "images/default/a b.png", "a b.png"),
        ("annotations/instances_Train.json", "images/Train/a b.png", "a b.png"),
        ("result.json", "images/a b.png", "images\\a b.png"),  # Label Studio
        ("result.json", "images/a b.png", "../../label-studio/data/media/upload/1/a b.png"),
        ("result.json", "images/a b.png", "/data/local-files/?d=set%2Fa%20b.png"),
        ("result.json", "images/a b.png", "http://host:8080/data/upload/1/a%20b.png?token=x"),
        ("result.json", "images/a b.png", "s3://bucket/some/a%20b.png"),
        ("train/_annotations.coco.json", "train/a b.png", "a b.png"),  # Roboflow
        ("_annotations.coco.json", "a b.png", "a b.png"),
        ("annotations.json", "JPEGImages/a b.png", "JPEGImages\\a b.png"),  # labelme2coco
        ("annotations.json", "a b.png", "C:\\Users\\me\\pictures\\a b.png"),
        ("annotations.json", "images/a b.png", "/home/me/set/images/a b.png"),
        ("annotations.json", "images/a b.PNG", "A B.png"),
        ("via_export_coco.json", "a b.png", "file:///home/me/a%20b.png"),
        ("annotations/instances_train2017.json", "train2017/a b.png", "a b.png"),  # COCO
        ("export/annotations/instances_default.json", "export/images/a b.png", "a b.png"),
        ("annotations.json", "images/sub/a b.png", "sub\\a b.png"),
        ("annotations.json", "photos/a b.png", "a b.png"),
    ],
)
def test_where_tools_put_things(tmp_path: Path, annotations: str, pictures: str, file_name: str) -> None:
    picture(tmp_path / pictures)
    export(tmp_path / annotations, [{"id": 1, "file_name": file_name, **SIZE}], [note(1)])
    rows, problems, reader = read(tmp_path)
    assert list(rows) == ["sub_a b" if "sub" in pictures else "JPEGImages_a b" if "JPEG" in pictures else "a b"]
    assert list(rows.values()) == [1] and not problems
    assert reader.path_of(reader.items()[0]) == str(tmp_path / pictures)
    by_file, _, _ = read(tmp_path / annotations)  # the file itself as the data set
    assert list(by_file.values()) == [1]


def test_a_picture_of_that_name_in_another_folder_is_another_one(tmp_path: Path) -> None:
    picture(tmp_path / "val" / "1.png")
    picture(tmp_path / "b" / "2.png")
    picture(tmp_path / "c" / "2.png")
    images = [{"id": 1, "file_name": "train/1.png"}, {"id": 2, "file_name": "/home/me/train/1.png"}]
    images += [{"id": 3, "file_name": "2.png"}]
    export(tmp_path / "annotations.json", images, [note(1), note(2), note(3)])
    rows, problems, _ = read(tmp_path)
    assert not rows and len(problems) == 3
    assert sum("image is missing" in said or "leads out" in said for (said,) in problems.values()) == 2
    assert any("file name fits several files" in said and "b/2.png, c/2.png" in said for (said,) in problems.values())


def test_several_annotation_files(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        picture(tmp_path / split / f"{split}.png")
        export(tmp_path / split / "_annotations.coco.json", [{"id": 0, "file_name": f"{split}.png"}], [note(0)])
    with pytest.raises(UserError, match=r"2 COCO files: train/_annotations.coco.json, valid/.*--annotations"):
        read(tmp_path)
    assert read(tmp_path, annotations="valid/_annotations.coco.json")[0] == {"valid": 1}
    assert read(tmp_path, annotations=str(tmp_path / "train" / "_annotations.coco.json"))[0] == {"train": 1}
    with pytest.raises(UserError, match=r"There is no file .*absent.json.*JSON files there: train/"):
        read(tmp_path, annotations="absent.json")
    with pytest.raises(UserError, match="There is no JSON file"):
        find_annotations("root", ["images/a.png"], "")


@pytest.mark.parametrize("pack", [gzip.compress, lambda data: b"\xef\xbb\xbf" + data, lambda data: data + b"\r\n"])
def test_forms_of_the_file(tmp_path: Path, pack: Any) -> None:
    picture(tmp_path / "images" / "a.png")
    name = "instances_x.json.gz" if pack is gzip.compress else "instances_x.json"
    export(tmp_path / "annotations" / name, [{"id": 1, "file_name": "a.png"}], [note(1)], pack)
    assert read(tmp_path)[0] == {"a": 1}
    path = tmp_path / "annotations" / name
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match="not a whole JSON file"):
        read(tmp_path)


@pytest.mark.parametrize(("image", "annotation"), [(1, "1"), ("1", 1), (1.0, 1), (1, 1.0), ("7", " 7"), (3, "3.0")])
def test_ids_of_other_types_join(tmp_path: Path, image: Any, annotation: Any) -> None:
    picture(tmp_path / "images" / "a.png")
    export(tmp_path / "annotations.json", [{"id": image, "file_name": "a.png"}], [note(annotation)])
    assert read(tmp_path)[0] == {"a": 1}


@pytest.mark.parametrize("others", [(1, 1), (1, "1"), (1.0, "1"), ("1.0", 1)])
def test_one_id_of_two_images_joins_neither(tmp_path: Path, others: tuple[Any, Any]) -> None:
    names = ["left.png", "right.png", "third.png"]
    for name in names:
        picture(tmp_path / "images" / name)
    images = [{"id": i, "file_name": n, **SIZE} for i, n in zip((*others, 9), names)]
    export(tmp_path / "annotations.json", images, [note(1), note("1"), note(9)])
    rows, problems, _ = read(tmp_path)
    assert rows == {"third": 1} and set(problems) == {"left", "right"}
    assert all("one id of several images: 'left.png' has id" in said for (said,) in problems.values())
    assert all("'right.png' has id" in said for (said,) in problems.values())


def test_one_file_in_two_records(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    picture(tmp_path / "images" / "b.png")
    images = [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "images/A.png"}, {"id": 3, "file_name": "b.png"}]
    export(tmp_path / "annotations.json", [*images, images[2]], [note(1), note(2), note(3)])
    rows, problems, reader = read(tmp_path)
    assert rows == {"b": 1} and len(problems) == 2
    assert all("'a.png' of id 1 (number), 'images/A.png' of id 2" in said for (said,) in problems.values())
    assert reader.left_out == {"image record that repeats another one": 1}


def test_annotations_of_one_id(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    picture(tmp_path / "images" / "b.png")
    other = [[20, 20, 30, 20, 30, 30]]
    images = [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}]
    notes = [note(1, id=1), note(1, id=1), note(1, id=2), note(1, id="2", segmentation=other), note(2, id=1)]
    export(tmp_path / "annotations.json", images, notes)
    rows, problems, reader = read(tmp_path)
    assert rows == {"a": 1, "b": 1}
    assert problems == {"a": ["one id of several annotations of an image: 2 annotations of 'a.png' have id 2"]}
    assert reader.left_out == {"annotation that repeats another one": 1}


def test_names_stay_apart() -> None:
    def called(*paths: str) -> list[str]:
        return names(paths, paths)

    assert called("a.jpg", "b/c.png", "d.e.jpg") == ["a", "b_c", "d.e"]
    assert called("a.jpg", "a.png", "c.jpg") == ["a.jpg", "a.png", "c"]
    assert called("a/b.jpg", "a_b.jpg") == ["a%2Fb.jpg", "a_b.jpg"]
    assert called("x/a.jpg", "y/a.jpg", "A.jpg") == ["x_a", "y_a", "A"]
    assert names(["a.jpg", "b.jpg"], ["train/a.jpg", "train/b.jpg"]) == ["a", "b"]
    composed = called("\u00e9.jpg", "e\u0301.jpg")
    assert len(set(composed)) == 2 and all(name.isascii() for name in composed)


def test_crowd_marks(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    marks = [0, "0", False, None, "", 0.0, 1, "1", True, "true", 1.0, "perhaps"]
    notes = [note(1, iscrowd=mark) for mark in marks] + [note(1)]
    export(tmp_path / "annotations.json", [{"id": 1, "file_name": "a.png"}], notes)
    rows, problems, reader = read(tmp_path)
    crowd = "crowd region, which is no object"
    assert rows == {"a": 7} and reader.left_out == {crowd: 5}
    assert reader.hints[crowd] == "of 13 annotations; jobs.prepare --crowd objects takes them in"
    assert problems == {"a": ["iscrowd is neither 0 nor 1: perhaps"]}
    rows, _, reader = read(tmp_path, crowd="objects")
    assert rows == {"a": 12} and not reader.left_out
    with pytest.raises(UserError, match="Did you mean 'objects'"):
        read(tmp_path, crowd="object")
    with pytest.raises(UserError, match="--crowd is for 'coco-instances'"):
        open_reader("folder", str(tmp_path), crowd="objects")


def test_what_has_no_mask(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    empty: list[Any] = [[], {}, None, [[]], ""]
    notes = [note(1), *({**note(1, bbox=[1, 1, 5, 5]), "segmentation": mask} for mask in empty)]
    notes += [{"image_id": 1, "bbox": [1, 1, 5, 5]}, {"image_id": 1, "bbox": [1, 1, 5, 5], "keypoints": [1, 1, 2]}]
    export(tmp_path / "annotations.json", [{"id": 1, "file_name": "a.png"}], notes)
    rows, problems, reader = read(tmp_path)
    assert rows == {"a": 1} and not problems
    assert reader.left_out == {"box without a mask": 6, "keypoints without a mask": 1}


@pytest.mark.parametrize("orientation", range(2, 9))
def test_photographs_that_exif_turns(tmp_path: Path, orientation: int) -> None:
    picture(tmp_path / "images" / "a.jpg", orientation)
    shown = decode_image((tmp_path / "images" / "a.jpg").read_bytes()).shape[:2]
    stored = {"file_name": "a.jpg", "id": 1, **SIZE}
    ground = np.zeros((40, 60, 3), np.uint8)
    ground[2:12, 2:12] = 255
    Image.fromarray(ground).save(tmp_path / "g.png", exif=Image.open(tmp_path / "images" / "a.jpg").getexif())
    turned = decode_image((tmp_path / "g.png").read_bytes())[..., 0] > 0  # OpenCV's own turning is the measure
    export(tmp_path / "annotations.json", [stored], [note(1)])
    if orientation >= 5:
        assert shown == (60, 40)
    else:
        rows, problems, _ = read(tmp_path)
        assert not rows and "EXIF orientation" in problems["a"][0] and "60 x 40 as shown" in problems["a"][0]
    reader = open_reader("coco-instances", str(tmp_path), exif="" if orientation >= 5 else "stored")
    np.testing.assert_array_equal(decode_sample(reader.read(reader.items()[0])).mask(0), turned)
    export(tmp_path / "annotations.json", [{**stored, "height": shown[0], "width": shown[1]}], [note(1)])
    reader = open_reader("coco-instances", str(tmp_path), exif="" if orientation >= 5 else "shown")
    sample = decode_sample(reader.read(reader.items()[0]))
    assert sample.mask(0).shape == shown and sample.mask(0)[2:12, 2:12].all()
    export(tmp_path / "annotations.json", [{**stored, "height": 41}], [note(1)])
    assert "60 x 40 as stored (EXIF orientation" in read(tmp_path)[1]["a"][0]


def test_ids_that_are_none() -> None:
    for bad in ([1], None, True, float("nan"), {}):
        with pytest.raises(TypeError):
            key(bad)


@pytest.mark.parametrize("folder", ["masks", "gt", "SegmentationObject", "labels"])
def test_a_mask_of_that_name_is_no_picture(tmp_path: Path, folder: str) -> None:
    picture(tmp_path / folder / "a.png")
    export(tmp_path / "annotations.json", [{"id": 1, "file_name": "a.png"}], [note(1)])
    assert "image is missing" in read(tmp_path)[1]["a"][0]


@pytest.mark.parametrize("size", [{"height": 0, "width": 0}, {"height": None}, {"height": "40", "width": "60.0"}, {}])
def test_sizes_as_tools_write_them(tmp_path: Path, size: dict[str, Any]) -> None:
    picture(tmp_path / "images" / "a.png")
    (tmp_path / "pictures").symlink_to(tmp_path / "images")
    export(tmp_path / "annotations.json", [{"id": 1, "file_name": "pictures/a.png", **size}], [note(1)])
    assert read(tmp_path)[0] == {"pictures_a": 1}
    export(tmp_path / "annotations.json", [{"id": 1, "file_name": "a.png", "height": 60, "width": 40}], [note(1)])
    assert "its record 40 x 60 (width and height exchanged)" in read(tmp_path)[1]["a"][0]
    export(tmp_path / "annotations.json", [{"id": 1, "file_name": "a.png", "height": 1e999, "width": 4}], [note(1)])
    with pytest.raises(UserError, match="is not a COCO instances file"):
        read(tmp_path)


def test_what_ends_a_conversion(tmp_path: Path) -> None:
    rows = [{"image_id": "a", "reason": "r", "detail": "x and y", "path": "/images/a.png"}]
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, tmp_path / REJECTED)
    (tmp_path / PLAN).write_text('{"images": 24}')
    picture(tmp_path / "raw" / "images" / "a.png")
    export(tmp_path / "raw" / "annotations.json", [{"id": 1, "file_name": "a.png"}], [note(1), note(1, iscrowd=1)])
    reader = read(tmp_path / "raw")[2]
    manifest = Manifest(1, "n", "s", "", 23, 23, [], {"r": 1}, reader.left_out)
    assert lines(reader, str(tmp_path), manifest)[1:] == [
        "set aside: 1 x r, first /images/a.png: x and y",
        f"set aside: in 1 of 24 images, listed in {tmp_path / REJECTED}",
        "left out: 1 x crowd region, which is no object (of 2 annotations; jobs.prepare --crowd objects takes them in)",
    ]
