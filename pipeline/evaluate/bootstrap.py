"""Percentile bootstrap of paired differences: how far the objects that were drawn decide a mean."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SEED = 0
INTERVAL = (2.5, 97.5)  # percentiles
_CHUNK = 1 << 22  # drawn objects at a time


def interval(data_sets: Sequence[np.ndarray], resamples: int) -> np.ndarray:
    """95 % interval of the mean of the data sets' means; objects are drawn again within their data set.

    Args:
        data_sets: of each (objects, figures) differences; at least one object.

    Returns:
        (2, figures): low and high.
    """
    rng = np.random.default_rng(SEED)
    means = [_drawn_means(np.asarray(values, np.float64), resamples, rng) for values in data_sets]
    return np.percentile(np.mean(means, axis=0), INTERVAL, axis=0)


def _drawn_means(values: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """(resamples, figures) means of as many objects as there are, drawn with replacement."""
    count = len(values)
    means = []
    size = max(1, _CHUNK // count)
    for start in range(0, resamples, size):
        means.append(times_drawn(count, min(size, resamples - start), rng) @ values / count)
    return np.concatenate(means)


def times_drawn(count: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """(resamples, count) float64: how often each of `count` things is drawn in `count` draws with replacement."""
    drawn = rng.integers(count, size=(resamples, count)) + count * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * count).reshape(resamples, count).astype(np.float64)
