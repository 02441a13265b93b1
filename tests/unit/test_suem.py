"""SUEM: pixels and set algebra of each mode, the search for a donor, the order of the stages."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.augment import suem as module
from pipeline.augment.suem import distractor, exclusion, find_donor, mixing, paste, simple, suem, union
from pipeline.config import Clicks, Suem
from pipeline.data.schema import ObjectInfo, Sample
from pipeline.errors import UserError

CLICKS = Clicks(max_points=6)
OFF = Suem(simple_prob=0.0, paste_prob=0.0, mix_prob=0.0)
SEEDS = st.integers(0, 10**6)
ROUNDED = 0.5 + 1e-4  # OpenCV blends in float32


def blob(rng: np.random.Generator) -> np.ndarray:
    top, left = rng.integers(0, 30, 2)
    mask = np.zeros((40, 48), bool)
    mask[top : top + rng.integers(1, 25), left : left + rng.integers(1, 25)] = True
    return mask


def make(rng: np.random.Generator, objects: int = 2, ignore: bool = False) -> Sample:
    masks = [blob(rng) for _ in range(objects)]
    layers = np.stack(masks).astype(np.uint8) if masks else np.zeros((1, 40, 48), np.uint8)
    infos = [ObjectInfo(i, 1, -1, int(m.sum())) for i, m in enumerate(masks)]
    image = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
    return Sample(image, layers, infos, rng.random((40, 48)) < 0.1 if ignore else None)


def result_target(sample: Sample) -> np.ndarray:
    """The only object of a result; empty when there is none."""
    assert len(sample.objects) <= 1
    target = sample.mask(0) if sample.objects else np.zeros(sample.image.shape[:2], bool)
    assert not sample.objects or sample.objects[0].area == target.sum()
    assert np.array_equal(sample.layers.any(axis=0), target)
    return target


def mixed(a: np.ndarray, b: np.ndarray, alpha: float) -> np.ndarray:
    return alpha * a.astype(np.float64) + (1 - alpha) * b


@given(SEEDS, st.floats(0.5, 1.0), st.booleans())
def test_modes(seed: int, alpha: float, with_ignore: bool) -> None:
    rng = np.random.default_rng(seed)
    sample, donor = make(rng, ignore=with_ignore), make(rng)
    target, pasted = blob(rng), blob(rng)
    free = np.ones_like(target) if sample.ignore is None else ~sample.ignore
    before = [a.copy() for a in (sample.image, sample.layers, donor.image, donor.layers, target, pasted)]

    one = simple(sample, target, donor, alpha)
    assert np.array_equal(result_target(one), target & free)
    expected = np.where(target[..., None], mixed(sample.image, donor.image, alpha), donor.image)
    assert np.abs(one.image - expected).max() <= ROUNDED  # rounded to the nearest

    out, both = exclusion(sample, target, donor, pasted), union(sample, target, donor, pasted)
    assert np.array_equal(result_target(out), target & ~pasted & free)
    assert np.array_equal(result_target(both), (target | pasted) & free)
    opaque = np.where(pasted[..., None], donor.image, sample.image)
    assert np.array_equal(out.image, opaque) and np.array_equal(both.image, opaque)

    veil = distractor(sample, target, donor, pasted, alpha)
    assert np.array_equal(result_target(veil), target & free)
    expected = np.where(pasted[..., None], mixed(sample.image, donor.image, alpha), sample.image)
    assert np.abs(veil.image - expected).max() <= ROUNDED

    blend = mixing(sample, donor, alpha)
    assert np.abs(blend.image - mixed(sample.image, donor.image, alpha)).max() <= ROUNDED
    assert blend.objects == sample.objects and blend.layers is sample.layers

    for changed in (one, out, both, veil, blend):
        assert changed.ignore is sample.ignore
    after = (sample.image, sample.layers, donor.image, donor.layers, target, pasted)
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_paste_of_nothing_is_a_copy() -> None:
    rng = np.random.default_rng(0)
    a, b = make(rng).image, make(rng).image
    result = paste(a, b, np.zeros((40, 48), bool))
    assert np.array_equal(result, b) and not np.shares_memory(result, b)


def with_mask(mask: np.ndarray) -> Sample:
    return Sample(
        np.zeros((*mask.shape, 3), np.uint8), mask[None].astype(np.uint8), [ObjectInfo(0, 1, -1, int(mask.sum()))]
    )


class TestFindDonor:
    rng = np.random.default_rng(1)
    target = np.zeros((40, 48), bool)
    target[5:15, 5:15] = True

    def search(self, donors: list[Sample]) -> tuple[tuple[Sample, np.ndarray] | None, int]:
        left = list(donors)
        return find_donor(self.target, lambda _: left.pop(0), Suem(), CLICKS, self.rng), len(donors) - len(left)

    def covering(self, uncovered: int) -> Sample:
        mask = np.ones_like(self.target)
        mask[tuple(np.argwhere(self.target)[:uncovered].T)] = False
        return with_mask(mask)

    def test_takes_the_first_that_leaves_more_than_20_pixels(self) -> None:
        found, tried = self.search([self.covering(0), self.covering(20), self.covering(21), self.covering(50)])
        assert found is not None and tried == 3
        assert np.count_nonzero(self.target & ~found[1]) == 21

    def test_gives_up_after_five(self) -> None:
        found, tried = self.search([self.covering(3)] * 9)
        assert found is None and tried == 5

    def test_donor_without_objects_ends_the_search(self) -> None:
        empty = replace(self.covering(0), objects=[])
        found, tried = self.search([self.covering(0), empty, self.covering(50)])
        assert found is not None and tried == 2 and not found[1].any()


def test_after_five_failures_all_objects_stay() -> None:
    rng = np.random.default_rng(2)
    sample = make(rng, objects=3)
    cover = with_mask(np.ones((40, 48), bool))
    result = suem(sample, lambda _: cover, replace(OFF, paste_prob=1.0), CLICKS, rng)
    assert result is sample


@pytest.mark.parametrize(("mode", "name"), [(0, "exclusion"), (1, "union"), (2, "distractor")])
def test_mode_weights(mode: int, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {f"{n}_weight": float(i == mode) for i, n in enumerate(("exclusion", "union", "distractor"))}
    config = replace(OFF, paste_prob=1.0, **weights)
    called = []
    real = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *args: called.append(name) or real(*args))
    sample, donor = with_mask(np.tri(40, 48, dtype=bool)), with_mask(np.eye(40, 48, dtype=bool))
    for seed in range(10):
        suem(sample, lambda _: donor, config, CLICKS, np.random.default_rng(seed))
    assert called == [name] * 10


@given(SEEDS, st.integers(0, 3))
def test_never_empties_a_target_and_is_reproducible(seed: int, objects: int) -> None:
    samples = [make(np.random.default_rng((seed, i)), objects=(objects + i) % 4, ignore=i == 2) for i in range(4)]
    samples[0] = make(np.random.default_rng(seed), objects)

    def run() -> Sample:
        rng = np.random.default_rng((seed, 9))
        return suem(samples[0], lambda r: samples[r.integers(4)], Suem(), CLICKS, rng)

    first, again = run(), run()
    assert np.array_equal(first.image, again.image) and np.array_equal(first.layers, again.layers)
    assert first.objects == again.objects
    assert not objects or first.objects


def test_mixing_comes_last_and_keeps_the_objects() -> None:
    rng = np.random.default_rng(4)
    sample, donor = make(rng, 3), make(rng, 1)
    result = suem(sample, lambda _: donor, replace(OFF, mix_prob=1.0), CLICKS, rng)
    assert result.objects == sample.objects and not np.array_equal(result.image, sample.image)
    assert suem(sample, lambda _: donor, OFF, CLICKS, rng) is sample


def test_weights_must_not_all_be_zero() -> None:
    with pytest.raises(UserError):
        Suem(exclusion_weight=0, union_weight=0, distractor_weight=0)
