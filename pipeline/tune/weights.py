"""Weights of the iterative click loss as a number and a shape, so that they can be searched.

    loss.weights.count   T, how many clicks have a loss
    loss.weights.shape   flat 1, 1, 1; linear 1, 2, 3 (published); geometric 1, r, r^2; free
    loss.weights.ratio   r of the geometric shape
    loss.weights.free_K  weight of click K of the free shape

These names exist in search spaces only; `weights_of` turns them into `loss.weights`. Weights are not normalised (paper:
w = 1, 2, 3): Adam's step does not depend on the loss's scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

NAME = "loss.weights"
COUNT, SHAPE, RATIO = f"{NAME}.count", f"{NAME}.shape", f"{NAME}.ratio"
MOST = 8  # clicks with a weight
FREE = tuple(f"{NAME}.free_{k}" for k in range(1, MOST + 1))
SHAPES = ("flat", "linear", "geometric", "free")
NAMES = (COUNT, SHAPE, RATIO, *FREE)


def weights_of(values: Mapping[str, Any]) -> tuple[float, ...]:
    """`loss.weights` of a count and a shape.

    Args:
        values: COUNT and SHAPE, and what the shape needs.
    """
    count, shape = int(values[COUNT]), values[SHAPE]
    match shape:
        case "flat":
            return (1.0,) * count
        case "linear":
            return tuple(float(k) for k in range(1, count + 1))
        case "geometric":
            return tuple(float(values[RATIO] ** k) if k else 1.0 for k in range(count))
        case "free":
            return tuple(float(values[name]) for name in FREE[:count])
    raise ValueError(f"{shape!r} is no shape of weights")


def names_of(weights: Sequence[float]) -> dict[str, Any]:
    """Inverse of `weights_of`: the simplest shape that gives these weights, MOST of them at most."""
    count = len(weights)
    found: dict[str, Any] = {COUNT: count}
    if all(w == 1 for w in weights) and count > 1:
        return {**found, SHAPE: "flat"}
    if list(weights) == list(range(1, count + 1)):
        return {**found, SHAPE: "linear"}
    if count > 1 and weights[0] == 1 and weights[1] > 0:
        ratio = float(weights[1])
        if all(math.isclose(w, ratio**k, rel_tol=1e-12) for k, w in enumerate(weights)):
            return {**found, SHAPE: "geometric", RATIO: ratio}
    return {**found, SHAPE: "free", **dict(zip(FREE, map(float, weights)))}
