"""What the clicks were worth: IoU, NoC, NoF and IoU curves.

Thresholds follow the published evaluation: `numpy.arange(0.8, min(0.95, target) + 0.001, 0.05)`, so 85 % is
0.8500000000000001 and 95 % is 0.9500000000000002 in double precision. An object's IoUs are stored as float32 and are
compared with the threshold rounded to float32, where both are the nearest float32 to 0.85 and 0.95: an IoU of exactly
19/20 counts as 95 %. While clicking, the stop rule compares the double precision IoU with the target itself (0.95).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

IOU_LEVELS = (80, 85, 90, 95)
IOU_AT = (1, 3, 5, 10, 20)
_FIRST, _STEP = 0.8, 0.05


def iou(truth: np.ndarray, mask: np.ndarray) -> float:
    """Intersection over union outside of ignored pixels, double precision.

    Args:
        truth: (H, W) int8, 1 object, 0 background, -1 ignore; holds at least one object pixel.
        mask: (H, W) bool.
    """
    inside = truth == 1
    intersection = np.count_nonzero(inside & mask)
    union = np.count_nonzero((inside | mask) & (truth != -1))
    return float(intersection / union)


def levels(target_iou: float) -> list[int]:
    """The levels, in percent, that can be reported for runs that stop at `target_iou`."""
    return list(IOU_LEVELS[: len(np.arange(_FIRST, min(0.95, target_iou) + 0.001, _STEP))])


def threshold(level: int) -> np.float32:
    """The float32 that IoUs are compared with for a level in percent."""
    return np.float32(np.arange(_FIRST, 0.951, _STEP)[IOU_LEVELS.index(level)])


def noc(ious: Sequence[float] | np.ndarray, level: int, max_clicks: int) -> int:
    """Number of clicks to the first IoU of at least `level` percent; max_clicks when never."""
    reached = np.asarray(ious, np.float32) >= threshold(level)
    return int(np.argmax(reached)) + 1 if reached.any() else max_clicks


def hold(curves: Sequence[Sequence[float] | np.ndarray], max_clicks: int) -> np.ndarray:
    """IoU curves of equal length: an object that stopped early holds its last IoU.

    Args:
        curves: per object 1..max_clicks IoUs.

    Returns:
        (objects, max_clicks) float32.
    """
    held = np.zeros((len(curves), max_clicks), np.float32)
    for row, curve in zip(held, curves, strict=True):
        row[: len(curve)] = curve
        row[len(curve) :] = curve[-1]
    return held


def summarize(curves: Sequence[Sequence[float] | np.ndarray], max_clicks: int, target_iou: float) -> dict[str, Any]:
    """Data-set figures of one setting.

    Args:
        curves: per object its IoUs, one per click; at least one object.

    Returns:
        objects; noc, noc_std (population) and nof {"80": ...} for the levels up to the target, nof counting objects
        whose NoC equals max_clicks, reached at the last click included; iou_at {"1": ...}; mean_iou, one per click.
    """
    held = hold(curves, max_clicks)
    mean_iou = held.mean(axis=0, dtype=np.float64)
    figures: dict[str, dict[str, float]] = {"noc": {}, "noc_std": {}, "nof": {}}
    for level in levels(target_iou):
        counts = np.array([noc(curve, level, max_clicks) for curve in curves])
        figures["noc"][str(level)] = float(counts.mean())
        figures["noc_std"][str(level)] = float(counts.std())
        figures["nof"][str(level)] = int(np.count_nonzero(counts == max_clicks))
    return {
        "objects": len(curves),
        **figures,
        "iou_at": {str(k): float(mean_iou[k - 1]) for k in IOU_AT if k <= max_clicks},
        "mean_iou": [float(v) for v in mean_iou],
    }


def expected_iou(probability: np.ndarray, mask: np.ndarray) -> float:
    """IoU that a mask can expect if every pixel belongs to the object with its probability: the ratio of the expected
    intersection and the expected union. 1 for an empty mask where nothing is expected.

    Args:
        probability: (H, W) float32.
        mask: (H, W) bool.
    """
    rows = np.flatnonzero(mask.any(axis=1))  # most of a large photograph is not mask
    some = slice(rows[0], rows[-1] + 1) if rows.size else slice(0)
    inside = float(probability[some][mask[some]].sum(dtype=np.float64))
    outside = max(0.0, float(probability.sum(dtype=np.float64)) - inside)
    union = int(np.count_nonzero(mask)) + outside
    return inside / union if union else 1.0
