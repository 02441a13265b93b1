"""Data sets as they are named on the command line: benchmarks in any case, layouts beside names of one's own."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.config import TrainConfig
from pipeline.errors import UserError
from pipeline.evaluate.sources import Source, canonical, open_source, parse_data, split_layout
from pipeline.model.checkpoints import CheckpointInfo
from tests.made import rows_of_blobs, write_dataset

PUBLISHED = CheckpointInfo("", "published", "", TrainConfig().model)


def raw(folder: Path, images: str, masks: str) -> Path:
    for name, ending in ((images, "jpg"), (masks, "png")):
        (folder / name).mkdir(parents=True)
        cv2.imwrite(str(folder / name / f"a.{ending}"), np.full((40, 50, 3), 255, np.uint8))
    return folder


def opened(name: str, text: str | Path, crop: int = 0) -> Source:
    return open_source(name, str(text), "/out", crop, PUBLISHED)


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("DAVIS", "davis"),
        ("GrabCut", "grabcut"),
        ("Berkeley", "berkeley"),
        ("SBD", "sbd"),
        ("PascalVOC", "voc"),
        ("COCO_MVal", "coco-mval"),
        ("BraTS", "brats"),
        ("ssTEM", "sstem"),
        ("OAIZIB", "oaizib"),
        ("coco_lvis", "coco-lvis"),
        ("VOC_grey", "voc-grey"),
        ("Coco_Instances", "coco-instances"),
        ("Mine", "Mine"),
        ("my_own", "my_own"),
    ],
)
def test_names_in_any_case(word: str, name: str) -> None:
    assert canonical(word) == name
    assert parse_data((f"{word}=/x",)) == ((name, "/x"),)


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("coco-instances:/data/x", ("coco-instances", "/data/x")),
        ("COCO_Instances:s3://bucket/x", ("coco-instances", "s3://bucket/x")),
        ("folder:rel/x", ("folder", "rel/x")),
        ("folder:C:/x", ("folder", "C:/x")),
        ("s3://bucket/folder:x", ("", "s3://bucket/folder:x")),
        ("gs://bucket/x", ("", "gs://bucket/x")),
        ("file:///x", ("", "file:///x")),
        ("C:/x", ("", "C:/x")),
        ("C:\\x", ("", "C:\\x")),
        ("/a:b", ("", "/a:b")),
        ("2024:06", ("", "2024:06")),
        ("run:7", ("", "run:7")),
    ],
)
def test_layout_before_the_uri(text: str, pair: tuple[str, str]) -> None:
    assert split_layout(text) == pair


def test_words_that_are_refused() -> None:
    for words, message in (
        (("mine=davos:/x",), "no layout 'davos'. Did you mean 'davis'"),
        (("mine=coco-instance:/x",), "Did you mean 'coco-instances'"),
        (("mine=folder:",), "takes NAME=URI or NAME=LAYOUT:URI"),
        (("DAVIS=/a", "davis=/b"), "twice.*--data davis-2=davis:/b"),
        (("mine=folder:/a", "MINE=folder:/b"), "twice"),
    ):
        with pytest.raises(UserError, match=message):
            parse_data(words)


def test_voc_grey_under_a_name_of_ones_own() -> None:
    assert parse_data(("mine=voc:/x", "GrabCut=/y"), voc_grey=True) == (("mine", "voc-grey:/x"), ("grabcut", "/y"))
    assert parse_data(("PascalVOC=/x",), voc_grey=True) == (("voc-grey", "/x"),)


def test_several_folders_of_one_layout(tmp_path: Path) -> None:
    for name in ("one", "two"):
        source = opened(name, f"davis:{raw(tmp_path / name, 'img', 'gt')}")
        assert (source.name, source.layout, source.crop) == (name, "davis", 672)
        assert source.shards == f"/out/data/{name}"
    assert opened("davis", f"folder:{tmp_path / 'one'}").crop == 448  # the layout rules, not the name
    assert opened("davis", tmp_path / "one", crop=320).crop == 320


def test_a_near_miss_is_not_read_by_another_rule(tmp_path: Path) -> None:
    folder = raw(tmp_path / "d", "img", "gt")
    for name in ("davi", "DAVIS_", "coco-mva"):
        with pytest.raises(UserError, match=r"no benchmark's name\. Did you mean"):
            opened(name, folder)
        assert opened(name, f"folder:{folder}").layout == "folder"
    assert opened("shoes", folder).layout == "folder"
    same_rule = raw(tmp_path / "b", "images", "masks")
    with pytest.raises(UserError, match=r"Did you mean 'berkeley'"):  # folder looks at the values, Berkeley at 128
        opened("berkley", same_rule)


def test_prepared_shards_know_their_layout(tmp_path: Path) -> None:
    shards = write_dataset(tmp_path / "s", rows_of_blobs(2))
    assert opened("mine", shards).layout == ""
    with pytest.raises(UserError, match="without davis:"):
        opened("mine", f"davis:{shards}")


def test_what_was_found_is_named(tmp_path: Path) -> None:
    raw(tmp_path / "all" / "DAVIS", "img", "gt")
    raw(tmp_path / "all" / "GrabCut", "data_GT", "boundary_GT")
    with pytest.raises(UserError, match=r"Found there: DAVIS/, GrabCut/.*one level down: --data davis=.*grabcut="):
        opened("mine", tmp_path / "all")
    with pytest.raises(UserError, match=r"Its folders are those of grabcut"):
        opened("mine", tmp_path / "all" / "GrabCut")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="Found there: nothing"):
        opened("mine", tmp_path / "empty")
    (tmp_path / "file.zip").write_bytes(b"x")
    with pytest.raises(UserError, match=r"is a file\."):
        opened("mine", tmp_path / "file.zip")
    with pytest.raises(UserError, match=r"no data set .*Did you mean 'empty'"):
        opened("mine", tmp_path / "emty")
