"""Readers of raw data: genuine quirky files, broken layouts, bad rows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.data.images import decode_sample
from pipeline.data.readers import SOURCES, Skipped, open_reader
from pipeline.data.readers.base import checked
from pipeline.data.readers.synthetic import write_synthetic
from pipeline.data.schema import Row
from pipeline.errors import BadRow, UserError


def read_all(source: str, root: Path, split: str = "") -> dict[str, Row]:
    reader = open_reader(source, str(root), split)
    return {reader.name_of(item): reader.read(item) for item in reader.items()}


def problems(source: str, root: Path, split: str = "") -> dict[str, list[str]]:
    """Reasons of what is set aside, by image."""
    reader = open_reader(source, str(root), split)
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


def colours_of(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 as OpenCV reads it."""
    colours = cv2.imread(str(path))
    assert colours is not None
    return colours


def write_mask(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), values)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """images/ and masks/ of two pictures, the second with two numbered masks."""
    picture = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    mask = np.zeros((30, 40), np.uint8)
    mask[5:15, 5:15] = 255
    mask[15, 5:15] = 128
    other = np.zeros((30, 40), np.uint8)
    other[15:25, 0:20] = 255
    for name in ("one.jpg", "two words.png"):
        write_mask(tmp_path / "images" / name, picture)
    write_mask(tmp_path / "masks" / "one.png", mask)
    write_mask(tmp_path / "masks" / "two words_10.png", mask)
    write_mask(tmp_path / "masks" / "two words_2.bmp", other)
    return tmp_path


def test_folder(own: Path) -> None:
    (own / "masks" / ".hidden.png").write_bytes(b"")
    (own / "masks" / "Thumbs.db").write_bytes(b"")
    rows = read_all("folder", own)
    assert list(rows) == ["one", "two words"]
    assert [o.area for o in rows["one"].objects] == [100]
    one = decode_sample(rows["one"])
    assert one.ignore is not None and one.ignore.sum() == 10 and (one.target(0) == -1).sum() == 10
    assert [o.area for o in rows["two words"].objects] == [200, 100]  # by number, not by letters
    assert rows["two words"].ignore is None  # what one mask ignores is the other's object
    assert all(o.parent == -1 and o.kind == "thing" for row in rows.values() for o in row.objects)


def test_native_grabcut(shared: Path) -> None:
    root = shared / "data" / "native" / "GrabCut"
    rows = read_all("grabcut", root)
    assert list(rows) == ["106024", "fullmoon", "stone1"]
    assert rows["106024"].ignore is None and rows["stone1"].ignore is not None
    for name, row in rows.items():
        values = colours_of(root / "boundary_GT" / f"{name}.bmp")[..., 0]
        target = decode_sample(row).target(0)
        np.testing.assert_array_equal(target == 1, values > 128)
        np.testing.assert_array_equal(target == -1, values == 128)


def test_native_berkeley(shared: Path) -> None:
    root = shared / "data" / "native" / "Berkeley"
    rows = read_all("berkeley", root)
    assert list(rows) == ["101087", "189011", "189011a", "189011b", "3096"]
    for name, row in rows.items():
        blue = colours_of(root / "masks" / f"{name}.png")[..., 0]
        assert [o.area for o in row.objects] == [int((blue > 128).sum())]
    assert read_all("folder", root) == {n: Row(**{**r.__dict__, "source": "folder"}) for n, r in rows.items()}


@pytest.mark.parametrize(("source", "folder"), [("davis", "DAVIS345"), ("coco-mval", "COCO_MVal")])
def test_native_any_nonzero_channel(source: str, folder: str, shared: Path) -> None:
    root = shared / "data" / "native" / folder
    rows = read_all(source, root)
    assert len(rows) == len(list((root / "img").iterdir())) and all(r.ignore is None for r in rows.values())
    for name, row in rows.items():
        colours = colours_of(root / "gt" / f"{name}.png")
        assert [o.area for o in row.objects] == [int(colours.any(axis=2).sum())]


def test_folder_bad_rows(own: Path) -> None:
    good = (own / "images" / "one.jpg").read_bytes()
    for name in ("empty", "size", "cut", "lonely", "junk mask", "half"):
        (own / "images" / f"{name}.jpg").write_bytes(good)
        write_mask(own / "masks" / f"{name}.png", np.full((30, 40), 255, np.uint8))
    write_mask(own / "masks" / "empty.png", np.zeros((30, 40), np.uint8))
    write_mask(own / "masks" / "size.png", np.full((30, 41), 255, np.uint8))
    (own / "images" / "cut.jpg").write_bytes(good[: len(good) // 2])
    (own / "masks" / "lonely.png").unlink()
    (own / "masks" / "junk mask.png").write_bytes(b"junk")
    write_mask(own / "masks" / "no image.png", np.full((30, 40), 255, np.uint8))
    (own / "masks" / "half.png").rename(own / "masks" / "half_1.png")
    write_mask(own / "masks" / "half_2.png", np.zeros((30, 40), np.uint8))
    assert problems("folder", own) == {
        "cut": ["image does not decode"],
        "empty": ["object with no pixels"],
        "half": ["object with no pixels"],
        "junk mask": ["mask does not decode"],
        "lonely": ["mask is missing"],
        "no image": ["image is missing"],
        "size": ["mask has another size"],
    }
    reader = open_reader("folder", str(own))
    half = next(item for item in reader.items() if item.image_id == "half")
    assert len(reader.read(half, []).objects) == 1  # the other object of the picture is kept


def test_folder_layout_errors(own: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder"):
        open_reader("folder", str(own / "absent")).items()
    with pytest.raises(UserError, match="data_GT/ and boundary_GT/"):
        open_reader("grabcut", str(own)).items()
    with pytest.raises(UserError, match="no splits"):
        open_reader("folder", str(own), "val")
    shutil.rmtree(own / "images")
    (own / "images").mkdir()
    with pytest.raises(UserError, match="holds no image"):
        open_reader("folder", str(own)).items()


def test_unknown_source_and_split() -> None:
    with pytest.raises(UserError, match="Did you mean 'grabcut'"):
        open_reader("grabcutt", ".")
    with pytest.raises(UserError, match="Did you mean 'train'"):
        open_reader("coco-lvis", ".", "trian")
    assert {"coco-lvis", "folder", "grabcut", "berkeley", "davis", "coco-mval", "synthetic"} <= set(SOURCES)


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../a.jpg", "a/../../b", "C:\\x", "\\x", "..\\x", "s3://b/k", "a\0"]
)
def test_names_that_lead_out(name: str) -> None:
    with pytest.raises(BadRow, match="leads out"):
        checked(name)
    assert checked("a b/..c.jpg") == "a b/..c.jpg"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drawn") / "raw"
    write_synthetic(str(root), train=3, val=5, seed=4, size=(96, 128), evaluation=2)
    return root


@pytest.fixture
def raw(drawn: Path, tmp_path: Path) -> Path:
    """A copy to spoil; its val split is used."""
    return Path(shutil.copytree(drawn, tmp_path / "raw"))


def edit(path: Path, change: Any) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_coco_lvis_bad_rows(raw: Path) -> None:
    images, masks = raw / "val2017", raw / "annotations" / "panoptic_val2017"
    names = sorted(p.stem for p in images.iterdir())
    cut, size, gone, outside, empty = names
    (images / f"{cut}.jpg").write_bytes((images / f"{cut}.jpg").read_bytes()[:900])
    write_mask(masks / f"{size}.png", np.zeros((96, 129, 3), np.uint8))
    (images / f"{gone}.jpg").unlink()

    def spoil(panoptic: Any) -> None:
        panoptic["images"][3]["file_name"] = f"../val2017/{outside}.jpg"
        panoptic["annotations"][4]["segments_info"].append({"id": 7, "category_id": 1, "iscrowd": 0})

    edit(raw / "annotations" / "panoptic_val2017.json", spoil)
    assert problems("coco-lvis", raw, "val") == {
        cut: ["image does not decode"],
        size: ["mask has another size"],
        gone: ["image is missing"],
        outside: ["name leads out of the data folder"],
        empty: ["object with no pixels"],
    }


def test_coco_lvis_malformed_polygons(raw: Path) -> None:
    def spoil(lvis: Any) -> None:
        for index, bad in enumerate(({"counts": [1]}, [[1, 2, 3]], [["a", "b"]], [[float("nan"), 1, 2, 3]])):
            first = next(a for a in lvis["annotations"] if a["image_id"] == lvis["images"][index]["id"])
            first["segmentation"] = bad

    edit(raw / "annotations" / "lvis_v1_val.json", spoil)
    assert list(problems("coco-lvis", raw, "val").values()) == [["annotation is malformed"]] * 4


def test_coco_lvis_pairs_within_the_split(raw: Path) -> None:
    edit(raw / "annotations" / "panoptic_val2017.json", lambda p: p["annotations"].pop(0))
    edit(raw / "annotations" / "lvis_v1_val.json", lambda p: p["images"].append({"id": 99}))
    reader = open_reader("coco-lvis", str(raw), "val")
    assert len(reader.items()) == 4
    assert sorted(reader.left_out.values()) == [0, 2]


def test_coco_lvis_image_without_objects_is_skipped(raw: Path) -> None:
    edit(raw / "annotations" / "lvis_v1_val.json", lambda p: p.update(annotations=[]))
    edit(raw / "annotations" / "panoptic_val2017.json", lambda p: p["annotations"][0].update(segments_info=[]))
    reader = open_reader("coco-lvis", str(raw), "val")
    with pytest.raises(Skipped):
        reader.read(reader.items()[0])


def test_coco_lvis_annotation_files_that_are_something_else(raw: Path) -> None:
    folder = raw / "annotations"
    panoptic, lvis = folder / "panoptic_val2017.json", folder / "lvis_v1_val.json"
    for path, other in ((panoptic, lvis), (lvis, panoptic)):
        text = path.read_bytes()
        for spoiled, message in (
            (text[: len(text) // 2], "not a whole JSON file"),
            (b"\x89PNG not text \xff", "not a whole JSON file"),
            (b"[1, 2]", "it has no list"),
            (b'{"images": []}', "it has no list 'annotations', 'categories'"),
            (other.read_bytes(), "is not a"),
        ):
            path.write_bytes(spoiled)
            with pytest.raises(UserError, match=message):
                open_reader("coco-lvis", str(raw), "val").items()
        path.unlink()
        with pytest.raises(UserError, match="There is no file"):
            open_reader("coco-lvis", str(raw), "val").items()
        path.write_bytes(text)
    shutil.rmtree(raw / "val2017")
    with pytest.raises(UserError, match="has no val2017/"):
        open_reader("coco-lvis", str(raw), "val").items()


def test_native_panoptic_with_lvis(shared: Path, tmp_path: Path) -> None:
    """Genuine panoptic files beside an LVIS file that says nothing about them: COCO's own objects remain."""
    native = shared / "data" / "native" / "COCO_panoptic"
    shutil.copytree(native, tmp_path / "raw")
    panoptic = json.loads((native / "annotations" / "panoptic_val2017.json").read_text())
    images = [{"id": i["id"], "coco_url": i["coco_url"]} for i in panoptic["images"]]
    lvis = {"images": images, "annotations": [], "categories": []}
    (tmp_path / "raw" / "annotations" / "lvis_v1_val.json").write_text(json.dumps(lvis))
    rows = read_all("coco-lvis", tmp_path / "raw", "val")
    assert len(rows) == 2 and all(any(o.kind == "stuff" for o in row.objects) for row in rows.values())
