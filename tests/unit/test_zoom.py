"""Zoom-in: boxes, rounding, when the region of interest is kept, and the way to the crop and back."""

from __future__ import annotations

import pytest
import torch

from pipeline.clicks.encode import Click
from pipeline.config import Cfr
from pipeline.evaluate import zoom
from pipeline.evaluate.zoom import Box

SIZE = (321, 481)
CFR = Cfr()


def blob(box: Box, size: tuple[int, int] = SIZE, value: float = 1.0) -> torch.Tensor:
    probability = torch.zeros(size)
    probability[box.row_min : box.row_max + 1, box.col_min : box.col_max + 1] = value
    return probability


def found(probability: torch.Tensor) -> Box | None:
    height, width = probability.shape
    lines = zoom.lines_of(probability, CFR.zoom_threshold, zoom.whole(height, width), (height, width))
    return zoom.box_of(lines.numpy(), height)


def test_bounding_box_is_inclusive() -> None:
    box = Box(3, 3, 5, 17)
    assert found(blob(box)) == box
    assert found(torch.zeros(SIZE)) is None


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        # rows: centre 150, side max(1.4 * 101, 200) = 200; columns: centre 240.5, side 1.4 * 202 = 282.8
        (Box(100, 200, 140, 341), Box(50, 250, 99, 382)),
        # centre 150.5 -+ 100 = 50.5 and 250.5, half to even: 50 and 250
        (Box(150, 151, 140, 341), Box(50, 250, 99, 382)),
        # centre 151.5 -+ 100 = 51.5 and 251.5, half to even: 52 and 252
        (Box(151, 152, 140, 341), Box(52, 252, 99, 382)),
        (Box(0, 320, 0, 480), Box(0, 320, 0, 480)),
        (Box(300, 320, 470, 480), Box(210, 320, 375, 480)),
    ],
)
def test_expand(box: Box, expected: Box) -> None:
    assert zoom.expand(box, *SIZE, expansion=1.4, min_size=200) == expected


def test_box_iou_is_a_product_of_ranges() -> None:
    assert zoom.box_iou(Box(0, 9, 0, 9), Box(0, 9, 0, 9)) == 1.0
    assert zoom.box_iou(Box(0, 9, 0, 9), Box(5, 14, 0, 9)) == 5 / 15
    assert zoom.box_iou(Box(0, 9, 0, 9), Box(5, 14, 5, 14)) == pytest.approx(1 / 9)
    assert zoom.box_iou(Box(0, 9, 0, 9), Box(10, 12, 0, 9)) == 0.0


def test_positive_clicks_widen_the_box() -> None:
    clicks = [Click(10, 400, True), Click(300, 2, False)]
    assert zoom.include(Box(100, 120, 50, 60), clicks) == Box(10, 120, 50, 400)


def test_first_run_sees_the_whole_image() -> None:
    assert zoom.next_roi(None, None, [Click(3, 4, True)], SIZE, CFR) == Box(0, 320, 0, 480)


def test_roi_is_kept_while_its_iou_is_at_least_half() -> None:
    probability = blob(Box(100, 200, 140, 341))  # wants Box(50, 250, 99, 382)
    inside = [Click(150, 200, True)]
    half = Box(50, 250, 99, 99 + 2 * (382 - 99 + 1) - 1)
    assert zoom.box_iou(half, Box(50, 250, 99, 382)) == 0.5
    assert zoom.next_roi(half, found(probability), inside, (321, 700), CFR) is half
    below = half._replace(col_max=half.col_max + 1)
    assert zoom.next_roi(below, found(probability), inside, (321, 700), CFR) == Box(50, 250, 99, 382)


@pytest.mark.parametrize(
    ("row", "col", "kept"), [(249, 381, True), (250, 200, False), (150, 382, False), (50, 99, True)]
)
def test_positive_click_on_the_last_row_or_column_is_outside(row: int, col: int, kept: bool) -> None:
    current = Box(50, 250, 99, 382)
    assert zoom.holds_positives(current, [Click(row, col, True)]) is kept
    assert zoom.holds_positives(current, [Click(row, col, False)])


def test_without_foreground_the_whole_image_stands_in() -> None:
    empty = torch.full(SIZE, 0.5)  # not above 0.50
    small, large = Box(0, 200, 0, 200), Box(0, 320, 0, 400)
    clicks = [Click(100, 100, True)]
    assert zoom.next_roi(small, found(empty), clicks, SIZE, CFR) == zoom.whole(*SIZE)
    assert zoom.next_roi(large, found(empty), clicks, SIZE, CFR) is large


def test_crop_and_back() -> None:
    maps = torch.rand(3, *SIZE)
    box = Box(10, 209, 20, 219)
    crop = zoom.resize(maps[:, 10:210, 20:220], 200)
    assert torch.equal(crop[0], maps[:, 10:210, 20:220])
    assert torch.equal(zoom.resize_back(crop[:, :1], box), maps[0, 10:210, 20:220])


@pytest.mark.parametrize("to", [Box(10, 209, 20, 219), zoom.whole(*SIZE), Box(100, 300, 0, 99), Box(0, 5, 0, 5)])
def test_a_map_seen_in_another_box(to: Box) -> None:
    box = Box(10, 209, 20, 219)
    part = torch.rand(box.height, box.width)
    full = torch.zeros(SIZE)
    full[10:210, 20:220] = part
    wanted = full[to.row_min : to.row_max + 1, to.col_min : to.col_max + 1]
    assert torch.equal(zoom.moved(part, box, to), wanted)
    assert (zoom.common(box, to) is None) == (not wanted.any())
    assert zoom.common(zoom.around(box, to), box) == box


def test_resize_keeps_the_corners() -> None:
    maps = torch.arange(12.0).reshape(1, 3, 4)
    crop = zoom.resize(maps, 448)
    assert crop.shape == (1, 1, 448, 448)
    assert [crop[0, 0, r, c].item() for r, c in ((0, 0), (0, -1), (-1, 0), (-1, -1))] == [0.0, 3.0, 8.0, 11.0]


def test_clicks_scale_and_mirror() -> None:
    box = Box(50, 250, 99, 382)
    click = zoom.scale_click(Click(60, 99, True), box, 448)
    assert click == Click(448 * 10 / 201, 0.0, True)
    assert zoom.mirror_click(click, 448) == Click(448 * 10 / 201, 447.0, True)
    assert zoom.scale_click(Click(49, 98, False), box, 448).row < 0
