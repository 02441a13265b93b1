"""Regions, boxes, packing, the object tree, the merge: properties over random masks."""

from __future__ import annotations

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data import coco_merge
from pipeline.data.masks import (
    LABELS_PER_LAYER,
    Region,
    box_iou,
    box_share,
    boxes,
    build_row,
    mask_iou,
    overlap,
    pack,
    parents,
    region,
)
from pipeline.data.schema import decode_map

SIZE = 40
seeds = st.integers(0, 2**32 - 1)


def random_regions(seed: int, count: int) -> list[Region]:
    """Ellipses and boxes, some inside others, some the same."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        mask = np.zeros((SIZE, SIZE), np.uint8)
        centre = [int(v) for v in rng.integers(0, SIZE, 2)]
        axes = [int(v) for v in rng.integers(1, 18, 2)]
        if rng.random() < 0.5:
            cv2.ellipse(mask, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
        else:
            mask[centre[0] : centre[0] + axes[0], centre[1] : centre[1] + axes[1]] = 1
        found.append(region(mask > 0) or found[-1] if found else region(np.ones((3, 3), bool), 4, 5))
        if rng.random() < 0.2:
            found.append(found[int(rng.integers(len(found)))])
    return [r for r in found if r is not None][:count]


def full(item: Region) -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[item.window] = item.mask
    return mask


def test_region() -> None:
    mask = np.zeros((10, 12), bool)
    assert region(mask) is None
    mask[3, 4] = mask[7, 9] = True
    found = region(mask, row=100, col=200)
    assert found is not None and found.box == (103, 107, 204, 209) and found.area == 2 and found.mask.shape == (5, 6)


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_box_and_mask_measures(seed: int) -> None:
    regions = random_regions(seed, 6)
    iou, share = box_iou(boxes(regions), boxes(regions)), box_share(boxes(regions), boxes(regions))
    for i, a in enumerate(regions):
        for j, b in enumerate(regions):
            fa, fb = full(a), full(b)
            assert overlap(a, b) == (fa & fb).sum()
            assert mask_iou(a, b) == (fa & fb).sum() / (fa | fb).sum()
            rows = [set(range(r.box[0], r.box[1] + 1)) for r in (a, b)]
            cols = [set(range(r.box[2], r.box[3] + 1)) for r in (a, b)]
            hull = [max(s[0] | s[1]) - min(s[0] | s[1]) + 1 for s in (rows, cols)]
            common = [len(s[0] & s[1]) for s in (rows, cols)]
            assert np.isclose(iou[i, j], common[0] / hull[0] * common[1] / hull[1])
            assert np.isclose(share[i, j], common[0] * common[1] / (len(rows[1]) * len(cols[1])))


@given(seeds, st.integers(0, 30))
@settings(max_examples=60, deadline=None)
def test_packing_round_trips(seed: int, count: int) -> None:
    regions = random_regions(seed, count)
    layers, places = pack(regions, SIZE, SIZE)
    assert all(layer.shape == (SIZE, SIZE) for layer in layers) and len(set(places)) == len(regions)
    for item, (layer, label) in zip(regions, places, strict=True):
        np.testing.assert_array_equal(layers[layer] == label, full(item))
    # First fit: every object of a layer touches something in each layer before it.
    for item, (layer, _) in zip(regions, places, strict=True):
        assert all((layers[before][item.window][item.mask] > 0).any() for before in range(layer))


def test_a_layer_holds_255_labels() -> None:
    single = [region(np.ones((1, 1), bool), i // SIZE, i % SIZE) for i in range(600)]
    layers, places = pack([r for r in single if r], SIZE, SIZE)
    assert len(layers) == 3 and max(label for _, label in places) == LABELS_PER_LAYER
    assert np.count_nonzero(layers) == 600


@given(seeds, st.integers(0, 25))
@settings(max_examples=60, deadline=None)
def test_tree(seed: int, count: int) -> None:
    regions = random_regions(seed, count)
    tree = parents(regions)
    for child, parent in enumerate(tree):
        inside = [
            i
            for i, r in enumerate(regions)
            if i != child
            and (r.area > regions[child].area or (r.area == regions[child].area and i > child))
            and overlap(r, regions[child]) / regions[child].area > 0.8
            and box_share(boxes([r]), boxes([regions[child]]))[0, 0] >= 0.7
        ]
        assert (parent in inside) if inside else parent == -1
        steps = 0
        while parent >= 0:  # ends: no cycles
            assert regions[parent].area >= regions[child].area and (steps := steps + 1) <= count
            parent = tree[parent]


def test_tree_takes_the_innermost_parent() -> None:
    nested = [region(np.ones((n, n), bool), 2, 2) for n in (5, 30, 15)]
    assert parents([r for r in nested if r]) == [2, -1, 1]


@given(seeds)
@settings(max_examples=100, deadline=None)
def test_polygons_on_their_box_are_polygons_on_the_image(seed: int) -> None:
    rng = np.random.default_rng(seed)
    polygons = [rng.integers(0, SIZE, (int(rng.integers(1, 9)), 2)).astype(np.int32) for _ in range(2)]
    mask = np.zeros((SIZE, SIZE), np.uint8)
    for polygon in polygons:
        cv2.fillPoly(mask, [polygon], 1)
    found = coco_merge.polygon_region(polygons, SIZE, SIZE)
    assert found is not None
    np.testing.assert_array_equal(full(found), mask > 0)


def test_polygon_outside_the_image_has_no_pixel() -> None:
    for shift in ((SIZE, 3), (3, SIZE), (-9, 3), (3, -9)):
        assert coco_merge.polygon_region([np.array([[0, 0], [5, 1], [3, 5]], np.int32) + shift], SIZE, SIZE) is None


def test_panoptic_ids() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    wide = rgb.astype(int)
    expected = wide[..., 0] + 256 * wide[..., 1] + 65536 * wide[..., 2]
    np.testing.assert_array_equal(coco_merge.panoptic_ids(rgb), expected)


@given(seeds, st.integers(1, 12), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_segments_are_the_pixels_of_their_ids(seed: int, size: int, most: int) -> None:
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, most, (size, int(rng.integers(1, 12))), np.int32) * 0xFFFFFF // most
    wanted = [*np.unique(ids).tolist(), 5, 0, 1 << 40, -1]
    for number, found in zip(wanted, coco_merge.segment_regions(ids, wanted), strict=True):
        expected = region(ids == number)
        assert found is None if expected is None else Same(expected) == found


def block(row: int, col: int, rows: int, cols: int) -> Region:
    found = region(np.ones((rows, cols), bool), row, col)
    assert found is not None
    return found


def test_merge_rules() -> None:
    twin, other, small = block(0, 0, 10, 10), block(20, 20, 10, 10), block(35, 0, 7, 11)
    assert small.area < 80
    assert coco_merge.merge([twin, other, small], [block(0, 0, 10, 11)]) == [other, block_of(0, 0, 10, 11)]
    first, later = block(0, 0, 10, 10), block(0, 0, 10, 11)
    assert coco_merge.merge([], [first, later]) == [later]  # mask IoU 0.91 > 0.85: the earlier goes
    far = block(0, 0, 10, 13)
    assert coco_merge.merge([], [first, far]) == [first, far]  # 0.77
    assert coco_merge.merge([first], [far]) == [far]  # 0.77 > 0.70 between COCO and LVIS


def block_of(*box: int) -> object:
    return Same(block(*box))


class Same:
    """Equal to a region of the same box and pixels."""

    def __init__(self, item: Region) -> None:
        self.item = item

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Region) and other.box == self.item.box and np.array_equal(other.mask, self.item.mask)

    __hash__ = None  # type: ignore[assignment]


def test_stuff_loses_the_things() -> None:
    ground = block(0, 0, 30, 30)
    (rest,) = coco_merge.free_stuff([ground, block(0, 0, 22, 22)], [block(0, 0, 10, 10)], SIZE, SIZE)
    assert rest.area == 800  # the second has 384 left, not over 500


def test_row() -> None:
    things, stuff = [block(0, 0, 20, 20), block(2, 2, 8, 8)], [block(25, 0, 10, 30)]
    ignore = np.zeros((SIZE, SIZE), bool)
    row = build_row("a", b"image", (SIZE, SIZE), things, stuff, tree=[-1, 0], ignore=ignore, source="test")
    assert [(o.area, o.parent, o.kind) for o in row.objects] == [
        (400, -1, "thing"),
        (64, 0, "thing"),
        (300, -1, "stuff"),
    ]
    assert len(row.layers) == 2 and row.ignore is None  # an empty ignore map is none
    for item, info in zip([*things, *stuff], row.objects, strict=True):
        np.testing.assert_array_equal(decode_map(row.layers[info.layer]) == info.label, full(item))
