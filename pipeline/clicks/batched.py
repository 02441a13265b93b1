"""Clicks of many objects at once, as tensor operations: the next one, and what one may mend (see `clicks.simulate`).

Nothing here waits for the device but `next_clicks`, once, for its result. Distances are exact: squared integers, by two
separable passes of lower envelopes (Felzenszwalb and Huttenlocher, 2012, in the form of shifted minima), so that
clicks equal those of `simulate.next_click_center`, which takes the same maxima of their correctly rounded roots.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from pipeline.clicks.encode import Click

TRAIN_THRESHOLD = 0.49
LOOK = 8  # shifts between two looks at whether further ones can change anything; each look waits for the device


class Ended(NamedTuple):
    """What a click was worth, and the next one."""

    intersection: int
    union: int
    click: Click


def squared_distances(mask: torch.Tensor) -> torch.Tensor:
    """Squared distance of each true pixel to the nearest false one, outside the image counting as false.

    Args:
        mask: (N, H, W) bool.

    Returns:
        (N, H, W) int32, 0 where the mask is false.
    """
    height = mask.shape[1]
    rows = torch.arange(height, dtype=torch.int32, device=mask.device)[:, None]
    above = torch.where(mask, -1, rows).cummax(dim=1).values  # the last false pixel so far
    below = torch.where(mask, height, rows).flip(1).cummin(dim=1).values.flip(1)
    best = torch.minimum(rows - above, below - rows).square_()
    column = best.clone()
    for shift in range(1, mask.shape[2] + 1):
        if (shift - 1) % LOOK == 0 and shift * shift >= int(best.max()):
            break  # what is farther away than the largest distance lowers none
        away = shift * shift
        # Beyond the border there is nothing but false pixels, in whose columns the distance along the column is 0.
        best = torch.minimum(best, F.pad(column[:, :, shift:], (0, min(shift, mask.shape[2]))) + away)
        best = torch.minimum(best, F.pad(column[:, :, :-shift], (min(shift, mask.shape[2]), 0)) + away)
    return best


def next_clicks(truth: torch.Tensor, mask: torch.Tensor, clicks: Sequence[Sequence[Click]]) -> list[Ended]:
    """IoU counts and the next click of each object; as `metrics.iou` and `simulate.next_click_center` have them.

    Args:
        truth: (N, H, W) int8, 1 object, 0 background, -1 ignore. What objects of several sizes are padded with is no
            error: 0 where the mask is false, or -1.
        mask: (N, H, W) bool, the binary masks.
        clicks: earlier clicks of each object; their pixels are not clicked again.
    """
    count, height, width = truth.shape
    inside, background = truth == 1, truth == 0
    distance = squared_distances(torch.cat([inside & ~mask, background & mask])).view(2, count, height * width)
    places = [
        number * height * width + int(click.row) * width + int(click.col)
        for number, own in enumerate(clicks)
        for click in own
        if 0 <= int(click.row) < height and 0 <= int(click.col) < width
    ]
    if places:
        distance.view(2, -1)[:, torch.tensor(places, device=truth.device)] = 0
    # The first maximum in row-major order: of equal distances the one with the smallest index has the largest key.
    index = torch.arange(height * width, device=truth.device)
    key = (distance.long() * (height * width) + (height * width - 1 - index)).amax(dim=2)
    hit = (inside & mask).flatten(1).sum(1)
    union = ((inside | mask) & (truth != -1)).flatten(1).sum(1)
    missed, wrong, hits, unions = torch.stack([*key, hit, union]).cpu().tolist()  # one wait for the device
    keys = zip(missed, wrong, strict=True)
    return [Ended(*each) for each in zip(hits, unions, (_click(*k, height, width) for k in keys), strict=True)]


def _click(missed: int, wrong: int, height: int, width: int) -> Click:
    """The click of two keys: the larger distance, the wrong pixels' where they are equal; nothing wrong: (0, 0)."""
    (deep, rest), (other, other_rest) = divmod(missed, height * width), divmod(wrong, height * width)
    if deep > other:
        return Click(*divmod(height * width - 1 - rest, width), True)
    return Click(*divmod(height * width - 1 - other_rest, width), False) if other > 0 else Click(0, 0, False)


def training_errors(target: torch.Tensor, prob: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What a training click may mend (RITM's training rule).

    Args:
        target: (..., H, W), 1 object, 0 background, -1 ignore; ignored pixels count as background here.
        prob: (..., H, W) float32 probabilities of the last prediction.

    Returns:
        (missed, wrong), bool maps of the object's pixels that are not found and of other pixels that are.
    """
    inside = target == 1
    return inside & (prob < TRAIN_THRESHOLD), ~inside & (prob > TRAIN_THRESHOLD)
