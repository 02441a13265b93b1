"""COCO+LVIS files whose ids fit twice, or whose lists were shortened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.data.readers import open_reader
from pipeline.data.readers.synthetic import write_synthetic
from pipeline.errors import BadRow


def coco_lvis(root: Path, spoil: Any) -> tuple[set[str], dict[str, str], Any]:
    """Rows, what was set aside and the reader of two drawn images, spoiled."""
    write_synthetic(str(root), train=0, val=3, seed=2, size=(64, 80), evaluation=0)
    paths = [root / "annotations" / name for name in ("panoptic_val2017.json", "lvis_v1_val.json")]
    contents = [json.loads(path.read_text()) for path in paths]
    spoil(*contents)
    for path, content in zip(paths, contents):
        path.write_text(json.dumps(content))
    reader = open_reader("coco-lvis", str(root), "val")
    rows, problems = set(), {}
    for item in reader.items():
        try:
            rows.add(reader.read(item).image_id)
        except BadRow as bad:
            problems[reader.name_of(item)] = str(bad)
    return rows, problems, reader


ONE, TWO, THREE = (f"{1_000_000 + n:012d}" for n in (1, 2, 3))


def test_coco_lvis_ids(tmp_path: Path) -> None:
    def as_text(panoptic: Any, lvis: Any) -> None:
        for entry in panoptic["annotations"]:
            entry["image_id"] = str(entry["image_id"])
        for entry in lvis["images"]:
            entry["id"] = float(entry["id"])

    assert coco_lvis(tmp_path / "text", as_text)[0] == {ONE, TWO, THREE}

    def one_panoptic_id(panoptic: Any, lvis: Any) -> None:
        panoptic["images"].append({**panoptic["images"][0], "file_name": "other.jpg"})

    def one_lvis_id(panoptic: Any, lvis: Any) -> None:
        lvis["images"].append({**lvis["images"][0], "id": str(lvis["images"][0]["id"]), "coco_url": "x/other.jpg"})

    def one_annotation_id(panoptic: Any, lvis: Any) -> None:
        panoptic["annotations"].append({**panoptic["annotations"][0], "segments_info": []})

    def other_file(panoptic: Any, lvis: Any) -> None:
        lvis["images"][0]["coco_url"] = "http://images.cocodataset.org/val2017/other.jpg"

    for number, spoil in enumerate((one_panoptic_id, one_lvis_id, one_annotation_id, other_file)):
        rows, problems, _ = coco_lvis(tmp_path / str(number), spoil)
        assert rows == {TWO, THREE} and list(problems) == [ONE], spoil
        assert problems[ONE].startswith(("one id of several images", "one id of two files"))
        assert f"{ONE}." in problems[ONE]


def test_coco_lvis_lists_that_were_shortened(tmp_path: Path) -> None:
    def shorten(panoptic: Any, lvis: Any) -> None:
        del panoptic["images"][0], lvis["images"][1]

    rows, problems, reader = coco_lvis(tmp_path, shorten)
    assert rows == {THREE} and not problems
    assert reader.left_out["panoptic annotation of an image that is not listed"] == 1
    assert reader.left_out["panoptic image that the LVIS file of the split does not list"] == 1
    lost = reader.left_out["annotation of an image that is not listed"]
    assert lost > 0 and reader.hints["annotation of an image that is not listed"].endswith("LVIS annotations")


def test_an_lvis_file_alone_as_coco_instances(tmp_path: Path) -> None:
    """LVIS names its images by address only, and some of its validation images lie in train2017/."""
    coco_lvis(tmp_path, lambda panoptic, lvis: None)
    path = tmp_path / "annotations" / "lvis_v1_val.json"
    content = json.loads(path.read_text())
    for image in content["images"]:
        del image["file_name"]
    moved = content["images"].pop()
    path.write_text(json.dumps(content))
    reader = open_reader("coco-instances", str(path))
    assert {reader.name_of(item) for item in reader.items()} == {f"val2017_{ONE}", f"val2017_{TWO}"}
    assert list(reader.left_out) == ["annotation of an image that is not listed"]
    (tmp_path / "train2017").mkdir(exist_ok=True)
    (tmp_path / "val2017" / f"{THREE}.jpg").rename(tmp_path / "train2017" / f"{THREE}.jpg")
    content["images"] = [{**moved, "coco_url": f"http://images.cocodataset.org/train2017/{THREE}.jpg"}]
    path.write_text(json.dumps(content))
    (item,) = reader.items()
    assert reader.path_of(item) == str(tmp_path / "train2017" / f"{THREE}.jpg") and reader.read(item).objects
