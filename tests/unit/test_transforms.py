"""Geometry against the plain chain of operations, colour tables, redrawing, the area and stuff rules, ignore maps."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from pipeline.augment.transforms import Geometry, augment, colour_table, crop_sample, drop_objects, recolour
from pipeline.config import Data
from pipeline.data.schema import ObjectInfo, Sample

CROP = 64
COCO = Data(crop=CROP, min_object_area=1, keep_background_prob=0.0, stuff_prob=0.0)
SBD = replace(COCO, augmentation="sbd", resize=(0.75, 1.25))


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.blur(noise, (3, 3))


def plain(pixels: np.ndarray, draw: Geometry, nearest: bool) -> np.ndarray:
    """The chain one whole image after another: resize, flip, turn, shift and rotate, pad, crop."""
    height, width = draw.size
    mode = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    pixels = cv2.resize(pixels, (width, height), interpolation=mode)
    if draw.flip is not None:
        axes = {0: (0,), 1: (1,), -1: (0, 1)}[draw.flip]
        pixels = np.flip(pixels, axes)
    pixels = np.ascontiguousarray(np.rot90(pixels, draw.turns))
    if draw.matrix is not None:
        pixels = cv2.warpAffine(pixels, draw.matrix, pixels.shape[1::-1], flags=mode)
    missing = [max(0, draw.crop - side) for side in pixels.shape[:2]]
    pads = [(m // 2, m - m // 2) for m in missing] + [(0, 0)] * (pixels.ndim - 2)
    pixels = np.pad(pixels, pads)
    top, left = (int((side - draw.crop) * u) for side, u in zip(pixels.shape[:2], draw.place, strict=True))
    return pixels[top : top + draw.crop, left : left + draw.crop]


@pytest.mark.parametrize("data", [COCO, SBD], ids=["coco-lvis", "sbd"])
@pytest.mark.parametrize("shape", [(100, 120), (50, 130), (47, 41), (90, 51)])
def test_geometry_equals_the_plain_chain(data: Data, shape: tuple[int, int]) -> None:
    image, labels = picture(*shape), picture(*shape, seed=1)[..., 0].copy()
    for seed in range(60):
        draw = Geometry.draw(shape, data, np.random.default_rng(seed))
        result = draw.apply(image, nearest=False)
        assert np.array_equal(result, plain(image, draw, nearest=False))
        assert np.array_equal(draw.apply(labels, nearest=True), plain(labels, draw, nearest=True))
        assert result.flags.c_contiguous and not np.shares_memory(result, image)


def test_draws_follow_their_families() -> None:
    def draws(data: Data) -> list[Geometry]:
        return [Geometry.draw((400, 500), data, np.random.default_rng((1, i))) for i in range(4000)]

    coco, sbd = draws(Data(crop=CROP)), draws(SBD)
    scales = np.array([d.size[0] / 400 for d in coco])
    assert 0.75 <= scales.min() < 0.77 and 1.38 < scales.max() <= 1.40
    assert {d.flip for d in coco} == {None, 1} and not any(d.turns or d.matrix is not None for d in coco)
    assert np.mean([d.flip == 1 for d in coco]) == pytest.approx(0.5, abs=0.04)
    for flip in (0, 1, -1):
        assert np.mean([d.flip == flip for d in sbd]) == pytest.approx(1 / 6, abs=0.03)
    assert [np.mean([d.turns == t for d in sbd]) for t in range(4)] == pytest.approx([5 / 8, *[1 / 8] * 3], abs=0.04)
    assert np.mean([d.matrix is not None for d in sbd]) == pytest.approx(0.75, abs=0.03)
    for d in sbd:
        if d.matrix is None:
            continue
        sides = d.size if d.turns % 2 == 0 else d.size[::-1]
        centre = np.array([sides[1] / 2, sides[0] / 2, 1.0])
        moved = (d.matrix @ centre - centre[:2]) / sides[::-1]
        assert np.abs(moved).max() <= 0.03 + 1e-9  # the rotation keeps the centre: what is left is the shift
        assert abs(np.degrees(np.arctan2(d.matrix[0, 1], d.matrix[0, 0]))) <= 3.0 + 1e-9


def test_colours_equal_the_formula() -> None:
    image = picture(40, 50)
    changed = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        bright, shifted = rng.random() < 0.75, rng.random() < 0.75
        expected = image
        if bright:
            brightness, contrast = rng.uniform(-0.25, 0.25), rng.uniform(-0.15, 0.40)
            values = expected.astype(np.float32) * np.float32(1 + contrast) + np.float32(255 * brightness)
            expected = np.clip(values, 0, 255).astype(np.uint8)
        if shifted:
            shift = rng.uniform(-10, 10, 3).astype(np.float32)
            expected = np.clip(expected.astype(np.float32) + shift, 0, 255).astype(np.uint8)
        assert np.array_equal(recolour(image, np.random.default_rng(seed)), expected)
        changed += colour_table(np.random.default_rng(seed)) is not None
    assert changed / 200 == pytest.approx(15 / 16, abs=0.06)


def with_objects(
    masks: list[np.ndarray], kinds: list[str] | None = None, parents: list[int] | None = None, seed: int = 0
) -> Sample:
    """All masks in one layer, later over earlier."""
    height, width = masks[0].shape
    labels = np.zeros((height, width), np.uint8)
    for i, mask in enumerate(masks):
        labels[mask] = i + 1
    objects = [
        ObjectInfo(0, i + 1, (parents or [-1] * len(masks))[i], int(m.sum()), (kinds or ["thing"] * len(masks))[i])  # type: ignore[arg-type]
        for i, m in enumerate(masks)
    ]
    return Sample(picture(height, width, seed), labels[None], objects, image_id="one")


def patch(top: int, left: int, height: int, width: int, shape: tuple[int, int] = (300, 320)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def test_redraws_until_an_object_shows() -> None:
    sample = with_objects([patch(10, 10, 25, 25)])
    for seed in range(30):
        assert crop_sample(sample, COCO, np.random.default_rng(seed)).objects
    kept = [crop_sample(sample, replace(COCO, keep_background_prob=1.0), np.random.default_rng(s)) for s in range(30)]
    assert any(not s.objects for s in kept)


@pytest.mark.parametrize("shape", [(100, 120), (50, 130), (47, 300)])
def test_the_quick_look_misses_no_object(shape: tuple[int, int]) -> None:
    misses = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        top, left, height, width = (int(rng.integers(n)) for n in (shape[0] - 5, shape[1] - 5, 5, 5))
        mask = patch(top, left, 1 + height, 1 + width, shape=shape)
        rows, cols = np.nonzero(mask)
        box = (int(rows.min()), int(cols.min()), int(rows.max()) + 1, int(cols.max()) + 1)
        draw = Geometry.draw(shape, COCO, rng)
        shown = draw.apply(mask.view(np.uint8), nearest=True).any()
        assert not shown or draw.may_show(box, shape)
        misses += not draw.may_show(box, shape)
    assert misses > 20


def test_image_without_objects_is_accepted_at_once() -> None:
    sample = replace(with_objects([patch(0, 0, 9, 9)]), objects=[])
    result = augment(sample, COCO, np.random.default_rng(0))
    assert result.objects == [] and not result.layers.any() and result.image.shape == (CROP, CROP, 3)


def test_small_objects_are_dropped_but_stay_labelled() -> None:
    sample = with_objects([patch(0, 0, 300, 300), patch(100, 100, 20, 20)], parents=[-1, 0])
    data = replace(COCO, min_object_area=1000, resize=(1.0, 1.0))
    seen = 0
    for seed in range(60):
        result = crop_sample(sample, data, np.random.default_rng(seed))
        assert all(o.area >= 1000 and o.area == result.mask(i).sum() for i, o in enumerate(result.objects))
        seen += bool((result.layers[0] == 2).any())
    assert seen > 0


def test_children_of_dropped_objects_move_to_their_parent() -> None:
    objects = [ObjectInfo(0, i + 1, parent, 9) for i, parent in enumerate([-1, 0, 1, 2, 1])]
    kept = drop_objects(objects, [True, False, False, True, True])
    assert [(o.label, o.parent) for o in kept] == [(1, -1), (4, 0), (5, 0)]
    assert [o.parent for o in drop_objects(objects, [False, True, True, True, True])] == [-1, 0, 1, 0]


def test_stuff_counts_in_its_share_of_the_draws() -> None:
    sample = with_objects([patch(0, 0, 300, 320), patch(20, 20, 260, 280)], kinds=["stuff", "thing"])
    results = [crop_sample(sample, replace(COCO, stuff_prob=0.3), np.random.default_rng(s)) for s in range(400)]
    counted = [any(o.kind == "stuff" for o in r.objects) for r in results]
    # With stuff at the border of every crop that shows some; without, its pixels are background.
    shows = [bool((r.layers[0] == 1).any()) for r in results]
    assert all(a == b for a, b in zip(counted, shows, strict=True))
    never = [crop_sample(sample, COCO, np.random.default_rng(s)) for s in range(50)]
    assert not any((r.layers[0] == 1).any() for r in never)
    always = [crop_sample(sample, replace(COCO, stuff_prob=1.0), np.random.default_rng(s)) for s in range(400)]
    possible = np.mean([any(o.kind == "stuff" for o in r.objects) for r in always])
    assert np.mean(counted) == pytest.approx(0.3 * possible, abs=0.07)


def test_ignored_pixels_have_no_label() -> None:
    sample = replace(with_objects([patch(0, 0, 300, 320)]), ignore=patch(0, 100, 300, 60))
    hidden = 0
    for seed in range(20):
        result = augment(sample, COCO, np.random.default_rng(seed))
        assert result.ignore is not None and result.ignore.dtype == bool
        assert not result.layers[:, result.ignore].any()
        assert result.objects[0].area == result.mask(0).sum()
        hidden += int(result.ignore.sum())
    assert hidden > 0


@pytest.mark.parametrize("data", [COCO, SBD], ids=["coco-lvis", "sbd"])
def test_same_generator_same_sample_and_input_untouched(data: Data) -> None:
    sample = with_objects([patch(20, 30, 200, 200), patch(60, 60, 50, 50)], parents=[-1, 0])
    before = sample.image.copy(), sample.layers.copy()
    one, two = (augment(sample, data, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(one.image, two.image) and np.array_equal(one.layers, two.layers)
    assert one.objects == two.objects and one.image_id == "one"
    assert np.array_equal(sample.image, before[0]) and np.array_equal(sample.layers, before[1])
