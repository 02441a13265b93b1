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
        # A 1x1 convolution and a resize, both linear, may change places: each level's part of `fuse` runs at its own
        # size, and the levels are added instead of joined. Channels last, which CUDA resizes in a fraction of the time.
        parts = self.fuse.weight.split(self.fuse.out_channels, dim=1)
        fused: torch.Tensor | None = None
        for conv, part, x in zip(self.levels, parts, maps, strict=True):
            y = F.conv2d(F.relu(conv(x.contiguous(memory_format=torch.channels_last))), part)
            if y.shape[-2:] != size:
                y = F.interpolate(y, size=size, mode="bilinear", align_corners=False)
            fused = y if fused is None else fused + y
        assert fused is not None and self.fuse.bias is not None
        return self.logit(self.dropout(F.relu(fused + self.fuse.bias[:, None, None])))
