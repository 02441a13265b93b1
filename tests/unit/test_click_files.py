"""Files of clicks: every format says the same, and what is wrong is named with its row."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.clicks.encode import Click
from pipeline.errors import UserError
from pipeline.predict.click_files import ClickedObject, read_clicks
from pipeline.predict.outputs import mask_path

WANT = [
    ClickedObject("a/one.jpg", "007", (Click(30, 12, True), Click(4.5, 2, False))),
    ClickedObject("two.png", "", (Click(7, 8, True),)),
    ClickedObject("a/one.jpg", "cup", (Click(1, 1, True),)),
]
ROWS: list[dict[str, Any]] = [
    {"image": "a/one.jpg", "object": "007", "x": 12, "y": 30, "positive": True},
    {"image": "two.png", "object": None, "x": 8, "y": 7, "positive": None},
    {"image": "a/one.jpg", "object": "cup", "x": 1, "y": 1, "positive": True},
    {"image": "a/one.jpg", "object": "007", "x": 2, "y": 4.5, "positive": False},
]


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_every_table_says_the_same(tmp_path: Path) -> None:
    header, *lines = [
        "image,object,x,y,positive",
        "a/one.jpg,007,12,30,1",
        "two.png,,8,7,",
        "a/one.jpg,cup,1.0,1,yes",
        'a/one.jpg,"007",2,4.5,false',
    ]
    text = "\n".join([header, *lines]) + "\n"
    files = [
        write(tmp_path, "clicks.csv", text),
        write(tmp_path, "bom.csv", "\ufeff" + text.replace("\n", "\r\n")),
        write(tmp_path, "german.csv", text.replace(",", ";")),
        write(tmp_path, "clicks.TSV", text.replace(",", "\t")),
        write(tmp_path, "clicks.jsonl", "\n".join(map(json.dumps, ROWS))),
    ]
    numbers = [{**row, "x": float(row["x"]), "y": float(row["y"])} for row in ROWS]
    pq.write_table(pa.Table.from_pylist(numbers), tmp_path / "clicks.parquet")
    for file in [*files, str(tmp_path / "clicks.parquet")]:
        assert read_clicks(file) == WANT, file


def test_a_row_may_hold_all_clicks_of_an_object(tmp_path: Path) -> None:
    def listed(one: ClickedObject, pairs: bool) -> list[Any]:
        named = [{"x": c.col, "y": c.row, "positive": c.positive} for c in one.clicks]
        return [list(c.values()) for c in named] if pairs else named

    rows = [{"image": o.image, "object": o.name, "clicks": listed(o, pairs=i == 0)} for i, o in enumerate(WANT)]
    assert read_clicks(write(tmp_path, "lists.jsonl", "\n".join(map(json.dumps, rows)))) == WANT
    rows = [{"image": o.image, "object": o.name, "clicks": listed(o, pairs=False)} for o in WANT]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "lists.parquet")
    assert read_clicks(str(tmp_path / "lists.parquet")) == WANT
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter="\t")
    writer.writerows([["image", "object", "clicks"], *([*list(r.values())[:2], json.dumps(r["clicks"])] for r in rows)])
    assert read_clicks(write(tmp_path, "lists.tsv", buffer.getvalue())) == WANT


def test_coco_keypoints_and_boxes(tmp_path: Path) -> None:
    content = {
        "images": [{"id": 3, "file_name": "a/one.jpg", "width": 50, "height": 40}],
        "annotations": [
            {"id": 5, "image_id": 3, "keypoints": [12, 30, 2, 9, 9, 0, 2, 4.5, 1], "bbox": [0, 0, 1, 1]},
            {"id": 6, "image_id": 3, "bbox": [10, 20, 6, 4]},
        ],
    }
    assert read_clicks(write(tmp_path, "keypoints.json", json.dumps(content))) == [
        ClickedObject("a/one.jpg", "5", (Click(30, 12, True), Click(4.5, 2, True))),
        ClickedObject("a/one.jpg", "6", (Click(22, 13, True),)),
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "image,x,y\none.jpg,abc,3\n", "row 2: x is 'abc', not a number"),
        ("a.csv", "image,x,y\none.jpg,1,nan\n", "row 2: y is 'nan', not a place"),
        ("a.csv", "image,x,y\none.jpg,1,2\n,1,2\n", "row 3 names no image"),
        ("a.csv", "image,x,y,positive\none.jpg,1,2,maybe\n", "row 2: positive is 'maybe'"),
        ("a.csv", "imge,x,y\none.jpg,1,2\n", "no column 'image': it has imge, x, y. Did you mean 'imge'"),
        ("a.csv", "image,x,y\n", "holds no click"),
        ("a.csv", "", "no csv file of clicks"),
        ("a.jsonl", "{", "no jsonl file"),
        ("a.jsonl", "[1]", "row 1 is not an object"),
        ("a.jsonl", '{"image": "a", "clicks": [7]}', "row 1: a click is"),
        ("a.json", "[]", "no COCO file"),
        ("a.json", '{"images": [], "annotations": [{"id": 4, "image_id": 1}]}', "annotation 4 is of image 1"),
        ("a.json", '{"images": [{"id": 1, "file_name": "x"}], "annotations": [{"image_id": 1}]}', "neither keypoints"),
        ("a.parquet", "no", "no parquet file"),
        ("a.txt", "no", "must end in .csv"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_clicks(write(tmp_path, name, text))


def test_no_file(tmp_path: Path) -> None:
    for missing in (tmp_path / "clicks.csv", tmp_path):
        with pytest.raises(UserError, match="no click file"):
            read_clicks(str(missing))


def test_masks_of_different_objects_have_different_files() -> None:
    names = ["", "3", "cup", "a b", "a/b", "a_b", "../x", "é", "object", "x" * 90]
    paths = [mask_path(ClickedObject("one.jpg", name, ()), number) for number, name in enumerate(names)]
    assert len(set(paths)) == len(names)
    assert all(path.startswith("masks/one.jpg/") and path.count("/") == 2 and ".." not in path for path in paths)
