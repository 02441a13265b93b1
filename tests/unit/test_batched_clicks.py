"""Clicks of many objects by tensor operations equal those of one object in NumPy, to the pixel."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.clicks.batched import next_clicks, squared_distances
from pipeline.clicks.encode import Click
from pipeline.clicks.simulate import next_click_center
from pipeline.evaluate.metrics import iou

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def blobs(rng: np.random.Generator, count: int, shape: tuple[int, int]) -> np.ndarray:
    """(count, H, W) bool: smooth random regions, some small, some that fill nearly all."""
    found = []
    for _ in range(count):
        noise = rng.standard_normal(shape).astype(np.float32)
        found.append(cv2.GaussianBlur(noise, (0, 0), rng.uniform(0.6, 12)) > rng.normal(0, 0.1))
    return np.stack(found)


@pytest.mark.parametrize("device", DEVICES)
def test_distances_are_those_of_the_exact_transform(device: str) -> None:
    rng = np.random.default_rng(1)
    cv2.ipp.setUseIPP(False)
    for _ in range(40):
        shape = (int(rng.integers(1, 90)), int(rng.integers(1, 90)))
        masks = blobs(rng, 3, shape)
        masks[0] = True
        squares = squared_distances(torch.from_numpy(masks).to(device)).cpu()
        for mask, square in zip(masks, squares, strict=True):
            padded = np.pad(mask, 1).astype(np.uint8)
            exact = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
            # NumPy's root is exact; torch's is an ulp off on some CPUs.
            np.testing.assert_array_equal(np.sqrt(square.numpy().astype(np.float32)), exact)


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=60)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 4), height=st.integers(1, 70), width=st.integers(1, 70))
def test_clicks_are_those_of_one_object(device: str, seed: int, count: int, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    truths = np.where(blobs(rng, count, (height, width)), 1, 0).astype(np.int8)
    truths[rng.random(truths.shape) < rng.choice([0.0, 0.05])] = -1
    truths[:, height // 2, width // 2] = 1
    masks = blobs(rng, count, (height, width))
    if seed % 3 == 0:
        masks[0] = truths[0] == 1  # nothing is wrong
    clicks: list[list[Click]] = [[] for _ in range(count)]
    for own, truth, mask in zip(clicks, truths, masks, strict=True):
        for _ in range(int(rng.integers(0, 6))):
            own.append(next_click_center(truth, mask, own))
    below, right = rng.integers(0, 12, 2)  # objects of a batch are padded to one size
    padded = np.pad(truths, ((0, 0), (0, below), (0, right)), constant_values=-1)
    filled = np.pad(masks, ((0, 0), (0, below), (0, right)), constant_values=bool(seed % 2))
    found = next_clicks(torch.from_numpy(padded).to(device), torch.from_numpy(filled).to(device), clicks)
    for one, own, truth, mask in zip(found, clicks, truths, masks, strict=True):
        assert one.click == next_click_center(truth, mask, own)
        assert one.intersection / one.union == iou(truth, mask)
