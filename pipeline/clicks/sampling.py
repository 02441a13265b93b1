"""Object choice and first clicks of a training sample (RITM's multi-point sampler; docs/method.md, section 4).

Two steps: `choose` picks the target of a sample, `first_clicks` draws clicks for it; `sample_clicks` does both.
Regions are (H, W) bool. Ignored pixels never get a click.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import cv2
import numpy as np

from pipeline.clicks import encode
from pipeline.config import Clicks
from pipeline.data.schema import Sample

KERNEL = np.ones((3, 3), np.uint8)
FIRST_ORDER = 2  # Orders of the first clicks start here, as in the original
MIN_ERODED = 10  # An eroded region is used when it has more pixels than this
SMALL_CHILD = 0.10  # A child below this share of its node's area leaves the click region only
MAX_CUT = 3  # Children cut out of a node at most
STAY_PROB = 0.5  # Probability of staying at a node that has children


@dataclass(frozen=True)
class Selection:
    """The target of a sample.

    Attributes:
        target: (H, W) bool.
        positives: for each chosen object the region of its positive clicks (before erosion).
        required: regions that need a negative click (before erosion); only with the hierarchy.
    """

    target: np.ndarray
    positives: list[np.ndarray]
    required: list[np.ndarray] = field(default_factory=list)


def roots(sample: Sample) -> list[int]:
    """Indices of the objects without parent."""
    return [i for i, info in enumerate(sample.objects) if info.parent < 0]


def children(sample: Sample, node: int) -> list[int]:
    return [i for i, info in enumerate(sample.objects) if info.parent == node]


def choose(sample: Sample, clicks: Clicks, rng: np.random.Generator) -> Selection:
    """Choose the target: one root object, or with `merge_prob` several; with the hierarchy a part of each.

    A sample without objects gets an empty target and no positive region.
    """
    candidates = roots(sample)
    if not candidates:
        return Selection(np.zeros(sample.image.shape[:2], bool), [])
    most = min(len(candidates), clicks.max_merged)
    if most >= 2 and rng.random() < clicks.merge_prob:
        chosen = rng.choice(candidates, int(rng.integers(2, most + 1)), replace=False).tolist()
    else:
        chosen = [candidates[rng.integers(len(candidates))]]
    if clicks.use_hierarchy:
        parts = [_walk(sample, node, rng) for node in chosen]
    else:
        parts = [Selection(mask, [mask]) for mask in map(sample.mask, chosen)]
    if len(parts) == 1:
        return parts[0]
    target = np.logical_or.reduce([part.target for part in parts])
    # A region that another merged object covers belongs to the target: no negative click may be required there.
    required = [region & ~target for part in parts for region in part.required]
    return Selection(target, [region for part in parts for region in part.positives], required)


def _walk(sample: Sample, node: int, rng: np.random.Generator) -> Selection:
    """Walk down the object tree from `node`, cut some children out of the node reached."""
    below = children(sample, node)
    while below and rng.random() >= STAY_PROB:
        node = below[rng.integers(len(below))]
        below = children(sample, node)
    mask, info = sample.mask(node), sample.objects[node]
    target, region, required = mask.copy(), mask.copy(), []
    if info.parent >= 0:
        required.append(sample.mask(info.parent) & ~mask)
    for child in below:
        if sample.objects[child].area < SMALL_CHILD * info.area:
            region &= ~sample.mask(child)
    if below:
        count = int(rng.integers(min(len(below), MAX_CUT) + 1))
        for child in rng.choice(below, count, replace=False):
            cut = sample.mask(child)
            region &= ~cut
            target &= ~cut
            required.append(cut)
    return Selection(target, [region], required)


@lru_cache(maxsize=32)
def count_edges(size: int, gamma: float) -> np.ndarray:
    """Cumulative probabilities of k = 0..size-1 with weights gamma ** k."""
    weights = gamma ** np.arange(size, dtype=np.float64)
    edges = np.cumsum(weights / weights.sum())
    edges[-1] = 1.0
    return edges


def _count(size: int, gamma: float, rng: np.random.Generator) -> int:
    return int(np.searchsorted(count_edges(size, gamma), rng.random(), side="right"))


class _Pixels:
    """The pixels of a region that may never be asked for: made and counted on first use."""

    def __init__(self, make: Callable[[], np.ndarray]) -> None:
        self._make = make
        self._region: np.ndarray | None = None
        self._ends = np.zeros(0, np.int64)  # (H,) pixels of the region up to the end of each row

    def draw(self, count: int, rng: np.random.Generator) -> list[tuple[int, int]]:
        """`count` pixels (row, col), uniformly with replacement; none when the region is empty."""
        if count == 0:
            return []
        if self._region is None:
            self._region = self._make()
            # Counted by row, because a list of all pixels takes as long as everything else here.
            by_row = cv2.reduce(self._region.view(np.uint8), 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S)
            self._ends = np.cumsum(by_row[:, 0], dtype=np.int64)
        total = int(self._ends[-1])
        if total == 0:
            return []
        drawn = rng.integers(total, size=count)
        rows = np.searchsorted(self._ends, drawn, side="right").tolist()
        left = (self._ends[rows] - drawn).tolist()  # how many from the row's last pixel back
        return [(row, int(np.flatnonzero(self._region[row])[-back])) for row, back in zip(rows, left, strict=True)]


@dataclass(frozen=True)
class _Source:
    """Regions that clicks are drawn from with given shares; `at_least_one`: 1 + k clicks, else k."""

    regions: Sequence[_Pixels]
    shares: Sequence[float]
    at_least_one: bool

    def draw(self, count: int, rng: np.random.Generator) -> list[tuple[int, int]]:
        if len(self.regions) == 1:
            return self.regions[0].draw(count, rng)
        counts = rng.multinomial(count, self.shares)
        pixels = [p for region, n in zip(self.regions, counts, strict=True) for p in region.draw(int(n), rng)]
        return [pixels[i] for i in rng.permutation(len(pixels))]


def _draw_points(sources: list[_Source], clicks: Clicks, rng: np.random.Generator) -> list[tuple[int, int]]:
    """At most N pixels: of one source its own clicks; of several one each, then k from an equal mix of them all."""
    most = clicks.max_points
    sources = sources[:most]
    own: list[list[tuple[int, int]]] = []
    for source in sources:
        if source.at_least_one:
            count = 1 + _count(most, clicks.gamma, rng)
        else:
            count = _count(most + 1, clicks.gamma, rng)
        own.append(source.draw(count, rng))
    own = [points for points in own if points]
    if len(own) <= 1:
        return own[0] if own else []
    regions = [region for source in sources for region in source.regions]
    shares = [share / len(sources) for source in sources for share in source.shares]
    more = _Source(regions, shares, False).draw(_count(most + 1, clicks.gamma, rng), rng)
    return ([points[0] for points in own] + more)[:most]


def eroded(region: np.ndarray, clicks: Clicks, rng: np.random.Generator) -> np.ndarray:
    """(H, W) bool: with `erode_prob` the region eroded by 3x3 `erode_iters` times (not at the image border).

    An erosion that leaves 10 pixels or fewer is not used.
    """
    if rng.random() >= clicks.erode_prob:
        return region
    box = _box(region, 1)
    inner = cv2.erode(region[box].view(np.uint8), KERNEL, iterations=clicks.erode_iters)
    if cv2.countNonZero(inner) <= MIN_ERODED:
        return region
    result = np.zeros_like(region)
    result[box] = inner
    return result


def border_band(target: np.ndarray, ratio: float) -> np.ndarray:
    """(H, W) bool: pixels outside the target within ceil(ratio * sqrt(area)) pixels of it (square neighbourhood)."""
    width = int(np.ceil(ratio * np.sqrt(np.count_nonzero(target))))
    if width == 0:
        return np.zeros_like(target)
    box = _box(target, width)
    band = np.zeros_like(target)
    band[box] = cv2.dilate(target[box].view(np.uint8), KERNEL, iterations=width)
    return band & ~target


def _box(region: np.ndarray, margin: int) -> tuple[slice, slice]:
    """Bounding box of a region, wider by `margin` on every side, inside the image."""
    col, row, width, height = cv2.boundingRect(region.view(np.uint8))
    return (slice(max(row - margin, 0), row + height + margin), slice(max(col - margin, 0), col + width + margin))


def _labelled(sample: Sample) -> np.ndarray:
    """(H, W) bool: pixels of any object, those too small to be chosen included."""
    return np.bitwise_or.reduce(sample.layers, axis=0) > 0


def first_clicks(sample: Sample, selection: Selection, clicks: Clicks, rng: np.random.Generator) -> np.ndarray:
    """(2N, 3) float32 clicks for a target, encoded as in `clicks.encode`; orders count from 2 up."""
    target, free = selection.target, None if sample.ignore is None else ~sample.ignore

    def region_source(region: np.ndarray) -> _Source:
        shape = eroded(region if free is None else region & free, clicks, rng)
        return _Source([_Pixels(lambda: shape)], [1.0], True)

    def allowed(make: Callable[[], np.ndarray]) -> _Pixels:
        return _Pixels(lambda: make() if free is None else make() & free)

    if selection.positives:
        outside = allowed(lambda: ~target)
        all_chosen = len(sample.objects) <= len(selection.positives)
        other = outside if all_chosen else allowed(lambda: _labelled(sample) & ~target)
        negative_regions = [outside, other, allowed(lambda: border_band(target, clicks.border_ratio))]
    else:
        negative_regions = [allowed(lambda: ~_labelled(sample))] * 3
    shares = [clicks.negative_background, clicks.negative_other, clicks.negative_border]
    positives = _draw_points([region_source(region) for region in selection.positives], clicks, rng)
    required = [region_source(region) for region in selection.required]
    negatives = _draw_points([*required, _Source(negative_regions, shares, False)], clicks, rng)
    return _encode(positives, negatives, clicks, rng)


def _encode(
    positives: list[tuple[int, int]], negatives: list[tuple[int, int]], clicks: Clicks, rng: np.random.Generator
) -> np.ndarray:
    points = encode.empty(clicks.max_points)
    orders = np.arange(FIRST_ORDER, FIRST_ORDER + len(positives) + len(negatives))
    if clicks.shuffle_order:
        rng.shuffle(orders)
    for first, pixels, numbers in (
        (0, positives, orders[: len(positives)]),
        (clicks.max_points, negatives, orders[len(positives) :]),
    ):
        if pixels:
            points[first : first + len(pixels), :2] = pixels
            points[first : first + len(pixels), 2] = numbers
    return points


def sample_clicks(sample: Sample, clicks: Clicks, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Target and first clicks of an augmented sample.

    Returns:
        target: (H, W) int8, 1 object, 0 background, -1 ignore.
        points: (2N, 3) float32, N = clicks.max_points.
    """
    selection = choose(sample, clicks, rng)
    points = first_clicks(sample, selection, clicks, rng)
    target = selection.target.astype(np.int8)
    if sample.ignore is not None:
        target[sample.ignore] = -1
    return target, points
