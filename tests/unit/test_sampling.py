"""Object choice and first clicks: where clicks may lie, the hierarchy, merged objects, ignored pixels."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.clicks.encode import is_used
from pipeline.clicks.sampling import KERNEL, Selection, border_band, choose, eroded, first_clicks, sample_clicks
from pipeline.config import Clicks
from pipeline.data.schema import ObjectInfo, Sample

N = 8
CLICKS = Clicks(max_points=N)


def scene(masks: list[np.ndarray], parents: list[int] | None = None, ignore: np.ndarray | None = None) -> Sample:
    """One layer an object."""
    objects = [
        ObjectInfo(i, 1, parent, int(m.sum()))
        for i, (m, parent) in enumerate(zip(masks, parents or [-1] * len(masks), strict=True))
    ]
    layers = np.stack(masks).astype(np.uint8)
    return Sample(np.zeros((*layers.shape[1:], 3), np.uint8), layers, objects, ignore)


def box(top: int, left: int, bottom: int, right: int, side: int = 64) -> np.ndarray:
    mask = np.zeros((side, side), bool)
    mask[top:bottom, left:right] = True
    return mask


def pixels(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(row, col) of the positive and of the negative clicks, as index arrays (2, n)."""
    used = is_used(points)
    positive, negative = (points[half][used[half], :2].astype(int).T for half in (slice(N), slice(N, None)))
    return positive, negative


def rngs(count: int) -> list[np.random.Generator]:
    return [np.random.default_rng((7, i)) for i in range(count)]


@given(st.integers(0, 10**6), st.integers(0, 4), st.booleans())
def test_clicks_lie_where_they_may(seed: int, objects: int, hierarchy: bool) -> None:
    rng = np.random.default_rng(seed)
    masks = [box(*sorted(rng.integers(0, 40, 2)), *rng.integers(41, 64, 2)) for _ in range(objects)]
    ignore = rng.random((64, 64)) < 0.2
    parents = [-1, *rng.integers(-1, 1, max(0, objects - 1))][:objects]
    sample = scene(masks or [box(0, 0, 0, 0)], parents or None, ignore)
    sample = sample if masks else replace(sample, objects=[])
    target, points = sample_clicks(sample, replace(CLICKS, use_hierarchy=hierarchy), rng)
    positive, negative = pixels(points)
    assert target.dtype == np.int8 and np.array_equal(target == -1, ignore)
    assert (target[tuple(positive)] == 1).all()
    assert (target[tuple(negative)] == 0).all()
    assert not masks or hierarchy or positive.shape[1] >= 1
    orders = np.sort(points[is_used(points), 2])
    assert np.array_equal(orders, np.arange(2, 2 + len(orders)))


def test_orders_are_shuffled_only_when_asked() -> None:
    sample = scene([box(5, 5, 60, 60)])
    plain = [sample_clicks(sample, replace(CLICKS, shuffle_order=False), rng)[1] for rng in rngs(20)]
    mixed = [sample_clicks(sample, CLICKS, rng)[1] for rng in rngs(20)]
    assert all((np.diff(p[is_used(p), 2]) == 1).all() for p in plain)
    assert any((np.diff(p[is_used(p), 2]) != 1).any() for p in mixed)


def test_merged_objects_get_a_positive_click_each() -> None:
    masks = [box(2, 2, 20, 20), box(2, 40, 20, 60), box(40, 2, 60, 20)]
    sample = scene(masks)
    clicks = replace(CLICKS, merge_prob=1.0)
    for rng in rngs(60):
        selection = choose(sample, clicks, rng)
        positive, _ = pixels(first_clicks(sample, selection, clicks, rng))
        assert len(selection.positives) == 2
        assert np.array_equal(selection.target, selection.positives[0] | selection.positives[1])
        assert all(region[tuple(positive)].any() for region in selection.positives)


def test_other_objects_are_labelled_pixels_unless_every_object_is_chosen() -> None:
    clicks = replace(CLICKS, negative_background=0.0, negative_other=1.0, negative_border=0.0, merge_prob=0.0)
    one, two = scene([box(2, 2, 20, 20)]), scene([box(2, 2, 20, 20), box(40, 40, 60, 60)])
    far = 0
    for rng in rngs(40):
        _, points = sample_clicks(one, clicks, rng)
        far += int((~one.mask(0)[tuple(pixels(points)[1])]).sum())
        target, points = sample_clicks(two, clicks, rng)
        negative = pixels(points)[1]
        assert (two.layers.any(axis=0) & (target == 0))[tuple(negative)].all()
    assert far > 0


def test_sample_without_objects_has_negatives_on_unlabelled_pixels_only() -> None:
    labelled = replace(scene([box(0, 0, 64, 50)]), objects=[])
    counts = []
    for rng in rngs(60):
        target, points = sample_clicks(labelled, CLICKS, rng)
        positive, negative = pixels(points)
        assert not target.any() and positive.shape[1] == 0
        assert (negative[1] >= 50).all()
        counts.append(negative.shape[1])
    assert max(counts) > 1


def test_empty_regions_are_skipped() -> None:
    whole = scene([np.ones((64, 64), bool)])
    for rng in rngs(20):
        positive, negative = pixels(sample_clicks(whole, CLICKS, rng)[1])
        assert positive.shape[1] >= 1 and negative.shape[1] == 0


def test_erosion_spares_the_image_border_and_small_regions() -> None:
    always = replace(CLICKS, erode_prob=1.0)
    rng = np.random.default_rng(0)
    corner = box(0, 0, 20, 30)
    assert np.array_equal(eroded(corner, always, rng), box(0, 0, 17, 27))
    assert np.array_equal(eroded(box(10, 10, 19, 19), always, rng), box(10, 10, 19, 19))  # 9 pixels would remain
    assert np.array_equal(eroded(box(10, 10, 20, 20), always, rng), box(13, 13, 17, 17))
    assert np.array_equal(eroded(corner, replace(CLICKS, erode_prob=0.0), rng), corner)


@given(st.integers(0, 1000))
def test_band_and_erosion_on_the_box_equal_those_on_the_whole_map(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = cv2.blur(rng.random((64, 64)), (9, 9)) > rng.uniform(0.45, 0.6)
    mask[: rng.integers(30)] = False
    width = int(np.ceil(0.1 * np.sqrt(mask.sum())))
    grown = cv2.dilate(mask.view(np.uint8), KERNEL, iterations=width).view(bool) if width else mask
    assert np.array_equal(border_band(mask, 0.1), grown & ~mask)
    inner = cv2.erode(mask.view(np.uint8), KERNEL, iterations=3).view(bool)
    expected = inner if inner.sum() > 10 else mask
    assert np.array_equal(eroded(mask, replace(CLICKS, erode_prob=1.0), rng), expected)


class TestHierarchy:
    """A root with two large children and one small one; one child has a child itself."""

    clicks = replace(CLICKS, use_hierarchy=True, merge_prob=0.0)
    masks = (box(0, 0, 60, 60), box(5, 5, 30, 30), box(35, 5, 58, 40), box(40, 50, 44, 54), box(10, 10, 20, 20))
    sample = scene(list(masks), [-1, 0, 0, 0, 1])

    def selections(self, count: int = 400) -> list[Selection]:
        return [choose(self.sample, self.clicks, rng) for rng in rngs(count)]

    @staticmethod
    def node(selection: Selection) -> int:
        """The deepest object that holds the target and everything cut out of it."""
        return min(
            (i for i, m in enumerate(TestHierarchy.masks) if not (selection.positives[0] & ~m).any()),
            key=lambda i: TestHierarchy.masks[i].sum(),
        )

    def test_all_nodes_are_reached_in_proportion(self) -> None:
        nodes = np.bincount([self.node(s) for s in self.selections(4000)], minlength=5) / 4000
        assert nodes == pytest.approx([1 / 2, 1 / 12, 1 / 6, 1 / 6, 1 / 12], abs=0.035)

    def test_targets_are_nodes_without_cut_children(self) -> None:
        cuts = []
        for selection in self.selections():
            node = self.node(selection)
            below = [i for i, o in enumerate(self.sample.objects) if o.parent == node]
            cut = [i for i in below if not selection.target[self.masks[i]].any()]
            cuts.append(len(cut))
            expected = self.masks[node] & ~np.logical_or.reduce(
                [np.zeros((64, 64), bool), *(self.masks[i] for i in cut)]
            )
            assert np.array_equal(selection.target, expected)
            small = self.masks[3] if node == 0 else np.zeros((64, 64), bool)
            assert np.array_equal(selection.positives[0], expected & ~small)
            parent = self.sample.objects[node].parent
            required = [self.masks[parent] & ~self.masks[node]] if parent >= 0 else []
            required += [self.masks[i] for i in cut]
            assert sorted(r.tobytes() for r in selection.required) == sorted(r.tobytes() for r in required)
        assert set(cuts) == {0, 1, 2, 3}

    def test_required_regions_get_a_negative_click_each(self) -> None:
        for selection, rng in zip(self.selections(100), rngs(100), strict=True):
            _, negative = pixels(first_clicks(self.sample, selection, self.clicks, rng))
            assert all(region[tuple(negative)].any() for region in selection.required)
