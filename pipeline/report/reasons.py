"""Why an object went badly, in words: what its own curve of IoUs and its own ground truth say."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

SMALL = 32 * 32  # pixels: what COCO calls small
SMALL_SHARE = 0.05  # of the image that such an object covers at the most
TINY_SHARE = 0.002  # of the image below which an object is small whatever its pixels
WRONG_START = 0.3  # IoU below which the first clicks went wrong
LOSS = 0.05  # of IoU at one click that is worth telling
GAIN = 0.01  # of the best IoU that counts as going on
STANDSTILL = 5  # clicks without a gain that are worth telling
PART = 0.01  # share of the object that counts as a part of its own
THIN = 0.25  # width over the square root of the area; a bar of 1 x 16 has this, a square 1, a disk 1.1


def reasons(ious: Sequence[float], truth: np.ndarray, level: float = 0.9) -> list[str]:
    """What made an object hard, the outcome first.

    Args:
        ious: after each click, at least one.
        truth: (H, W) int8 {1, 0, -1}.
        level: IoU that the object should have reached.

    Returns:
        Phrases without a full stop; the first says how far it came.
    """
    return [_outcome(ious, level), *_of_curve(ious), *_of_object(truth == 1)]


def _outcome(ious: Sequence[float], level: float) -> str:
    reached = next((k for k, iou in enumerate(ious, 1) if iou >= np.float32(level)), 0)
    if reached:
        return f"reached IoU {level:.2f} at click {reached}"
    best = int(np.argmax(ious))
    return f"never reached IoU {level:.2f}: best {ious[best]:.2f} at click {best + 1}"


def _of_curve(ious: Sequence[float]) -> list[str]:
    """A wrong start, the click that lost most, and from where on nothing was gained."""
    found = []
    wrong = next((k for k, iou in enumerate(ious) if iou >= WRONG_START), len(ious))
    if wrong == 1 < len(ious):
        found.append(f"the first click went wrong: IoU@1 {ious[0]:.2f}")
    elif wrong == len(ious):
        found.append(f"no click brought IoU {WRONG_START:.2f}: IoU@1 {ious[0]:.2f}")
    elif wrong > 1:
        found.append(f"the first {wrong} clicks went wrong: IoU@1 {ious[0]:.2f}, IoU@{wrong} {ious[wrong - 1]:.2f}")
    drops = np.diff(np.asarray(ious, np.float64))
    if len(drops) and drops.min() <= -LOSS:
        k = int(drops.argmin()) + 1
        found.append(f"it lost IoU after click {k}: {ious[k - 1]:.2f} to {ious[k]:.2f}")
    best = np.maximum.accumulate(np.asarray(ious, np.float64))
    last = int(np.argmax(best >= best[-1] - GAIN)) + 1
    if len(ious) - last >= STANDSTILL:
        found.append(f"clicks {last + 1} to {len(ious)} gained nothing")
    return found


def _of_object(mask: np.ndarray) -> list[str]:
    """Small, in parts, thin, at the border: of an (H, W) bool mask."""
    area = int(np.count_nonzero(mask))
    if not area:
        return []
    found = []
    share = area / mask.size
    if (area < SMALL and share < SMALL_SHARE) or share < TINY_SHARE:
        of_image = f"{share:.2%}" if share >= 0.0001 else "less than 0.01%"
        found.append(f"small object of {area:,} pixel{'s' if area > 1 else ''} ({of_image} of the image)")
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = np.pad(mask[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1].astype(np.uint8), 1)
    _, _, stats, _ = cv2.connectedComponentsWithStats(box, connectivity=8)
    parts = int(np.count_nonzero(stats[1:, cv2.CC_STAT_AREA] >= PART * area))
    if parts > 1:
        found.append(f"{parts} separate parts")
    width = 2 * float(cv2.distanceTransform(box, cv2.DIST_L2, 5).max()) - 1
    if width < THIN * area**0.5:
        found.append(f"thin: nowhere wider than {max(1, round(width))} pixels")
    sides = {"top": mask[0], "bottom": mask[-1], "left": mask[:, 0], "right": mask[:, -1]}
    if touched := [side for side, line in sides.items() if line.any()]:
        found.append(f"it touches the border of the image ({', '.join(touched)})")
    return found
