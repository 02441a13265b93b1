"""MLP head: four scales to one logit map at the finest of them (SegFormer's head; SimpleClick, section 3.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class MlpHead(nn.Module):
    """Each level to `dim` channels and to the finest size, fused, dropped out by channel, one logit."""

    def __init__(self, in_dims: tuple[int, ...], dim: int, dropout: float) -> None:
        super().__init__()
        self.levels = nn.ModuleList([nn.Conv2d(c, dim, 1) for c in in_dims])
        self.fuse = nn.Conv2d(dim * len(in_dims), dim, 1)
        self.dropout = nn.Dropout2d(dropout)
        self.logit = nn.Conv2d(dim, 1, 1)

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        """List of (B, C_i, h_i, w_i), finest first, to (B, 1, h_0, w_0) logits."""
        size = maps[0].shape[-2:]
        levels = [F.relu(conv(x)) for conv, x in zip(self.levels, maps, strict=True)]
        levels = [F.interpolate(x, size=size, mode="bilinear", align_corners=False) for x in levels]
        return self.logit(self.dropout(F.relu(self.fuse(torch.cat(levels, dim=1)))))
