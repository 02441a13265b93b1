"""Reports of whatever was evaluated: any picture size, any name, none or many objects, figures that cannot be drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.clicks.encode import Click
from pipeline.report import plots, report
from pipeline.report.closeup import WIDEST
from pipeline.report.overlay import GAP, object_strip
from pipeline.report.sweep_history import indistinct
from tests.report_example import objects_table, pictures_of, summary_of

HEIGHT = 60


def example_evaluation() -> tuple[dict[str, Any], Any, list[report.ObjectPicture]]:
    rng = np.random.default_rng(0)
    objects = objects_table(rng)
    return summary_of(objects), objects, pictures_of(objects, rng)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**32 - 1))
@example(1, 1, 0)
@example(1, 65_000, 0)
@example(65_000, 1, 0)
@example(2, 40_000, 0)
@example(33_000, 2, 0)
def test_strips_of_every_size(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    truth = rng.integers(-1, 2, (height, width)).astype(np.int8)
    clicks = [Click(float(rng.integers(height)), float(rng.integers(width)), bool(k % 2)) for k in range(3)]
    masks = {1: truth > 0, 3: np.zeros((height, width), bool)}
    strip = object_strip(image, truth, clicks, masks, [0.1, 0.2, 0.3], HEIGHT)
    assert strip.dtype == np.uint8 and strip.shape[2] == 3
    assert HEIGHT <= strip.shape[0] <= 2 * HEIGHT
    assert strip.shape[1] <= 4 * (max(WIDEST * HEIGHT, 200) + GAP), "it does not grow with the picture"


def test_a_figure_that_cannot_be_drawn_is_replaced_by_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    summary, objects, pictures = example_evaluation()

    def broken(*args: Any) -> None:
        raise ValueError("Image size of 1x70000 pixels is too large")

    monkeypatch.setattr(plots, "noc_histogram", broken)
    report.write_report(tmp_path, summary, objects, pictures)
    text = (tmp_path / "report.md").read_text()
    assert "could not be drawn: ValueError: Image size of 1x70000 pixels is too large" in text
    assert "Mean IoU after each click" in text and "Worst objects" in text, "the rest is there"
    assert "could not be drawn" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["<script>", "a|b`c*", "\u00e9" * 300, "line\nbreak", "caf\\udce9", "", " "])
def test_names_of_every_kind(tmp_path: Path, name: str) -> None:
    summary, objects, pictures = example_evaluation()
    changed = [report.ObjectPicture(**{**p.__dict__, "image_id": name}) for p in pictures]
    report.write_report(tmp_path, summary, objects, changed)
    page = (tmp_path / "report.html").read_text()
    assert "<script>" not in page


def test_no_object_at_all(tmp_path: Path) -> None:
    summary, objects, _ = example_evaluation()
    empty = [{**row, "objects": 0, "noc": {}, "nof": {}, "iou_at": {}, "mean_iou": []} for row in summary["results"]]
    summary = {**summary, "results": empty, "left_out": ["2 of 2 objects of x were left out: too small"]}
    report.write_report(tmp_path, summary, objects.slice(0, 0), [])
    assert "2 of 2 objects of x were left out" in (tmp_path / "report.md").read_text()


def sweep(*metrics: dict[str, float]) -> dict[str, Any]:
    return {
        "objectives": ["noc90", "passes"],
        "trials": [{"id": i, "state": "done", "metrics": row} for i, row in enumerate(metrics)],
    }


def test_an_objective_that_cannot_tell_is_named_with_one_that_can() -> None:
    same = [{"noc90": 20.0, "noc80": 19.0 + i, "iou5": 0.5, "passes": 10.0 * i} for i in range(3)]
    (said,) = indistinct(sweep(*same))
    assert said.startswith(
        "noc90 cannot tell the 3 settings apart: it is 20 for all (every object is at the click budget"
    )
    assert "noc80 can (--objectives)" in said and "iou5" not in said
    assert indistinct(sweep({"noc90": 3.0, "passes": 1.0}, {"noc90": 4.0, "passes": 2.0})) == []
    assert indistinct(sweep(same[0])) == []
