"""The published layout of plain-ViT checkpoints (CFR-ICL, SimpleClick) and ours: every key accounted for."""

from __future__ import annotations

from typing import Any

import torch

from pipeline import config
from pipeline.errors import UserError

# Prefixes of ours and of the published layout, the longest first where one begins another.
_PREFIXES = (
    ("click_embed.", "patch_embed_coords."),
    ("neck.x4.", "neck.down_4."),
    ("neck.x2.", "neck.down_8."),
    ("neck.x1.", "neck.down_16."),
    ("neck.x05.", "neck.down_32."),
    ("head.fuse.", "head.fusion_conv.conv."),
    ("head.logit.", "head.conv_seg."),
    *((f"head.levels.{i}.", f"head.convs.{i}.conv.") for i in range(4)),
)
_UNUSED = ("backbone.cls_token", "backbone.fc_norm.", "backbone.head.", "head.up_conv1.", "head.up_conv2.")
_HEADS = {160: 4, 768: 12, 1024: 16, 1280: 16}


def our_name(published: str) -> str | None:
    """Our parameter's name for a published key; None for keys that no forward pass uses."""
    if published.startswith(_UNUSED):
        return None
    for ours, theirs in _PREFIXES:
        if published.startswith(theirs):
            return ours + published[len(theirs) :]
    return published


def from_published(content: Any, name: str) -> tuple[dict[str, torch.Tensor], config.Model]:
    """Weights under our names, and the architecture, of a published checkpoint's content.

    Args:
        content: {"state_dict", "config"} as `read_torch_pickle` gives it.
        name: what to call the file in messages.

    Raises:
        UserError: not a plain-ViT click checkpoint.
    """
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise UserError(f"{name} holds no 'state_dict' of tensors: it is not a published CFR-ICL/SimpleClick file.")
    weights = {ours: v.float() for key, v in state.items() if (ours := our_name(key)) is not None}
    positions = weights.get("backbone.pos_embed")
    if positions is None or positions.ndim != 3 or "click_embed.proj.weight" not in weights:
        raise UserError(f"{name} is no plain-ViT click segmentation checkpoint (no position or click embedding).")
    weights["backbone.pos_embed"] = positions[:, 1:].clone()  # slot 0 is the class token's
    return weights, _architecture(weights, content.get("config"), name)


def _architecture(weights: dict[str, torch.Tensor], described: Any, name: str) -> config.Model:
    """Sizes from the tensors' shapes; the number of heads, which no shape shows, from the file's config."""
    try:
        dim, _, patch, _ = weights["backbone.patch_embed.proj.weight"].shape
        depth = sum(key.startswith("backbone.blocks.") and key.endswith("norm1.weight") for key in weights)
        dims = tuple(weights[f"head.levels.{i}.weight"].shape[1] for i in range(4))
        head_dim = weights["head.fuse.weight"].shape[0]
        grid = round(weights["backbone.pos_embed"].shape[1] ** 0.5)
    except (KeyError, ValueError) as error:
        raise UserError(f"{name} lacks a part of the plain-ViT click model: {error}.") from error
    heads = _HEADS.get(dim)
    try:
        heads = described["params"]["backbone_params"]["value"]["num_heads"]
    except (KeyError, TypeError):
        if heads is None:
            raise UserError(f"{name} does not say its number of attention heads, and dim {dim} is unknown.") from None
    return config.Model(
        patch=patch,
        dim=dim,
        depth=depth,
        heads=heads,
        neck_dims=(dims[0], dims[1], dims[2], dims[3]),
        head_dim=head_dim,
        train_size=grid * patch,
    )
