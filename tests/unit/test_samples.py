"""The sample function of the stream: columns, reproducibility, slices of a chunk, images that do not decode."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from pipeline.augment.suem import Donors
from pipeline.config import Clicks, Data, Suem, TrainConfig
from pipeline.data.masks import build_row, region
from pipeline.data.schema import Row, Sample
from pipeline.errors import UserError
from pipeline.stream import samples
from pipeline.stream.samples import Batch, make_chunk

CONFIG = TrainConfig(
    seed=3, data=Data(crop=48, chunk=8, min_object_area=30, resize=(0.8, 1.2)), clicks=Clicks(max_points=5)
)


def make_row(number: int, weight: float = 1.0) -> Row:
    rng = np.random.default_rng(number)
    image = rng.integers(0, 256, (60, 70, 3), dtype=np.uint8)
    masks = np.zeros((2, 60, 70), bool)
    masks[0, 5:40, 5 : 30 + number % 5] = True
    masks[1, 20:50, 35:65] = True
    regions = [r for r in map(region, masks) if r is not None]
    ignore = np.zeros((60, 70), bool)
    ignore[30:34] = number % 2 == 0
    data = cv2.imencode(".png", image)[1].tobytes()
    return replace(build_row(f"image{number}", data, (60, 70), regions, ignore=ignore), weight=weight)


ROWS = [make_row(i) for i in range(6)]


def same(a: Batch, b: Batch) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def part(batch: Batch, start: int, stop: int) -> Batch:
    return {k: v[start:stop] for k, v in batch.items()}


def test_columns() -> None:
    batch = make_chunk(ROWS, CONFIG, 4)
    described = {k: (v.shape, v.dtype.kind + str(v.dtype.itemsize)) for k, v in batch.items() if v.dtype != object}
    assert described == {
        "image": ((8, 48, 48, 3), "u1"),
        "target": ((8, 48, 48), "i1"),
        "points": ((8, 10, 3), "f4"),
        "chunk": ((8,), "i8"),
        "row": ((8,), "i4"),
    }
    assert set(batch["image_id"]) <= {row.image_id for row in ROWS}
    assert len(set(batch["image_id"][:6])) == 6  # a whole permutation comes first
    assert batch["bad"].tolist() == [""] * 8
    assert set(np.unique(batch["target"])) == {-1, 0, 1}


def test_a_slice_is_that_part_of_the_chunk() -> None:
    whole = make_chunk(ROWS, CONFIG, 1)
    for start, stop in ((0, 3), (3, 8), (5, 6), (7, 8)):
        assert same(make_chunk(ROWS, CONFIG, 1, start, stop), part(whole, start, stop))


def test_seed_and_chunk_change_every_sample() -> None:
    one = make_chunk(ROWS, CONFIG, 1)
    for other in (make_chunk(ROWS, CONFIG, 2), make_chunk(ROWS, replace(CONFIG, seed=4), 1)):
        assert not (one["image"] == other["image"]).all(axis=(1, 2, 3)).any()
    assert same(one, make_chunk(ROWS, CONFIG, 1))


def test_rows_are_drawn_by_weight() -> None:
    rows = [make_row(i, weight=float(i == 2)) for i in range(4)]
    assert set(make_chunk(rows, CONFIG, 0)["image_id"]) == {"image2"}


def test_donors_are_other_images_drawn_without_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[str, str]] = []

    def spy(sample: Sample, donors: Donors, config: Suem, clicks: Clicks, rng: np.random.Generator) -> Sample:
        drawn.extend((sample.image_id, donors(rng).image_id) for _ in range(20))
        return sample

    monkeypatch.setattr(samples, "suem", spy)
    weighted = [make_row(i, weight=float(i < 2)) for i in range(6)]
    for rows in (ROWS, weighted):
        drawn.clear()
        for chunk in range(4):
            make_chunk(rows, CONFIG, chunk)
        assert all(name != donor for name, donor in drawn)
        assert {donor for _, donor in drawn} == {row.image_id for row in rows}
    lonely = make_chunk(ROWS[:1], CONFIG, 0)
    assert set(lonely["image_id"]) == {"image0"}


def test_a_bad_image_is_replaced_and_named_in_every_slice() -> None:
    rows = [replace(row, image=b"nothing") if i == 1 else row for i, row in enumerate(ROWS)]
    whole = make_chunk(rows, CONFIG, 1)
    hit = whole["bad"] == "image1"
    assert 1 <= hit.sum() <= 2 and "image1" not in whole["image_id"]
    assert same(make_chunk(rows, CONFIG, 1, 4, 8), part(whole, 4, 8))
    clean = make_chunk(ROWS, replace(CONFIG, suem=Suem(simple_prob=0, paste_prob=0, mix_prob=0)), 1)
    mended = make_chunk(rows, replace(CONFIG, suem=Suem(simple_prob=0, paste_prob=0, mix_prob=0)), 1)
    assert same({k: v[~hit] for k, v in clean.items()}, {k: v[~hit] for k, v in mended.items()})


def test_a_group_of_bad_images_is_an_error_that_names_them() -> None:
    with pytest.raises(UserError, match="image0"):
        make_chunk([replace(row, image=b"") for row in ROWS], CONFIG, 0)


def test_suem_needs_two_samples() -> None:
    alone = replace(CONFIG, data=replace(CONFIG.data, chunk=1))
    with pytest.raises(UserError, match=r"data\.chunk"):
        make_chunk(ROWS, alone, 0)
    off = Suem(simple_prob=0, paste_prob=0, mix_prob=0)
    assert len(make_chunk(ROWS, replace(alone, suem=off), 0)["image"]) == 1
