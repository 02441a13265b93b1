"""Plots hold the given values; pictures show masks, truth and clicks where they are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from pipeline.clicks.encode import Click, encode
from pipeline.report import overlay as o
from pipeline.report import plots
from tests.report_example import SIZES, objects_table, summary_of

ROOT = Path(__file__).resolve().parents[2]
GREY = np.full((60, 80, 3), 100, np.uint8)
BOX = np.zeros((60, 80), bool)
BOX[20:40, 20:60] = True


@pytest.fixture(scope="module")
def made() -> tuple[Any, dict[str, Any]]:
    objects = objects_table(np.random.default_rng(0))
    return objects, summary_of(objects)


def lines(figure: Figure | None) -> list[list[tuple[float, float]]]:
    assert figure is not None
    data = [np.asarray(line.get_xydata()) for ax in figure.axes for line in ax.get_lines()]
    return [[(float(x), float(y)) for x, y in points] for points in data]


def test_iou_curves(made: tuple[Any, dict[str, Any]]) -> None:
    results = made[1]["results"]
    drawn = lines(plots.iou_curves(results))
    assert drawn == [list(zip(range(1, 21), row["mean_iou"], strict=True)) for row in results]
    assert plots.iou_curves([{**results[0], "objects": 0}]) is None


def test_noc_histogram_counts_every_object_once(made: tuple[Any, dict[str, Any]]) -> None:
    objects, summary = made
    figure = plots.noc_histogram(summary["results"], objects, 90)
    assert figure is not None
    for ax, (name, size) in zip(figure.axes, SIZES.items(), strict=True):
        first = [bar.get_height() for bar in ax.patches[:21] if isinstance(bar, Rectangle)]
        curves = [r["iou"] for r in objects.to_pylist() if (r["dataset"], r["cfr_steps"]) == (name, 0)]
        reached = [next((i for i, v in enumerate(c) if v >= np.float32(0.9)), 20) for c in curves]
        assert first == [reached.count(i) for i in range(21)]
        assert sum(first) == size


def test_cost_of_refinement(made: tuple[Any, dict[str, Any]]) -> None:
    results = made[1]["results"]
    drawn = lines(plots.cost_of_refinement(results))
    assert drawn[0] == [(row["seconds_per_click"], row["noc"]["90"]) for row in results[:3]]
    assert plots.cost_of_refinement(results[:1]) is None


def test_learning_curves() -> None:
    rows = [{"step": 10, "train/loss": 1.0}, {"step": 20, "train/loss": 0.5, "val/noc90": 9.0, "val/iou5": 0.4}]
    figure = plots.learning_curves(rows)
    assert [ax.get_ylabel() for ax in figure.axes] == ["loss", "NoC", "IoU"]
    assert lines(figure) == [[(10, 1.0), (20, 0.5)], [(20, 9.0)], [(20, 0.4)]]
    assert len(plots.learning_curves([{"step": 1}]).axes) == 1


def test_pyplot_is_not_loaded() -> None:
    """Its global state does not go with threads and long-lived workers."""
    script = "import sys, pipeline.report.plots, pipeline.report.overlay; print('matplotlib.pyplot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_overlay_marks_mask_truth_and_clicks() -> None:
    truth = np.zeros((60, 80), np.int8)
    truth[10:30, 10:30] = 1
    truth[50:, 70:] = -1
    before = GREY.copy()
    picture = o.overlay(GREY, BOX, truth, [Click(30, 40, True), Click(50, 5, False)])
    assert (before == GREY).all() and picture.shape == GREY.shape and picture.dtype == np.uint8
    assert picture[35, 50, 2] > picture[35, 50, 0] + 30  # tinted blue
    assert tuple(picture[10, 20]) == o.TRUTH
    assert (picture[5, 40] == 100).all()
    assert (picture[58, 75] != 100).all()  # ignored
    assert _has(picture[26:35, 36:45], o.POSITIVE) and not _has(picture[26:35, 36:45], o.NEGATIVE)
    assert _has(picture[45:55, 0:10], o.NEGATIVE)


def _has(patch: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((patch == colour).all(axis=-1).any())


@pytest.mark.parametrize("shape", [(1, 1), (5, 300), (1500, 2000)])
def test_overlay_of_any_size(shape: tuple[int, int]) -> None:
    image = np.zeros((*shape, 3), np.uint8)
    clicks = [Click(0, 0, True), *[Click(shape[0] - 1, shape[1] - 1, False)] * 20]
    assert o.overlay(image, np.ones(shape, bool), np.ones(shape, np.int8), clicks).shape == image.shape


def test_strip_and_object_strip() -> None:
    plain = o.strip([GREY, GREY[:30]], ["", ""], 50)
    assert plain.shape[0] == 50
    assert o.strip([GREY, GREY], ["a", "b"], 50).shape[0] > 50
    clicks = [Click(30, 40, True), Click(5, 5, False), Click(6, 6, False)]
    masks = {1: BOX, 3: ~BOX}
    drawn = o.object_strip(GREY, BOX.astype(np.int8), clicks, masks, [0.5, 0.6, 0.7], height=120)
    assert drawn.shape[1] == pytest.approx(4 * 160 + 3 * o.GAP, abs=4)


@pytest.mark.parametrize("channels_first", [True, False])
def test_training_picture(channels_first: bool) -> None:
    images = np.repeat(GREY[None], 5, axis=0)
    images = images.transpose(0, 3, 1, 2) if channels_first else images
    points = np.stack([encode([Click(30, 40, True), Click(3, 3, False)], 4)] * 5)
    sheet = o.training_picture(images, np.repeat(BOX[None, None].astype(np.float32), 5, axis=0), points)
    assert sheet.shape == (2 * 60 + o.GAP, 4 * 80 + 3 * o.GAP, 3)
    assert _has(sheet[26:35, 36:45], o.POSITIVE)
    assert (sheet[-10:, -10:] == 255).all()  # three empty places
