"""Why an object is among the worst, in words, from its own record."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from pipeline.report.reasons import reasons


def box(*at: tuple[int, int, int, int], shape: tuple[int, int] = (100, 200)) -> np.ndarray:
    """(H, W) int8 truth of boxes (top, left, bottom, right)."""
    truth = np.zeros(shape, np.int8)
    for top, left, bottom, right in at:
        truth[top:bottom, left:right] = 1
    return truth


PLAIN = box((30, 60, 70, 120))  # nothing special about it: 2,400 pixels in one piece
RISING = [0.5, 0.7, 0.92]


@pytest.mark.parametrize(
    ("ious", "said"),
    [
        (RISING, ["reached IoU 0.90 at click 3"]),
        ([0.5, 0.71, 0.7], ["never reached IoU 0.90: best 0.71 at click 2"]),
        ([0.05, 0.4, 0.95], ["reached IoU 0.90 at click 3", "the first click went wrong: IoU@1 0.05"]),
        (
            [0.05, 0.1, 0.95],
            ["reached IoU 0.90 at click 3", "the first 2 clicks went wrong: IoU@1 0.05, IoU@2 0.10"],
        ),
        ([0.1] * 3, ["never reached IoU 0.90: best 0.10 at click 1",
                     "no click brought IoU 0.30: IoU@1 0.10"]),
        ([0.8, 0.3, 0.7, 0.6], ["never reached IoU 0.90: best 0.80 at click 1",
                                "it lost IoU after click 1: 0.80 to 0.30"]),
        (
            [0.5, 0.8, *[0.8] * 5],
            ["never reached IoU 0.90: best 0.80 at click 2", "clicks 3 to 7 gained nothing"],
        ),
        ([0.5, *[0.8] * 5], ["never reached IoU 0.90: best 0.80 at click 2"]),
        ([float(np.float32(0.9))], ["reached IoU 0.90 at click 1"]),
    ],
)  # fmt: skip
def test_the_curve(ious: list[float], said: list[str]) -> None:
    assert reasons(ious, PLAIN) == said


@pytest.mark.parametrize(
    ("truth", "said"),
    [
        (PLAIN, []),
        (box((10, 10, 20, 20)), ["small object of 100 pixels (0.50% of the image)"]),
        (box((10, 10, 20, 20), shape=(30, 30)), []),  # a tenth of its image
        (box((10, 10, 60, 60), shape=(1500, 1500)), ["small object of 2,500 pixels (0.11% of the image)"]),
        (box((9, 9, 10, 10), shape=(300, 300)), ["small object of 1 pixel (less than 0.01% of the image)"]),
        (box((10, 10, 50, 50), (60, 60, 90, 90)), ["2 separate parts"]),
        (box((10, 10, 50, 50), (60, 60, 61, 61)), []),  # a stray pixel is no part
        (box((10, 10, 50, 50), (50, 50, 90, 90)), []),  # they meet at a corner
        (box((48, 10, 53, 190)), ["small object of 900 pixels (4.50% of the image)",
                                  "thin: nowhere wider than 5 pixels"]),
        (box((0, 60, 70, 120)), ["it touches the border of the image (top)"]),
        (box((0, 0, 100, 200)), ["it touches the border of the image (top, bottom, left, right)"]),
    ],
)  # fmt: skip
def test_the_object(truth: np.ndarray, said: list[str]) -> None:
    assert reasons(RISING, truth)[1:] == said


def test_ignored_pixels_belong_to_nothing() -> None:
    truth = PLAIN.copy()
    truth[:, :60] = -1
    assert reasons(RISING, truth) == reasons(RISING, PLAIN)
    assert reasons([0.0], np.full((4, 4), -1, np.int8))[1:] == ["no click brought IoU 0.30: IoU@1 0.00"]


def test_a_disk_is_not_thin_and_another_level_counts() -> None:
    truth = np.zeros((120, 120), np.uint8)
    cv2.circle(truth, (60, 60), 40, 1, -1)
    assert reasons([0.8], truth.astype(np.int8), level=0.8) == ["reached IoU 0.80 at click 1"]
