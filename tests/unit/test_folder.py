"""The folder reader: names, folders, EXIF and options; what masks mean is in test_mask_files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.data import mask_rules
from pipeline.data.images import decode_image, decode_sample
from pipeline.data.mask_rules import RULES
from pipeline.data.readers import open_reader
from pipeline.data.readers.folder import AMBIGUOUS
from pipeline.errors import BadRow, UserError
from tests.unit.test_mask_files import SHAPE, blocks, encoded, saved


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    return tmp_path


def add(own: Path, image: str, mask: str, data: bytes = b"") -> None:
    if image:
        (own / "images" / image).write_bytes(encoded(np.zeros((*SHAPE, 3), np.uint8), Path(image).suffix.lower()))
    if mask:
        (own / "masks" / mask).write_bytes(data or encoded(blocks(255), Path(mask).suffix.lower()))


def outcome(own: Path, **options: Any) -> dict[str, str]:
    """The reason, or number of objects, of every image."""
    reader = open_reader("folder", str(own), **options)
    found = {}
    for item in reader.items():
        try:
            found[reader.name_of(item)] = str(len(reader.read(item).objects))
        except BadRow as bad:
            found[reader.name_of(item)] = f"{bad.reason}: {bad.detail}"
    return found


def test_names_that_leave_open_what_belongs_together_are_set_aside(own: Path) -> None:
    add(own, "plain.png", "plain.png")
    add(own, "two.png", "two.png")
    add(own, "two.bmp", "")
    add(own, "Case.png", "Case.png")
    add(own, "case.png", "case.png")
    add(own, "caf\u00e9.png", "cafe\u0301.png")  # one name in two Unicode forms: joined, as nothing else fits
    add(own, "twice.png", "twice.png")
    add(own, "", "twice.bmp")
    found = outcome(own)
    aside = {name for name, text in found.items() if text.startswith(AMBIGUOUS)}
    assert aside == {"two.png", "two.bmp", "Case.png", "case.png", "twice"}
    assert {name for name, text in found.items() if text == "1"} == {"plain", "caf\u00e9"}
    assert "two.bmp and two.png" in found["two.png"]


def test_a_number_that_may_be_a_name_or_a_count(own: Path) -> None:
    add(own, "cat.png", "cat.png")
    add(own, "cat_1.png", "cat_1.png")
    add(own, "dog.png", "dog_2.png")
    add(own, "dog_1.png", "dog_1.png")
    found = outcome(own)
    assert found["cat"] == found["cat_1"] == "1", "each image has a mask of its own"
    assert found["dog"].startswith(AMBIGUOUS) and found["dog_1"].startswith(AMBIGUOUS)


def test_folders_in_any_case_and_one_level_down(tmp_path: Path) -> None:
    inner = tmp_path / "export"
    for name in ("Images", "Masks"):
        (inner / name).mkdir(parents=True)
    (inner / "Images" / "a.png").write_bytes(encoded(np.zeros((*SHAPE, 3), np.uint8)))
    (inner / "Masks" / "a.png").write_bytes(encoded(blocks(255)))
    assert outcome(tmp_path) == {"a": "1"}
    (inner / "Masks").rename(inner / "Labels")
    with pytest.raises(UserError, match=r"needs images/ and masks/ or img/ and gt/. Found: Images/, Labels/"):
        outcome(inner)


def turned(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return saved(Image.fromarray(np.arange(24 * 30 * 3, dtype=np.uint8).reshape(24, 30, 3)), "JPEG", exif=tags)


def test_a_mask_of_a_photograph_that_exif_turns(own: Path) -> None:
    for orientation in range(1, 9):
        data = turned(orientation)
        (own / "images" / f"{orientation}.jpg").write_bytes(data)
        (own / "masks" / f"{orientation}.png").write_bytes(encoded(blocks(255)))  # drawn on the pixels as stored
    reader = open_reader("folder", str(own))
    rows = {item.image_id: reader.read(item) for item in reader.items()}
    for orientation in (5, 6, 7, 8):
        row = rows[str(orientation)]
        assert (row.height, row.width) == decode_image(row.image).shape[:2] == (30, 24)
        mask = decode_sample(row).mask(0)
        shown = {5: blocks(1).T, 6: np.rot90(blocks(1), -1), 7: np.rot90(blocks(1), 2).T, 8: np.rot90(blocks(1))}
        np.testing.assert_array_equal(mask, shown[orientation] > 0)
    assert reader.understood["mask turned as the EXIF of its photograph says"] == 4
    assert reader.understood["mask taken as drawn on the photograph as its EXIF turns it"] == 3


def test_the_rule_can_be_said(own: Path) -> None:
    add(own, "a.png", "a.png", encoded(blocks(1, 2, 255)))
    assert outcome(own)["a"].startswith(mask_rules.UNCLEAR)
    assert outcome(own, masks="ids") == {"a": "3"}
    assert outcome(own, masks="one") == {"a": "1"}
    with pytest.raises(UserError, match="Did you mean 'ids'"):
        open_reader("folder", str(own), masks="id")
    with pytest.raises(UserError, match="rule of its own"):
        open_reader("davis", str(own), masks="ids")
    assert set(RULES) == {"one", "trimap", "ids", "ids-void"}


def test_text_files_of_other_systems(tmp_path: Path) -> None:
    from pipeline.data.readers.base import load_json, name_list

    for data in (b"\xef\xbb\xbfimage\r\na\r\nb\r\n", "name\na\nb".encode("utf-16"), b"# list\n\na\n'b'\n"):
        (tmp_path / "list.txt").write_bytes(data)
        assert name_list(str(tmp_path / "list.txt")) == ["a", "b"]
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"images": []}')
    assert load_json(str(tmp_path / "a.json"), "a list", ("images",)) == {"images": []}
