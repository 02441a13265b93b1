"""Masks of an evaluation as files: PNG and COCO, as other tools read them, from parts alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from pipeline.clicks.encode import Click
from pipeline.config import Cfr
from pipeline.data.images import decode_sample
from pipeline.data.readers import open_reader
from pipeline.errors import BadRow, UserError
from pipeline.evaluate.exports import check_masks, write_masks
from pipeline.evaluate.plan import Place, WorkUnit, open_dataset, plan
from pipeline.evaluate.results import Outcome, encode_mask, part_table, write_table
from pipeline.evaluate.setting import Setting
from pipeline.evaluate.shared import ObjectResult, SettingResult
from pipeline.evaluate.sources import Source
from tests.made import SIDE, rows_of_blobs, write_dataset

SETTINGS = [Setting(0), Setting(2, 20, True)]
COUNT = 3


def drawn(place: Place, setting: int, clicks: int) -> np.ndarray:
    """The mask of an object after some clicks, another one for each."""
    mask = np.zeros((72, 88), bool)
    top, left = 3 + int(place.image_id[-1]) + setting, 5 + 40 * place.object_id
    mask[top : top + 10 * clicks, left : left + 30] = True
    return mask


def part(unit: WorkUnit, masks: bool = True) -> list[Outcome]:
    """What became of a unit's objects: two clicks each, and the last object of all set aside."""
    found = []
    for place in unit.places:
        if (place.image_id, place.object_id) == (f"blob-{COUNT - 1:03d}", 1):
            found.append(Outcome(place, bad=BadRow("object has no pixels")))
            continue
        result = ObjectResult(place, [Click(1, 2, True)] * 2, [0.5, 0.75], [1, 1], [], 0.1)
        pngs = {k: {n: encode_mask(drawn(place, k, n)) for n in (1, 2)} if masks else {} for k in (0, 1)}
        found.append(Outcome(place, {k: SettingResult(result, "", 2, 2.0) for k in (0, 1)}, pngs))
    return found


@pytest.fixture
def made(tmp_path: Path) -> tuple[list[WorkUnit], dict[str, str], Source]:
    """An evaluation's plan with its parts, of prepared shards."""
    shards = write_dataset(tmp_path / "blobs", rows_of_blobs(COUNT))
    units = list(plan([open_dataset("blobs", shards, SIDE)]))
    parts = {unit.name: str(tmp_path / "out" / "parts" / f"{unit.name}.parquet") for unit in units}
    settings = {k: Cfr(steps=s.steps, clicks=s.clicks, adaptive=s.adaptive) for k, s in enumerate(SETTINGS)}
    for unit in units:
        write_table(parts[unit.name], part_table(unit, part(unit), settings))
    return units, parts, Source("blobs", shards, "", shards, SIDE)


def test_the_last_masks_as_other_tools_read_them(
    made: tuple[list[WorkUnit], dict[str, str], Source], tmp_path: Path
) -> None:
    units, parts, source = made
    out = tmp_path / "out"
    check_masks(parts.values())
    counts = write_masks(str(out), units, parts, [source], SETTINGS)
    assert counts == {"masks/blobs/cfr0": 2 * COUNT - 1, "masks/blobs/acfr2x20": 2 * COUNT - 1}
    places = [place for unit in units for place in unit.places][:-1]
    for number, folder in enumerate(counts):
        coco: Any = COCO(str(out / folder / "annotations.json"))
        assert len(coco.anns) == len(places) and len(coco.imgs) == COUNT
        for place, annotation in zip(places, coco.loadAnns(sorted(coco.anns)), strict=True):
            want = drawn(place, number, 2)
            assert np.array_equal(coco.annToMask(annotation) > 0, want)
            png = cv2.imread(str(out / folder / annotation["mask_file"]), cv2.IMREAD_GRAYSCALE)
            assert png is not None and np.array_equal(png, want * np.uint8(255))
            assert coco.imgs[annotation["image_id"]]["file_name"] == f"{place.image_id}.png"
            assert (annotation["object"], annotation["iou"]) == (place.object_id, 0.75)
            assert annotation["area"] == want.sum() and annotation["bbox"] == cv2_box(want)


def cv2_box(mask: np.ndarray) -> list[int]:
    return [int(v) for v in cv2.boundingRect(mask.astype(np.uint8))]


def test_the_file_is_read_by_our_own_reader(
    made: tuple[list[WorkUnit], dict[str, str], Source], tmp_path: Path
) -> None:
    units, parts, source = made
    write_masks(str(tmp_path / "out"), units, parts, [source], SETTINGS)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for row in rows_of_blobs(COUNT):
        (pictures / f"{row.image_id}.png").write_bytes(row.image)
    file = tmp_path / "out" / "masks" / "blobs" / "cfr0" / "annotations.json"
    reader = open_reader("coco-instances", str(pictures), annotations=str(file))
    rows = [reader.read(item) for item in reader.items()]
    assert [len(row.objects) for row in rows] == [2, 2, 1]
    sample = decode_sample(rows[0])
    areas = sorted(int((sample.target(k) == 1).sum()) for k in range(2))
    assert areas == sorted(int(drawn(Place(0, "blob-000", k), 0, 2).sum()) for k in range(2))


def test_pictures_of_a_raw_folder_keep_their_paths(
    made: tuple[list[WorkUnit], dict[str, str], Source], tmp_path: Path
) -> None:
    units, parts, source = made
    raw = tmp_path / "raw"
    for folder in ("images", "masks"):
        (raw / folder).mkdir(parents=True)
    for row in rows_of_blobs(COUNT):
        (raw / "images" / f"{row.image_id}.PNG").write_bytes(row.image)
        cv2.imwrite(str(raw / "masks" / f"{row.image_id}.png"), np.eye(72, 88, dtype=np.uint8) * 255)
    write_masks(
        str(tmp_path / "out"), units, parts, [Source("blobs", str(raw), "folder", source.shards, SIDE)], SETTINGS
    )
    content = json.loads((tmp_path / "out" / "masks" / "blobs" / "cfr0" / "annotations.json").read_text())
    assert [image["file_name"] for image in content["images"]] == [f"images/blob-{i:03d}.PNG" for i in range(COUNT)]


def test_parts_without_masks_say_what_to_do(
    made: tuple[list[WorkUnit], dict[str, str], Source], tmp_path: Path
) -> None:
    units, parts, source = made
    write_table(parts[units[0].name], part_table(units[0], part(units[0], masks=False), {0: Cfr(), 1: Cfr(steps=2)}))
    with pytest.raises(UserError, match=r"holds no masks.*Delete .*/out/parts and run the same command again"):
        check_masks(parts.values())
    with pytest.raises(UserError, match="holds no masks"):
        write_masks(str(tmp_path / "out"), units, parts, [source], SETTINGS)
    check_masks([])
    assert not (tmp_path / "out" / "masks" / "blobs" / "cfr0" / "annotations.json").exists()


def test_names_that_lead_out_of_the_folder_or_are_too_long(tmp_path: Path) -> None:
    rows = rows_of_blobs(COUNT)
    names = ["../../away2", "x" * 400 + "1", "a/b0"]
    for row, name in zip(rows, names, strict=True):
        object.__setattr__(row, "image_id", name)
    shards = write_dataset(tmp_path / "odd", rows)
    units = list(plan([open_dataset("odd", shards, SIDE)]))
    parts = {unit.name: str(tmp_path / "out" / "parts" / f"{unit.name}.parquet") for unit in units}
    for unit in units:
        write_table(parts[unit.name], part_table(unit, part(unit), {0: Cfr()}))
    write_masks(str(tmp_path / "out"), units, parts, [Source("odd", shards, "", shards, SIDE)], [Setting(0)])
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png"))
    assert len(files) == 2 * COUNT and all(file.startswith("out/masks/odd/cfr0/") for file in files)
