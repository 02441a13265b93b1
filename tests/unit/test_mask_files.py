"""Mask files of every encoding: the right objects, or set aside with a reason; never something else."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.data import mask_rules
from pipeline.data.mask_files import ALPHA, FRACTIONS, PAGES, PALETTE, Labels, read_labels
from pipeline.data.mask_rules import objects_of
from pipeline.errors import BadRow

SHAPE = (24, 30)


def saved(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def encoded(array: np.ndarray, ending: str = ".png") -> bytes:
    ok, data = cv2.imencode(ending, array)
    assert ok
    return data.tobytes()


def blocks(*numbers: int, dtype: type = np.uint8) -> np.ndarray:
    """Squares of numbers on 0."""
    mask = np.zeros(SHAPE, dtype)
    for index, number in enumerate(numbers):
        mask[2:8, 1 + 7 * index : 6 + 7 * index] = number
    return mask


def objects(data: bytes, rule: str = "auto") -> list[int]:
    """Areas of the objects of a mask file."""
    return sorted(found.area for found in objects_of(read_labels(data), rule).regions)


def reason(data: bytes, rule: str = "auto") -> str:
    with pytest.raises(BadRow) as caught:
        objects_of(read_labels(data), rule)
    return caught.value.reason


def coloured(*colours: tuple[int, int, int]) -> np.ndarray:
    """(H, W, 3) RGB squares on black."""
    picture = np.zeros((*SHAPE, 3), np.uint8)
    for index, colour in enumerate(colours):
        picture[2:8, 1 + 7 * index : 6 + 7 * index] = colour
    return picture


def test_values_of_one_object() -> None:
    for number in (1, 2, 100, 200, 255):
        assert objects(encoded(blocks(number))) == [30]
    found = objects_of(read_labels(encoded(blocks(255, 128))), "auto")
    assert [r.area for r in found.regions] == [30] and found.ignored is not None and found.ignored.sum() == 30
    assert found.understood == "0/128/255 as one object each, 128 ignored"


def test_several_numbers_and_colours_are_several_objects() -> None:
    assert objects(encoded(blocks(100, 200))) == [30, 30]
    assert objects(encoded(blocks(1, 2, 3))) == [30, 30, 30]
    red_and_cyan = coloured((255, 0, 0), (0, 255, 255))
    assert objects(saved(Image.fromarray(red_and_cyan))) == [30, 30]
    assert objects(saved(Image.fromarray(red_and_cyan), "TIFF")) == [30, 30]
    assert objects(saved(Image.fromarray(red_and_cyan), "BMP")) == [30, 30]


@pytest.mark.parametrize("ending", [".png", ".tiff"])
def test_sixteen_bits_are_kept(ending: str) -> None:
    data = encoded(blocks(1, 256, 257, 40000, dtype=np.uint16), ending)
    assert objects(data) == [30] * 4
    assert objects(data, "values") == [30] * 4
    assert objects(data, "one") == objects(data, "nonzero") == [120]
    assert reason(data, "trimap") == "mask holds numbers beyond 8 bits"
    deep = np.zeros((*SHAPE, 3), np.uint16)
    deep[2:8, 1:6], deep[2:8, 8:13] = (0, 0, 7), (0, 0, 9)  # told apart by low bits only
    assert objects(encoded(deep, ending)) == [30, 30]


def test_one_bit_and_floats() -> None:
    assert objects(saved(Image.fromarray(blocks(1) > 0))) == [30]
    assert objects(saved(Image.fromarray(blocks(1) > 0), "TIFF")) == [30]
    assert objects(saved(Image.fromarray(blocks(1, 2).astype(np.float32)), "TIFF")) == [30, 30]
    for bad in (0.5, np.nan, np.inf, -1.0):
        values = blocks(1).astype(np.float32)
        values[0, 0] = bad
        assert reason(saved(Image.fromarray(values), "TIFF")) == FRACTIONS


def rgba(colours: np.ndarray, alpha: np.ndarray) -> bytes:
    return saved(Image.fromarray(np.dstack([colours, alpha]).astype(np.uint8), "RGBA"))


def test_alpha_is_the_mask_or_agrees_or_is_refused() -> None:
    white, mask = np.full((*SHAPE, 3), 255), blocks(255)
    assert objects(rgba(white, mask)) == [30]
    assert objects(rgba(white * 0, mask)) == [30]
    opaque = np.full(SHAPE, 255)
    assert objects(rgba(coloured((255, 0, 0), (0, 9, 0)), opaque)) == [30, 30]
    assert objects(rgba(coloured((255, 0, 0)), mask)) == [30]
    elsewhere = np.roll(mask, 9, axis=1)
    assert reason(rgba(coloured((255, 0, 0)), elsewhere)) == ALPHA
    grey = Image.merge("LA", [Image.fromarray(np.full(SHAPE, 200, np.uint8)), Image.fromarray(mask)])
    assert objects(saved(grey)) == [30]


def palette(indices: np.ndarray, colours: list[tuple[int, int, int]], **options: object) -> bytes:
    picture = Image.fromarray(indices, "P")
    picture.putpalette([value for colour in colours for value in colour])
    return saved(picture, "PNG", **options)


def test_palettes() -> None:
    assert objects(palette(blocks(1, 2), [(0, 0, 0), (128, 0, 0), (0, 128, 0)])) == [30, 30]
    same = palette(blocks(1, 2), [(0, 0, 0), (9, 9, 9), (9, 9, 9)])
    assert objects(same) == [30, 30], "the indices tell them apart"
    inverted = palette(1 - blocks(1), [(255, 255, 255), (0, 0, 0)])
    assert reason(inverted) == PALETTE, "white, being entry 0, or black may be the background"
    assert objects(inverted, "nonzero") == objects(inverted, "trimap") == objects(inverted, "one") == [30]
    assert objects(palette(blocks(2) + 1, [(9, 0, 0), (0, 0, 0), (9, 9, 9), (0, 9, 0)])) == [30], "black is entry 1"
    assert reason(palette(blocks(1, 2), [(0, 0, 0), (0, 0, 0), (9, 0, 0)])) == PALETTE
    assert reason(palette(blocks(1, 2), [(0, 0, 0), (9, 0, 0), (0, 9, 0)], transparency=2)) == ALPHA
    assert objects(palette(blocks(1, 2), [(0, 0, 0), (9, 0, 0), (0, 9, 0)], transparency=0)) == [30, 30]


def test_what_is_undecided_in_voc() -> None:
    colours = coloured((128, 0, 0), (0, 128, 0), (224, 224, 192))
    found = objects_of(read_labels(saved(Image.fromarray(colours))), "auto")
    assert [r.area for r in found.regions] == [30, 30] and found.ignored is not None and found.ignored.sum() == 30
    assert reason(encoded(blocks(1, 2, 255))) == mask_rules.UNCLEAR
    assert objects(encoded(blocks(1, 2, 255)), "ids") == [30, 30, 30]
    assert objects(encoded(blocks(1, 2, 255)), "ids-void") == [30, 30]
    assert reason(encoded(blocks(128))) == mask_rules.UNCLEAR


def test_soft_edges_and_photographs() -> None:
    soft = cv2.GaussianBlur(cv2.resize(blocks(255), (600, 480), interpolation=cv2.INTER_NEAREST), (5, 5), 1)
    assert objects(encoded(soft)) == [int((soft >= 128).sum())]
    jpeg = encoded(cv2.resize(blocks(255), (600, 480), interpolation=cv2.INTER_NEAREST), ".jpg")
    assert len(objects(jpeg)) == 1
    noise = np.random.default_rng(0).integers(0, 256, (*SHAPE, 3), np.uint8)
    assert reason(encoded(noise, ".jpg")) == mask_rules.NO_NUMBERS
    assert reason(
        saved(Image.fromarray(np.tile(noise, (3, 3, 1))[:70, :70] + np.arange(70, dtype=np.uint8)[:, None, None]))
    ) in (mask_rules.NO_NUMBERS,)
    assert reason(encoded(noise[..., 0])) == mask_rules.UNCLEAR


def test_pages() -> None:
    pages = [Image.fromarray(blocks(255)), Image.fromarray(blocks(0, 255))]
    assert reason(saved(pages[0], "TIFF", save_all=True, append_images=pages[1:])) == PAGES
    assert reason(saved(pages[0], "PNG", save_all=True, append_images=pages[1:])) == PAGES


MODES = ("1", "L", "I;16", "P", "RGB", "RGBA", "LA")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_every_encoding_gives_the_drawn_objects_or_a_reason(data: st.DataObject) -> None:
    mode, kind = data.draw(st.sampled_from(MODES)), data.draw(st.sampled_from(["PNG", "TIFF"]))
    count = 1 if mode == "1" else data.draw(st.integers(1, 4))
    numbers = data.draw(
        st.lists(st.integers(1, 255 if mode != "I;16" else 65535), min_size=count, max_size=count, unique=True)
    )
    if mode == "1":
        drawn = blocks(1)
        picture = Image.fromarray(drawn > 0)
    elif mode == "I;16":
        picture = Image.fromarray(blocks(*numbers, dtype=np.uint16))
    elif mode == "P":
        picture = Image.fromarray(blocks(*numbers), "P")
        picture.putpalette([v for i in range(256) for v in (i, i * 7 % 256, 255 - i if i else 0)])
    elif mode in ("RGB", "RGBA"):
        picture = Image.fromarray(coloured(*[(n, n * 3 % 256, n * 7 % 256) for n in numbers])).convert(mode)
    else:
        picture = Image.fromarray(blocks(*numbers)).convert(mode)
    refused, found = "", None
    try:
        found = objects_of(read_labels(saved(picture, kind)), "auto")
    except BadRow as bad:
        refused = bad.reason
    if found is None:
        assert refused == mask_rules.UNCLEAR and mode in ("L", "LA", "I;16") and {128, 255} & set(numbers)
        return
    if found.ignored is None:
        assert sorted(r.area for r in found.regions) == [30] * count
    else:
        assert set(numbers) == {128, 255} and [r.area for r in found.regions] == [30]


def test_rules_have_no_surprise_in_the_published_ones() -> None:
    mask = Labels(np.array([[0, 3, 128, 200]]), "grey")
    assert [r.area for r in objects_of(mask, "trimap").regions] == [1]
    assert [r.area for r in objects_of(mask, "nonzero").regions] == [3]
    with pytest.raises(BadRow, match="channels differ"):
        objects_of(read_labels(saved(Image.fromarray(coloured((255, 0, 0), (0, 255, 255))))), "trimap")
