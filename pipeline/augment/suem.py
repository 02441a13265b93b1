"""SUEM copy-paste: Simple, Union, Exclusion and Mixing, and the translucent distractor (arXiv 2303.05620, section 3.3).

One function per mode; `suem` draws which of them happen. Pastes keep pixel positions, alpha weighs this sample and
1 - alpha the donor, blends are rounded. All samples have the same size; inputs are never changed. The pixels that this
sample ignores stay ignored whatever is pasted there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np

from pipeline.clicks.sampling import choose
from pipeline.config import Clicks, Suem
from pipeline.data.schema import ObjectInfo, Sample

Donors = Callable[[np.random.Generator], Sample]
"""Draws another augmented sample, uniformly."""


def blend(image: np.ndarray, other: np.ndarray, alpha: float) -> np.ndarray:
    """(H, W, 3) uint8: alpha * image + (1 - alpha) * other, rounded."""
    return cv2.addWeighted(image, alpha, other, 1.0 - alpha, 0.0)


def paste(source: np.ndarray, onto: np.ndarray, mask: np.ndarray, alpha: float = 1.0) -> np.ndarray:
    """(H, W, 3) uint8 copy of `onto` whose pixels under `mask` are alpha * source + (1 - alpha) * onto, rounded."""
    result = onto.copy()
    col, row, width, height = cv2.boundingRect(mask.view(np.uint8))
    if width:
        box = (slice(row, row + height), slice(col, col + width))
        pixels = source[box] if alpha == 1.0 else blend(source[box], onto[box], alpha)
        cv2.copyTo(pixels, mask[box].view(np.uint8), result[box])
    return result


def single_object(sample: Sample, image: np.ndarray, target: np.ndarray) -> Sample:
    """`sample` with another image and `target` (H, W bool) as its only object (none when it is empty)."""
    if sample.ignore is not None:
        target = target & ~sample.ignore
    area = int(np.count_nonzero(target))
    objects = [ObjectInfo(layer=0, label=1, parent=-1, area=area)] if area else []
    return replace(sample, image=image, layers=target[None].astype(np.uint8), objects=objects)


def simple(sample: Sample, target: np.ndarray, donor: Sample, alpha: float) -> Sample:
    """The target is blended onto the donor's image and is the only object."""
    return single_object(sample, paste(sample.image, donor.image, target, alpha), target)


def exclusion(sample: Sample, target: np.ndarray, donor: Sample, pasted: np.ndarray) -> Sample:
    """The donor's object `pasted` (H, W bool) covers the image; its pixels leave the target."""
    return single_object(sample, paste(donor.image, sample.image, pasted), target & ~pasted)


def union(sample: Sample, target: np.ndarray, donor: Sample, pasted: np.ndarray) -> Sample:
    """The donor's object covers the image; the target becomes the union of both."""
    return single_object(sample, paste(donor.image, sample.image, pasted), target | pasted)


def distractor(sample: Sample, target: np.ndarray, donor: Sample, pasted: np.ndarray, alpha: float) -> Sample:
    """The donor's object lies translucent over the image; the target stays as it is."""
    return single_object(sample, paste(donor.image, sample.image, pasted, 1.0 - alpha), target)


def mixing(sample: Sample, donor: Sample, alpha: float) -> Sample:
    """The whole image is blended with the donor's; objects stay as they are."""
    return replace(sample, image=blend(sample.image, donor.image, alpha))


def find_donor(
    target: np.ndarray, donors: Donors, config: Suem, clicks: Clicks, rng: np.random.Generator
) -> tuple[Sample, np.ndarray] | None:
    """A donor and the (H, W bool) pixels of its chosen object that leave enough of the target uncovered.

    At most `max_donors` are tried. A donor without objects covers nothing: it is accepted, and pastes nothing. An empty
    target finds no donor.
    """
    for _ in range(config.max_donors):
        donor = donors(rng)
        pasted = choose(donor, clicks, rng).target
        if np.count_nonzero(target & ~pasted) > config.min_uncovered:
            return donor, pasted
    return None


def suem(sample: Sample, donors: Donors, config: Suem, clicks: Clicks, rng: np.random.Generator) -> Sample:
    """Draw and apply the three stages, in this order; more than one can happen.

    1. `simple_prob`: `simple`. 2. `paste_prob`: `exclusion`, `union` or `distractor` with an object of a donor that
    leaves the target visible; when none of `max_donors` does, the sample stays as it is. 3. `mix_prob`: `mixing`.

    Args:
        sample: augmented sample.
        donors: draws other augmented samples of the same size.
        config: probabilities of the stages, shares of the modes, range of alpha.
        clicks: rule of object choice, also for the donors' objects.
        rng: generator of this sample and stage.
    """
    if rng.random() < config.simple_prob:
        target = choose(sample, clicks, rng).target
        sample = simple(sample, target, donors(rng), rng.uniform(config.alpha_min, 1.0))
    if rng.random() < config.paste_prob:
        target = choose(sample, clicks, rng).target
        found = find_donor(target, donors, config, clicks, rng)
        if found is not None:
            sample = _combine(sample, target, *found, config, rng)
    if rng.random() < config.mix_prob:
        sample = mixing(sample, donors(rng), rng.uniform(config.alpha_min, 1.0))
    return sample


def _combine(
    sample: Sample, target: np.ndarray, donor: Sample, pasted: np.ndarray, config: Suem, rng: np.random.Generator
) -> Sample:
    weights = np.array([config.exclusion_weight, config.union_weight, config.distractor_weight])
    mode = int(rng.choice(3, p=weights / weights.sum()))
    if mode == 0:
        return exclusion(sample, target, donor, pasted)
    if mode == 1:
        return union(sample, target, donor, pasted)
    return distractor(sample, target, donor, pasted, rng.uniform(config.alpha_min, 1.0))
