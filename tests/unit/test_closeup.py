"""Pictures of small objects look closer: the object is seen under the clicks, and nothing is where it is not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.clicks.encode import Click
from pipeline.report.closeup import MARKS, READABLE, Panel, Window, fitted, window_for
from pipeline.report.overlay import MASK, NEGATIVE, PAPER, TINT, object_strip, whole_image

HEIGHT = 220


def test_a_large_object_is_shown_with_all_of_the_image() -> None:
    assert window_for(Window(50, 50, 250, 300), [Click(10, 10, True)], (300, 400), HEIGHT) == Window(0, 0, 300, 400)
    assert window_for(None, [Click(10, 10, True)], (300, 400), HEIGHT) == Window(0, 0, 300, 400)


def test_near_clicks_are_in_the_closeup_and_far_ones_beside_it() -> None:
    box, shape = Window(300, 400, 312, 412), (600, 800)
    near, far = Click(320, 395, True), Click(20, 780, False)
    window = window_for(box, [far, near], shape, HEIGHT)
    assert window.holds(near) and not window.holds(far)
    panel = Panel(np.zeros((*shape, 3), np.uint8), window, box, HEIGHT)
    assert panel.outside([far, near]) == 1 and panel.outside([near]) == 0
    assert panel.radius >= READABLE
    beyond = window_for(box, [near], shape, HEIGHT)
    assert beyond == window


@settings(max_examples=200, deadline=None)
@given(
    st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=12),
)
def test_every_window_lies_in_the_image_and_leaves_the_object_large(
    shape: tuple[int, int], places: list[tuple[float, float]]
) -> None:
    (top, left), (bottom, right), *rest = ((round(r * (shape[0] - 1)), round(c * (shape[1] - 1))) for r, c in places)
    box = Window(min(top, bottom), min(left, right), max(top, bottom) + 1, max(left, right) + 1)
    clicks = [Click(float(r), float(c), True) for r, c in rest]
    window = window_for(box, clicks, shape, HEIGHT)
    assert 0 <= window.top <= box.top and box.bottom <= window.bottom <= shape[0]
    assert 0 <= window.left <= box.left and box.right <= window.right <= shape[1]
    panel = Panel(np.zeros((*shape, 3), np.uint8), window, box, HEIGHT)
    longer = max(side * by for side, by in zip(box.shape, panel.scale))
    assert panel.radius == 2 or MARKS * panel.radius <= longer + 1e-6
    assert all(
        0 <= at.row < panel.image.shape[0] and 0 <= at.col < panel.image.shape[1]
        for at, click in zip(panel.clicks(clicks), clicks, strict=True)
        if window.holds(click) and panel.scale[0] >= 1 and panel.scale[1] >= 1
    )


def scene() -> tuple[np.ndarray, np.ndarray, dict[int, np.ndarray]]:
    image = np.full((400, 600, 3), 120, np.uint8)
    truth = np.zeros((400, 600), np.int8)
    truth[200:208, 300:310] = 1
    return image, truth, {1: truth == 1}


def test_what_is_shown_lies_where_it_is() -> None:
    image, truth, masks = scene()
    box = Window.of(truth == 1)
    assert box is not None
    panel = Panel(image, window_for(box, [Click(204, 305, True)], image.shape, HEIGHT), box, HEIGHT)
    shown = panel.mask(masks[1])
    (placed,) = panel.clicks([Click(204, 305, True)])
    assert shown[round(placed.row), round(placed.col)]
    assert np.array_equal(shown, panel.labels(truth) == 1)
    by = panel.scale
    assert shown.sum() == pytest.approx(80 * by[0] * by[1], rel=0.05), "not a pixel wider than it is"


def test_the_first_panel_frames_what_the_others_show() -> None:
    image, truth, _ = scene()
    box = Window.of(truth == 1)
    window = window_for(box, [], image.shape, HEIGHT)
    framed = whole_image(image, Panel(image, window, box, HEIGHT), HEIGHT)
    rows, cols = np.nonzero((framed == PAPER).all(axis=2))
    scale = HEIGHT / image.shape[0]
    assert rows.min() == pytest.approx(window.top * scale, abs=4)
    assert cols.max() == pytest.approx(window.right * scale, abs=4)
    whole = Window(0, 0, *image.shape[:2])
    assert np.array_equal(whole_image(image, Panel(image, whole, None, HEIGHT), HEIGHT), fitted(image, HEIGHT))


def test_the_object_is_not_hidden_by_many_clicks() -> None:
    """All clicks but the first lie far away and would have been drawn over it at the usual size."""
    image, truth, masks = scene()
    clicks = [Click(204, 305, True), *(Click(180, 300 + 3 * k, False) for k in range(9))]
    strip = object_strip(image, truth, clicks, {10: masks[1]}, [0.5] * 10, HEIGHT)
    last = strip[:HEIGHT, -HEIGHT:].astype(int)
    tinted = 120 * (1 - TINT) + TINT * np.array(MASK)
    blue = (abs(last - tinted).sum(axis=2) < 10).sum()
    red = (abs(last - NEGATIVE).sum(axis=2) < 30).sum()
    assert red > 100 and blue > 100
