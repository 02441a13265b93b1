"""Plain ViT backbone with window attention, from timm blocks (SimpleClick, section 3.1; ViTDet, arXiv 2203.16527)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from pipeline.model.timm_blocks import Block, PatchEmbed

WINDOW = 224  # pixels: the side of the input that one attention window is about


def windows_per_side(grid: int, patch: int) -> int:
    """Number of attention windows along a side of `grid` tokens; it must divide the grid.

    Raises:
        ValueError: the windows would not be equal.
    """
    windows = max(grid // (WINDOW // patch), 1)
    if grid % windows:
        raise ValueError(
            f"a grid of {grid} tokens cannot be cut into {windows} equal windows; choose another crop size"
        )
    return windows


def global_blocks(depth: int) -> set[int]:
    """Indices of the blocks that attend globally: the last of each group."""
    group = 6 if depth == 12 else depth // 4
    return set(range(group - 1, depth, group))


def resize_positions(positions: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Interpolate a (1, G*G, D) position embedding to another grid (bicubic, align_corners False).

    Returns:
        (1, rows*cols, D).
    """
    side = round(positions.shape[1] ** 0.5)
    if grid == (side, side):
        return positions
    square = positions.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(square.float(), size=grid, mode="bicubic", align_corners=False)
    return resized.permute(0, 2, 3, 1).flatten(1, 2)


class Backbone(nn.Module):
    """ViT blocks over image tokens plus click tokens; no class token, no norm after the last block."""

    def __init__(self, patch: int, dim: int, depth: int, heads: int, train_size: int, checkpointing: bool) -> None:
        super().__init__()
        self.patch, self.depth, self.checkpointing = patch, depth, checkpointing
        grid = train_size // patch
        self.patch_embed = PatchEmbed(
            img_size=None, patch_size=patch, in_chans=3, embed_dim=dim, flatten=True, strict_img_size=False
        )
        self.pos_embed = nn.Parameter(torch.zeros(1, grid * grid, dim))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.blocks = nn.ModuleList([Block(dim, heads) for _ in range(depth)])
        for module in self.blocks.modules():  # as MAE does; only what starts without MAE weights sees it
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, image: torch.Tensor, click_tokens: torch.Tensor) -> torch.Tensor:
        """Normalised image (B, 3, H, W) and click tokens (B, T, D) to features (B, D, H/patch, W/patch)."""
        rows, cols = image.shape[-2] // self.patch, image.shape[-1] // self.patch
        x = self.patch_embed(image) + click_tokens + resize_positions(self.pos_embed, (rows, cols))
        wr, wc = windows_per_side(rows, self.patch), windows_per_side(cols, self.patch)
        everywhere = global_blocks(self.depth)
        windowed = False
        for i, block in enumerate(self.blocks):
            want = i not in everywhere and wr * wc > 1
            if want and not windowed:
                x = to_windows(x, rows, cols, wr, wc)
            elif windowed and not want:
                x = from_windows(x, rows, cols, wr, wc)
            windowed = want
            if self.checkpointing and self.training and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        if windowed:
            x = from_windows(x, rows, cols, wr, wc)
        return x.transpose(1, 2).reshape(x.shape[0], -1, rows, cols)


def to_windows(x: torch.Tensor, rows: int, cols: int, wr: int, wc: int) -> torch.Tensor:
    """(B, rows*cols, D) to (B*wr*wc, tokens of a window, D)."""
    b, _, d = x.shape
    x = x.view(b, wr, rows // wr, wc, cols // wc, d).transpose(2, 3)
    return x.reshape(b * wr * wc, (rows // wr) * (cols // wc), d)


def from_windows(x: torch.Tensor, rows: int, cols: int, wr: int, wc: int) -> torch.Tensor:
    """Inverse of `to_windows`."""
    d = x.shape[-1]
    x = x.view(-1, wr, wc, rows // wr, cols // wc, d).transpose(2, 3)
    return x.reshape(-1, rows * cols, d)
