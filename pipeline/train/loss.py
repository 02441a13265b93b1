"""Normalized focal loss (RITM, section 3.3; AdaptIS, arXiv 1909.07829)."""

from __future__ import annotations

import torch


def normalized_focal_loss(
    logits: torch.Tensor, target: torch.Tensor, alpha: float = 0.5, gamma: float = 2.0
) -> torch.Tensor:
    """NFL per sample, always computed in float32.

    Args:
        logits: (B, 1, H, W).
        target: (B, 1, H, W), 1 object, 0 background, -1 ignore.
        alpha: weight of the object's pixels; the background has 1 - alpha.
        gamma: focusing exponent.

    Returns:
        (B,) float32; the batch loss is its mean.
    """
    with torch.autocast(logits.device.type, enabled=False):
        p = torch.sigmoid(logits.float())
        y = target.float()
        valid = y != -1
        pt = torch.where(valid, 1 - (y - p).abs(), 1.0)
        beta = (1 - pt) ** gamma
        count = valid.sum(dim=(1, 2, 3))
        # The multiplier restores the gradient's total, which beta shrinks; it is a constant for the gradient.
        multiplier = (count / (beta.sum(dim=(1, 2, 3)) + 1e-12)).detach()[:, None, None, None]
        weight = torch.where(y > 0.5, alpha, 1 - alpha) * valid
        loss = -weight * beta * multiplier * torch.log(torch.clamp(pt + 1e-12, max=1.0))
        return loss.sum(dim=(1, 2, 3)) / (count + 1e-12)
