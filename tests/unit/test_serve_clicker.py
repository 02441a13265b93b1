"""`Clicker`: the masks of an evaluation for the same clicks, whatever is kept and whoever else clicks."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline import Predictor
from pipeline.clicks.encode import Click
from pipeline.config import Cfr
from pipeline.evaluate.results import decode_mask
from pipeline.serve import clicker as module
from pipeline.serve.clicker import MAX_CLICKS, Answer, Clicker
from pipeline.serve.pictures import Picture, read_picture
from pipeline.serve.refusal import Refused
from tests.made import SIDE, rows_of_blobs, small_model

MODEL = small_model()
CFR = Cfr(crop=SIDE, threshold=0.45, zoom_threshold=0.45)  # of a random network, whose masks are empty at 0.49
CPU = torch.device("cpu")
PICTURES = [read_picture(row.image) for row in rows_of_blobs(2)]
CLICKS = [Click(30, 40, True), Click(10, 12, False), Click(50, 60, True), Click(31, 42, True)]


def wanted(picture: Picture, clicks: list[Click], cfr: Cfr = CFR) -> np.ndarray:
    predictor = Predictor(MODEL, cfr)
    predictor.set_image(picture.pixels)
    for click in clicks:
        predictor.click(click.col, click.row, click.positive)
    return predictor.mask


def same(answer: Answer, mask: np.ndarray) -> bool:
    """Whether the whole mask and the PNG in its box are that mask."""
    x, y, width, height = answer.box
    drawn = np.zeros_like(mask)
    if width:
        drawn[y : y + height, x : x + width] = decode_mask(base64.b64decode(answer.png))
    return np.array_equal(answer.mask, mask) and np.array_equal(drawn, mask)


@pytest.mark.parametrize("cfr", [CFR, replace(CFR, steps=3, clicks=20, adaptive=True, min_crop=20, flip=False)])
def test_forward_back_and_changed_clicks_give_the_masks_of_the_predictor(cfr: Cfr) -> None:
    one = Clicker(MODEL, cfr, CPU)
    lists = [CLICKS[:1], CLICKS[:2], CLICKS[:3], CLICKS[:2], CLICKS, [CLICKS[0], CLICKS[2]], CLICKS[1:], CLICKS[:2]]
    for clicks in lists:
        assert same(one.answer(PICTURES[0], clicks), wanted(PICTURES[0], clicks, cfr))
    again = one.answer(PICTURES[0], CLICKS)
    assert again.passes == 0 and same(again, wanted(PICTURES[0], CLICKS, cfr))


def test_a_further_click_costs_its_own_passes_and_an_undo_none() -> None:
    one = Clicker(MODEL, CFR, CPU)
    assert [one.answer(PICTURES[0], CLICKS[:n]).passes for n in (1, 2, 4, 3, 1)] == [1, 1, 2, 0, 0]
    assert one.answer(PICTURES[0], CLICKS[:2], steps=2).passes == 4  # another setting is another object
    assert one.answer(PICTURES[1], CLICKS[:2]).passes == 2


def test_what_is_forgotten_is_made_again_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PICTURE_BYTES", "FINISHED_BYTES", "PART_BYTES", "CROP_BYTES"):
        monkeypatch.setattr(module, name, 1)
    one = Clicker(MODEL, CFR, CPU)
    for _ in range(2):
        for picture in PICTURES:
            one.show(picture)
            assert same(one.answer(picture, CLICKS), wanted(picture, CLICKS))
    assert one.picture(PICTURES[0].sha) is None and one.picture(PICTURES[1].sha) is PICTURES[1]


def test_several_people_at_once() -> None:
    one = Clicker(MODEL, CFR, CPU)
    asked = [(picture, CLICKS[:n]) for n in (1, 2, 3, 4) for picture in PICTURES] * 2
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda pair: one.answer(*pair), asked))
    assert all(same(answer, wanted(*pair)) for answer, pair in zip(answers, asked, strict=True))


def test_without_clicks_there_is_nothing_and_too_much_is_refused() -> None:
    one = Clicker(MODEL, CFR, CPU)
    empty = one.answer(PICTURES[0], [])
    assert (empty.box, empty.png, empty.passes, empty.score) == ((0, 0, 0, 0), "", 0, 0.0)
    assert empty.mask.shape == PICTURES[0].size and not empty.mask.any()
    for clicks, steps in (([Click(1, 1, True)] * (MAX_CLICKS + 1), None), ([Click(1, 1, True)], 99)):
        with pytest.raises(Refused, match="at most"):
            one.answer(PICTURES[0], clicks, steps)
    with pytest.raises(Refused, match="outside of the image"):
        one.answer(PICTURES[0], [Click(72, 1, True)])
