"""Simulated clicks: properties beside the recorded cases of tests/golden."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from pipeline.clicks.batched import training_errors
from pipeline.clicks.encode import Click, capacity, decode, empty, encode
from pipeline.clicks.simulate import add_click, click_region, next_click_center, next_click_random

SHAPES = array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24)
CLICK = st.builds(Click, st.integers(0, 500), st.integers(0, 500), st.booleans())


@given(st.lists(CLICK, max_size=20), st.integers(0, 5))
def test_encoding_keeps_clicks_in_order(clicks: list[Click], spare: int) -> None:
    points = encode(clicks, capacity(clicks) + spare)
    assert points.shape == (2 * (capacity(clicks) + spare), 3)
    assert decode(points) == clicks


def test_a_click_with_one_negative_coordinate_is_used() -> None:
    assert decode(encode([Click(-1.5, 4, True), Click(-1, -2, True)])) == [Click(-1.5, 4, True)]


@settings(max_examples=200)
@given(st.data())
def test_center_click_lies_on_an_error_and_never_on_a_clicked_pixel(data: st.DataObject) -> None:
    shape = data.draw(SHAPES)
    gt = data.draw(arrays(np.int8, shape, elements=st.sampled_from([-1, 0, 1])))
    pred = data.draw(arrays(np.bool_, shape))
    clicks: list[Click] = []
    for _ in range(3):
        click = next_click_center(gt, pred, clicks)
        at = int(click.row), int(click.col)
        wrong = ((gt == 1) & ~pred) | ((gt == 0) & pred)
        for c in clicks:
            wrong[int(c.row), int(c.col)] = False
        if not wrong.any():
            assert click == Click(0, 0, False)
            return
        assert wrong[at]
        assert click.positive == (gt[at] == 1)
        clicks.append(click)


def errors(gt: np.ndarray, prob: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    missed, wrong = training_errors(torch.from_numpy(gt), torch.from_numpy(prob))
    return missed.numpy(), wrong.numpy()


def scanned(mask: np.ndarray) -> np.ndarray:
    """The 5x5 chamfer transform (Borgefors, 1986) by two scans in float32, each sum rounded."""
    height, width = mask.shape
    far, one, diagonal, knight = np.float32(1e6), np.float32(1), np.float32(1.4), np.float32(2.1969)
    steps = [(0, -1, one), (-1, 0, one), (-1, -1, diagonal), (-1, 1, diagonal)]
    steps += [(-2, -1, knight), (-2, 1, knight), (-1, -2, knight), (-1, 2, knight)]
    out = np.pad(np.where(mask, far, np.float32(0)), 2, constant_values=far)
    for sign in (1, -1):
        for r in range(2, height + 2)[::sign]:
            for c in range(2, width + 2)[::sign]:
                out[r, c] = min(out[r, c], *(out[r + sign * y, c + sign * x] + cost for y, x, cost in steps))
    return out[2:-2, 2:-2]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40))
def test_training_region_is_the_inner_half_by_rounded_scans(seed: int, height: int, width: int) -> None:
    """By the distances that the published code drew its training clicks from: those of IPP, as in OpenCV's wheels."""
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.standard_normal((height, width)).astype(np.float32), (0, 0), rng.uniform(0.6, 9))
    missed = noise > rng.normal(0, 0.1)
    region = click_region(missed, np.zeros_like(missed))
    if not missed.any():
        assert region is None
        return
    distance = scanned(np.pad(missed, 1))[1:-1, 1:-1]
    assert region is not None
    assert np.array_equal(region.pixels, distance > distance.max() / np.float32(2))


def brute_distance(mask: np.ndarray) -> np.ndarray:
    padded = np.pad(mask, 1)
    zeros = np.argwhere(~padded)
    out = np.zeros(padded.shape, np.float32)
    for r, c in np.argwhere(padded):
        out[r, c] = np.sqrt(((zeros - (r, c)) ** 2).sum(1).min())
    return out[1:-1, 1:-1]


@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)))
def test_center_click_is_the_first_maximum_of_the_exact_distance(mask: np.ndarray) -> None:
    click = next_click_center(mask.astype(np.int8), np.zeros(mask.shape, bool), [])
    if mask.any():
        at = np.unravel_index(brute_distance(mask).argmax(), mask.shape)
        assert (click.row, click.col, click.positive) == (*at, True)


def test_ignored_pixels_count_as_background_in_training() -> None:
    gt = np.zeros((40, 40), np.int8)
    gt[:, 20:] = -1
    prob = np.zeros((40, 40), np.float32)
    prob[5:35, 22:38] = 0.9  # wrong on ignored pixels only
    region = click_region(*errors(gt, prob))
    assert region is not None
    assert not region.positive
    assert (gt[region.pixels] == -1).all()
    assert next_click_center(gt, prob > 0.49, []) == Click(0, 0, False)  # no error at evaluation


@given(st.integers(0, 2**32 - 1))
def test_random_click_falls_into_the_region(seed: int) -> None:
    rng = np.random.default_rng(seed)
    gt = np.zeros((30, 30), np.int8)
    gt[4:20, 6:25] = 1
    prob = rng.random((30, 30)).astype(np.float32)
    region = click_region(*errors(gt, prob))
    assert region is not None
    after = next_click_random(*errors(gt, prob), empty(4), rng)
    (click,) = decode(after)
    assert region.pixels[int(click.row), int(click.col)]
    assert click.positive == region.positive


def test_nothing_wrong_adds_no_click() -> None:
    gt = np.ones((8, 8), np.int8)
    before = encode([Click(1, 1, True)], 2)
    after = next_click_random(*errors(gt, np.ones((8, 8), np.float32)), before, np.random.default_rng(0))
    assert np.array_equal(after, before)


def test_rows_of_new_clicks() -> None:
    points = empty(2)
    for i in range(3):
        points = add_click(points, Click(i, i, True))
    assert points[:2].tolist() == [[0, 0, 1], [2, 2, 3]]  # the last row is overwritten when all are used
    plain = add_click(empty(3), Click(5, 6, False), "from_end", step=2)
    assert plain[3 + 3 - 2].tolist() == [5, 6, 2]
