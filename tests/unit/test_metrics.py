"""IoU, NoC, NoF and curves, with the exact thresholds of the published evaluation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluate import metrics


def test_iou_leaves_out_ignored_pixels() -> None:
    truth = np.array([[1, 1, 0, -1], [0, 0, -1, 0]], np.int8)
    mask = np.array([[1, 0, 1, 1], [0, 0, 1, 0]], bool)
    assert metrics.iou(truth, mask) == 1 / 3


def test_thresholds_are_those_of_numpy_arange() -> None:
    assert np.arange(0.8, 0.951, 0.05).tolist() == [0.8, 0.8500000000000001, 0.9000000000000001, 0.9500000000000002]
    assert [float(metrics.threshold(q)) for q in metrics.IOU_LEVELS] == [
        np.float32(q / 100) for q in metrics.IOU_LEVELS
    ]


@pytest.mark.parametrize(("target", "levels"), [(0.95, [80, 85, 90, 95]), (0.9, [80, 85, 90]), (1.0, [80, 85, 90, 95])])
def test_levels_end_at_the_target(target: float, levels: list[int]) -> None:
    assert metrics.levels(target) == levels


def test_noc_counts_to_the_first_click_that_reaches_the_level() -> None:
    curve = [0.5, 0.85, 0.84, 0.95]
    assert [metrics.noc(curve, q, 20) for q in metrics.IOU_LEVELS] == [2, 2, 4, 4]
    assert metrics.noc([0.5, 0.6], 80, 20) == 20
    below = float(np.nextafter(np.float32(0.85), np.float32(0)))
    assert metrics.noc([below], 85, 20) == 20
    assert metrics.noc([19 / 20], 95, 20) == 1


def test_nof_counts_those_that_reach_it_at_the_last_click_too() -> None:
    curves = [[0.1, 0.2, 0.96], [0.1, 0.2, 0.3], [0.1, 0.96]]
    figures = metrics.summarize(curves, max_clicks=3, target_iou=0.95)
    assert figures["nof"]["95"] == 2
    assert figures["noc"]["95"] == pytest.approx((3 + 3 + 2) / 3)


def test_an_object_that_stopped_holds_its_last_iou() -> None:
    figures = metrics.summarize([[0.96], [0.2, 0.4, 0.6]], max_clicks=4, target_iou=0.95)
    assert figures["mean_iou"] == pytest.approx([0.58, 0.68, 0.78, 0.78], abs=1e-6)
    assert figures["iou_at"] == pytest.approx({"1": 0.58, "3": 0.78}, abs=1e-6)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_noc_never_falls_as_the_level_rises(curve: list[float]) -> None:
    counts = [metrics.noc(curve, q, 20) for q in metrics.IOU_LEVELS]
    assert counts == sorted(counts)
