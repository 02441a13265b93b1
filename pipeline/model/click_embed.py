"""Click embedding: previous mask and click disks to tokens (SimpleClick, section 3.1)."""

from __future__ import annotations

import torch
from torch import nn

from pipeline.clicks.disks import disk_maps


class ClickEmbed(nn.Module):
    """Patch embedding of the three coordinate channels (previous mask, positive disks, negative disks)."""

    def __init__(self, patch: int, dim: int, radius: int) -> None:
        super().__init__()
        self.radius = radius
        self.proj = nn.Conv2d(3, dim, kernel_size=patch, stride=patch)

    def forward(self, prev_mask: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) probabilities and (B, 2N, 3) clicks to (B, T, D) tokens, row-major grid order."""
        disks = disk_maps(points, prev_mask.shape[-2], prev_mask.shape[-1], self.radius)
        return self.proj(torch.cat([prev_mask, disks], dim=1)).flatten(2).transpose(1, 2)
