"""Simple feature pyramid: four scales from the single map of a plain ViT (ViTDet; SimpleClick, section 3.1)."""

from __future__ import annotations

import torch
from torch import nn


class SimplePyramid(nn.Module):
    """(B, D, h, w) to four maps of `dims` channels at 4x, 2x, 1x and 0.5x the grid."""

    def __init__(self, dim: int, dims: tuple[int, int, int, int]) -> None:
        super().__init__()
        c4, c2, c1, c05 = dims
        wide4, wide2, wide05 = max(c4 * 2, dim // 2), max(c2, dim // 2), max(c05, dim * 2)
        norm = nn.GroupNorm
        self.x4 = nn.Sequential(
            nn.ConvTranspose2d(dim, wide4, 2, stride=2),
            norm(1, wide4),
            nn.GELU(),
            nn.ConvTranspose2d(wide4, wide4 // 2, 2, stride=2),
            norm(1, wide4 // 2),
            nn.Conv2d(wide4 // 2, c4, 1),
            norm(1, c4),
            nn.GELU(),
        )
        self.x2 = nn.Sequential(
            nn.ConvTranspose2d(dim, wide2, 2, stride=2),
            norm(1, wide2),
            nn.Conv2d(wide2, c2, 1),
            norm(1, c2),
            nn.GELU(),
        )
        self.x1 = nn.Sequential(nn.Conv2d(dim, c1, 1), norm(1, c1), nn.GELU())
        self.x05 = nn.Sequential(
            nn.Conv2d(dim, wide05, 2, stride=2),
            norm(1, wide05),
            nn.Conv2d(wide05, c05, 1),
            norm(1, c05),
            nn.GELU(),
        )

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Finest map first."""
        return [self.x4(x), self.x2(x), self.x1(x), self.x05(x)]
