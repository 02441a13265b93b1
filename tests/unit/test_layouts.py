"""A root in another layout than the source's: what is there and what it would fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.data.readers import SOURCES, open_reader
from pipeline.data.readers.layouts import LOOKS, other_layout
from pipeline.errors import UserError


def test_sources_in_any_case_and_roots_in_another_layout(tmp_path: Path) -> None:
    assert open_reader("COCO-Instances", str(tmp_path)).source == "coco-instances"
    with pytest.raises(UserError, match="Did you mean 'coco-lvis'"):
        open_reader("COCO_LVIS", str(tmp_path))
    (tmp_path / "data" / "img").mkdir(parents=True)
    (tmp_path / "data" / "gt").mkdir()
    said = other_layout("coco-lvis", str(tmp_path / "data"))
    assert "holds gt/, img/: that fits folder or davis" in said
    assert f"--root {tmp_path / 'data'}" in other_layout("davis", str(tmp_path))
    assert other_layout("davis", str(tmp_path / "data")) == ""
    (tmp_path / "empty").mkdir()
    assert "is empty" in other_layout("voc-grey", str(tmp_path / "empty"))
    assert other_layout("voc", str(tmp_path / "absent")) == ""


def test_every_source_is_explained() -> None:
    assert LOOKS.keys() == SOURCES.keys()


@pytest.mark.parametrize(
    ("paths", "fits"),
    [
        (["train2017/", "annotations/lvis_v1_train.json"], "coco-lvis"),
        (["images/", "annotations/instances_default.json"], "coco-instances"),
        (["images/", "result.json"], "coco-instances"),
        (["JPEGImages/", "SegmentationObject/", "ImageSets/"], "voc"),
        (["hannotation.pickle", "images/"], "merged"),
        (["Images/", "Masks/"], "folder"),
        (["img/", "inst/"], "sbd"),
    ],
)
def test_signs(tmp_path: Path, paths: list[str], fits: str) -> None:
    for path in paths:
        if path.endswith("/"):
            (tmp_path / path).mkdir(parents=True)
        else:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text("{}")
    assert f"that fits {fits}" in other_layout("oaizib", str(tmp_path))
    assert other_layout(fits, str(tmp_path)) == ""
