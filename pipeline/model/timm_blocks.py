"""The parts of timm that a plain ViT is built from, without the rest of timm.

Importing `timm.layers.X` runs the packages' own __init__ first, which import every model of timm, torchvision, the
compiler of torch and a client of the hub: 1.5 s of CPU in every process that builds a network, for three modules of 4
ms. So the packages are stood in for while the three are imported, and taken out again: a later `import timm` is whole.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from typing import Any

import torch
from torch import nn

PACKAGES = ("timm", "timm.layers")
PARTS = ("attention", "mlp", "patch_embed")


def _parts() -> list[Any]:
    """The modules PARTS of timm.layers."""
    if "timm" in sys.modules:
        return [importlib.import_module(f"timm.layers.{part}") for part in PARTS]
    spec = importlib.util.find_spec("timm")
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError("No module named 'timm'", name="timm")
    (folder,) = spec.submodule_search_locations
    for package, path in zip(PACKAGES, (folder, f"{folder}/layers"), strict=True):
        stand_in = types.ModuleType(package)
        stand_in.__path__ = [path]
        sys.modules[package] = stand_in
    unknown: Any = None  # an import of it fails, which timm takes for a machine without it
    hidden = "torchvision" not in sys.modules
    if hidden:
        sys.modules["torchvision"] = unknown
    try:
        return [importlib.import_module(f"timm.layers.{part}") for part in PARTS]
    finally:
        if hidden:
            del sys.modules["torchvision"]
        for name in [name for name in sys.modules if name.split(".")[0] == "timm"]:
            del sys.modules[name]


_attention, _mlp, _patch_embed = _parts()
Attention: type[nn.Module] = _attention.Attention
Mlp: type[nn.Module] = _mlp.Mlp
PatchEmbed: type[nn.Module] = _patch_embed.PatchEmbed


class Norm(nn.LayerNorm):
    """LayerNorm with the eps of MAE and SimpleClick."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, eps=1e-6)


class Block(nn.Module):
    """timm's transformer block as MAE has it: normalized before attention and MLP, without dropout or layer scale."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = Norm(dim)
        self.attn = Attention(dim, num_heads=heads, qkv_bias=True)
        self.norm2 = Norm(dim)
        self.mlp = Mlp(in_features=dim, hidden_features=4 * dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, D) tokens to (B, T, D)."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))
