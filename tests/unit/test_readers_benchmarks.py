"""SBD, PASCAL VOC, ssTEM, BraTS, OAIZIB: genuine files where there are some, made ones of the same layout elsewhere."""

from __future__ import annotations

import io
import pickle
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import loadmat, savemat

from pipeline.data.images import decode_sample
from pipeline.data.readers import Skipped, open_reader
from pipeline.data.readers.sbd import load_weights
from pipeline.data.readers.voc import grey_values, palette_indices
from pipeline.data.schema import Row
from pipeline.errors import BadRow, UserError

NATIVE_PALETTE = "SegmentationObject/2007_000063.png"
TWINS = [(1, 16), (3, 18), (6, 21), (9, 24)]  # indices of one grey value


def read_all(source: str, root: Path, split: str = "") -> dict[str, Row]:
    reader = open_reader(source, str(root), split)
    return {reader.name_of(item): reader.read(item) for item in reader.items()}


def problem(source: str, root: Path, split: str = "") -> str:
    """The reason why the first image is set aside."""
    reader = open_reader(source, str(root), split)
    with pytest.raises(BadRow) as caught:
        reader.read(reader.items()[0])
    return caught.value.reason


def write(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), values)


def picture(path: Path, height: int = 40, width: int = 60) -> None:
    write(path, np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8))


def palette_png(indices: np.ndarray, palette: list[int]) -> bytes:
    image = Image.fromarray(indices)
    image.putpalette(palette)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def mat(ids: np.ndarray, key: str = "GTinst", field: str = "Segmentation", compressed: bool = True) -> bytes:
    buffer = io.BytesIO()
    savemat(buffer, {key: {field: ids, "Categories": np.array([[1]])}}, do_compression=compressed)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def palette(shared: Path) -> list[int]:
    """VOC's own 256 colours."""
    with Image.open(shared / "data" / "native" / "VOC2012" / NATIVE_PALETTE) as image:
        colours = image.getpalette()
    assert colours is not None
    return colours


@pytest.fixture
def sbd(tmp_path: Path) -> Path:
    """Three training images; objects 1 and 2 of each are square, object 7 is a thin diagonal."""
    for index in range(3):
        ids = np.zeros((40, 60), np.uint8)
        ids[2:10, 2:10], ids[20:30, 30:50] = 1, 2
        np.fill_diagonal(ids[:, 10:], 7)
        picture(tmp_path / "img" / f"im_{index}.jpg")
        (tmp_path / "inst").mkdir(exist_ok=True)
        (tmp_path / "inst" / f"im_{index}.mat").write_bytes(mat(ids))
    (tmp_path / "train.txt").write_text("im_0\nim_1 \r\n\nim_2")
    (tmp_path / "val.txt").write_text("im_2\n")
    return tmp_path


def test_native_sbd(shared: Path) -> None:
    root = shared / "data" / "native" / "SBD"
    rows = read_all("sbd", root, "val")
    assert list(rows) == ["2008_000051", "2008_000195"]
    for name, row in rows.items():
        ids = loadmat(root / "inst" / f"{name}.mat")["GTinst"][0][0][0]  # as the published readers reach it
        assert len(row.objects) == 5 and row.ignore is None and row.weight == 1
        sample = decode_sample(row)
        for index in range(5):
            np.testing.assert_array_equal(sample.mask(index), ids == index + 1)
    with pytest.raises(UserError, match=r"train.txt lists no image"):
        open_reader("sbd", str(root), "train").items()


def test_sbd_drops_thin_masks_in_training_only(sbd: Path) -> None:
    assert len(read_all("sbd", sbd, "val")["im_2"].objects) == 3
    rows = read_all("sbd", sbd, "train")
    assert [len(row.objects) for row in rows.values()] == [2, 2, 2]
    (sbd / "inst" / "im_0.mat").write_bytes(mat(np.eye(40, 60, dtype=np.uint8)))
    reader = open_reader("sbd", str(sbd))
    with pytest.raises(Skipped):
        reader.read(reader.items()[0])


def test_sbd_weights(sbd: Path) -> None:
    table = [(2, "im_2", 0.5), (np.int64(0), "im_0", np.float32(0.75))]
    (sbd / "weights.pkl").write_bytes(pickle.dumps(table))
    (sbd / "weights.csv").write_text("2,im_2,0.5\n0,im_0,0.75\n")
    for name in ("weights.pkl", "weights.csv"):
        reader = open_reader("sbd", str(sbd), scores=str(sbd / name))
        weights = [reader.read(item).weight for item in reader.items()]
        assert weights == [0.25**1.25, 0, 0.5**1.25]
    for text, message in (
        ("0,im_1,0.5", "another train.txt"),
        ("9,im_1,0.5", "index 9 of 3"),
        ("1,im_1,nan", "score nan"),
        ("1,im_1", "is not"),
        ("1,im_1,1", "no image a weight"),
    ):
        (sbd / "weights.csv").write_text(text)
        with pytest.raises(UserError, match=message):
            open_reader("sbd", str(sbd), scores=str(sbd / "weights.csv")).items()
    (sbd / "weights.pkl").write_bytes(pickle.dumps(len))
    with pytest.raises(UserError, match=r"asks for builtins.len"):
        load_weights(str(sbd / "weights.pkl"), ["im_0"])
    (sbd / "weights.pkl").write_bytes(pickle.dumps({"im_0": 1}))
    with pytest.raises(UserError, match="holds a dict"):
        load_weights(str(sbd / "weights.pkl"), ["im_0"])
    with pytest.raises(UserError, match="no meaning for 'voc'"):
        open_reader("voc", str(sbd), scores="x")
    with pytest.raises(UserError, match="no meaning for --split val"):
        open_reader("sbd", str(sbd), "val", scores="x")


def test_sbd_bad_rows(sbd: Path, shared: Path) -> None:
    genuine = (shared / "data" / "native" / "SBD" / "inst" / "2008_000051.mat").read_bytes()
    boundaries = (shared / "data" / "native" / "SBD" / "cls" / "2008_000051.mat").read_bytes()
    ids = np.ones((40, 60), np.uint8)
    for data, reason in (
        (boundaries, "mask has no GTinst.Segmentation"),
        (mat(ids, key="GTcls"), "mask has no GTinst.Segmentation"),
        (mat(ids, field="Boundaries"), "mask has no GTinst.Segmentation"),
        (mat(ids / 3), "mask has no GTinst.Segmentation"),
        (genuine[: len(genuine) // 2], "mask does not decode"),
        (b"", "mask does not decode"),
        (b"junk" * 100, "mask does not decode"),
        (genuine, "mask has another size"),
        (mat(ids * 0), "object with no pixels"),
        (mat(np.zeros((9000, 9000), np.uint8)), "mask does not decode"),  # 80 MB in 80 kB
    ):
        (sbd / "inst" / "im_2.mat").write_bytes(data)
        assert problem("sbd", sbd, "val") == reason
    (sbd / "inst" / "im_2.mat").unlink()
    assert problem("sbd", sbd, "val") == "mask is missing"
    (sbd / "val.txt").write_text("../img/im_0")
    assert problem("sbd", sbd, "val") == "name leads out of the data folder"
    with pytest.raises(UserError, match="Did you mean 'train'"):
        open_reader("sbd", str(sbd), "trian")
    with pytest.raises(UserError, match="has no img/ and no inst/"):
        open_reader("sbd", str(sbd / "img")).items()


def test_native_voc(shared: Path) -> None:
    root = shared / "data" / "native" / "VOC2012"
    row, grey = (read_all(source, root)["2007_000063"] for source in ("voc", "voc-grey"))
    assert (row.source, grey.source) == ("voc", "voc-grey")
    with Image.open(root / NATIVE_PALETTE) as image:
        indices = np.array(image)
    sample = decode_sample(row)
    assert len(row.objects) == 2 and sample.ignore is not None
    np.testing.assert_array_equal(sample.ignore, indices == 255)
    for index in range(2):
        np.testing.assert_array_equal(sample.mask(index), indices == index + 1)
    # Two instances, which have grey values of their own: both ways agree here.
    assert (grey.ignore, grey.layers, sorted(grey.objects, key=str)) == (
        row.ignore,
        row.layers,
        sorted(row.objects, key=str),
    )
    assert list(read_all("voc", root, "train")) == ["2007_000063"]


@given(st.sets(st.integers(1, 254), min_size=1, max_size=40), st.booleans())
@settings(max_examples=40, deadline=None)
def test_every_voc_index_survives(tmp_path_factory: pytest.TempPathFactory, palette: Any, numbers: Any, void: Any):
    root = tmp_path_factory.mktemp("voc")
    indices = np.zeros((20, 60), np.uint8)
    for place, number in enumerate(sorted(numbers)):
        indices[2:9, place] = number
    indices[15] = 255 if void else 0
    (root / "SegmentationObject").mkdir()
    (root / "SegmentationObject" / "a.png").write_bytes(palette_png(indices, palette))
    picture(root / "JPEGImages" / "a.jpg", 20, 60)
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("a\n")
    sample = decode_sample(read_all("voc", root)["a"])
    masks = [sample.mask(i) for i in range(len(sample.objects))]
    assert len(masks) == len(numbers)
    for mask, number in zip(masks, sorted(numbers), strict=True):
        np.testing.assert_array_equal(mask, indices == number)
    assert (sample.ignore is not None) == void
    shutil.rmtree(root)


@pytest.mark.parametrize("twins", TWINS)
def test_voc_grey_merges_twins(twins: tuple[int, int], palette: list[int]) -> None:
    indices = np.zeros((4, 6), np.uint8)
    indices[0], indices[2], indices[3] = twins[0], twins[1], 255
    data = palette_png(indices, palette)
    np.testing.assert_array_equal(palette_indices(data), indices)
    grey = grey_values(data)
    assert grey[0, 0] == grey[2, 0] > 0 and (grey[3] == 220).all() and (grey[1] == 0).all()


def test_voc_bad_rows(shared: Path, tmp_path: Path, palette: list[int]) -> None:
    root = Path(shutil.copytree(shared / "data" / "native" / "VOC2012", tmp_path / "voc"))
    mask = root / NATIVE_PALETTE
    mask.chmod(0o644)
    whole = mask.read_bytes()
    empty = np.zeros((375, 500), np.uint8)
    for data, reason in (
        (whole[: len(whole) // 2], "mask does not decode"),
        (palette_png(empty, palette), "object with no pixels"),
        (palette_png(empty + 255, palette), "object with no pixels"),
        (palette_png(empty[1:] + 3, palette), "mask has another size"),
        (cv2.imencode(".png", np.zeros((375, 500, 3), np.uint8))[1].tobytes(), "mask is no palette picture"),
    ):
        mask.write_bytes(data)
        assert problem("voc", root) == reason
        if "palette" not in reason:
            assert problem("voc-grey", root) == reason
    (root / "ImageSets" / "Segmentation" / "val.txt").unlink()
    with pytest.raises(UserError, match="There is no file"):
        open_reader("voc", str(root)).items()
    with pytest.raises(UserError, match="Did you mean 'voc-grey'"):
        open_reader("voc-gray", str(root))
    with pytest.raises(UserError, match="has no split 'test'"):
        open_reader("voc", str(root), "test")


def test_sstem(tmp_path: Path) -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[2:8, 2:8] = 255
    mask[8:12, 8:12] = 255  # touches the first at a corner: one object
    mask[20:25, 30:45] = 255
    picture(tmp_path / "raw" / "00.tif")
    write(tmp_path / "mitochondria" / "00.png", mask)
    row = read_all("sstem", tmp_path)["00"]
    assert sorted(o.area for o in row.objects) == [36 + 16, 75]
    write(tmp_path / "mitochondria" / "00.png", mask * 0)
    assert problem("sstem", tmp_path) == "object with no pixels"


def test_brats(tmp_path: Path) -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[2:8, 2:8], mask[20:25, 30:45] = 1, 4
    picture(tmp_path / "image" / "a b.png")
    write(tmp_path / "annotation" / "a b.png", mask)
    assert [o.area for o in read_all("brats", tmp_path)["a b"].objects] == [36 + 75]


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_oaizib(tmp_path: Path, kind: Any) -> None:
    mask = np.zeros((40, 60), kind)
    mask[2:8, 2:8], mask[30:32, 2:8], mask[20:25, 30:45] = 1, 1, 4
    picture(tmp_path / "test" / "image" / "k.png")
    write(tmp_path / "test" / "annotations" / "k.png", mask)
    assert [o.area for o in read_all("oaizib", tmp_path)["k"].objects] == [48, 75]
    colours = np.repeat(mask[..., None], 3, axis=2)
    write(tmp_path / "test" / "annotations" / "k.png", colours)
    assert [o.area for o in read_all("oaizib", tmp_path)["k"].objects] == [48, 75]
    colours[0, 0, 1] = 9
    write(tmp_path / "test" / "annotations" / "k.png", colours)
    assert problem("oaizib", tmp_path) == "mask is not grey"
    with pytest.raises(UserError, match="test/image/ and test/annotations/"):
        open_reader("oaizib", str(tmp_path / "test")).items()
