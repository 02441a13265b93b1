"""The published layout of plain-ViT checkpoints (CFR-ICL, SimpleClick) and ours: every key accounted for, both ways."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch

from pipeline import config
from pipeline.errors import UserError
from pipeline.model.segmenter import IMAGENET_MEAN, IMAGENET_STD, ClickSegmenter

# Prefixes of ours and of the published layout.
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
POSITIONS = "backbone.pos_embed"  # theirs has a slot for the class token in front, which no forward pass reads

VARIANTS = {(16, 768, 12): 12, (16, 1024, 24): 16, (14, 1280, 32): 16, (16, 160, 8): 4}
"""(patch, dim, depth) of the published models: number of heads, which no tensor's shape shows."""
NAMES = {(16, 768, 12): "ViT-B", (16, 1024, 24): "ViT-L", (14, 1280, 32): "ViT-H", (16, 160, 8): "ViT-xtiny"}


@dataclass(frozen=True)
class Published:
    """Content of a published checkpoint.

    Attributes:
        weights: under our names.
        model: architecture.
        unused: what no forward pass uses, under the published names; of the position embedding the class slot.
    """

    weights: dict[str, torch.Tensor]
    model: config.Model
    unused: dict[str, torch.Tensor]


def unused_shapes(model: config.Model) -> dict[str, tuple[int, ...]]:
    """Every key of the published layout that no forward pass uses, with its shape."""
    dim, wide, narrow = model.dim, model.head_dim // 2, model.head_dim // 4
    shapes: dict[str, tuple[int, ...]] = {
        "backbone.cls_token": (1, 1, dim),
        POSITIONS: (1, 1, dim),
        "backbone.fc_norm.weight": (dim,),
        "backbone.fc_norm.bias": (dim,),
        "backbone.head.weight": (1000, dim),
        "backbone.head.bias": (1000,),
    }
    for stage, inside, out in (("head.up_conv1", model.head_dim, wide), ("head.up_conv2", wide, narrow)):
        weights = {0: (inside, out, 2, 2), 1: (out,), 2: (out, out, 1, 1), 3: (out,)}
        for i, shape in weights.items():
            shapes |= {f"{stage}.{i}.weight": shape, f"{stage}.{i}.bias": (out,)}
    return shapes


_UNUSED = unused_shapes(config.Model()).keys() - {POSITIONS}


def our_name(published: str) -> str | None:
    """Our parameter's name for a published key; None for keys that no forward pass uses."""
    if published in _UNUSED:
        return None
    for ours, theirs in _PREFIXES:
        if published.startswith(theirs):
            return ours + published[len(theirs) :]
    return published


def published_name(ours: str) -> str:
    """Inverse of `our_name`."""
    for mine, theirs in _PREFIXES:
        if ours.startswith(mine):
            return theirs + ours[len(mine) :]
    return ours


def from_published(content: Any, name: str) -> Published:
    """A published checkpoint's content under our names, every key used or known to be unused.

    Unknown keys stay among the weights under their own name: `check_fit` names them.

    Args:
        content: {"state_dict", "config"} as `read_torch_pickle` gives it.
        name: what to call the file in messages.

    Raises:
        UserError: not a plain-ViT click checkpoint, or one whose parts contradict each other.
    """
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items()
    ):
        raise UserError(f"{name} holds no 'state_dict' of tensors: it is not a published CFR-ICL/SimpleClick file.")
    weights = {ours: v.float() for key, v in state.items() if (ours := our_name(key)) is not None}
    positions = weights.get(POSITIONS)
    if positions is None or positions.ndim != 3 or positions.shape[1] < 2 or "click_embed.proj.weight" not in weights:
        raise UserError(f"{name} is no plain-ViT click segmentation checkpoint (no position or click embedding).")
    weights[POSITIONS] = positions[:, 1:].clone()
    unused = {key: v.float() for key, v in state.items() if key in _UNUSED} | {POSITIONS: positions[:, :1].clone()}
    model = _architecture(weights, content.get("config"), name)
    for key, shape in unused_shapes(model).items():
        if key in unused and tuple(unused[key].shape) != shape:
            raise UserError(f"{name} does not fit the model: {key} is {tuple(unused[key].shape)}, not {shape}.")
    return Published(weights, model, unused)


def _architecture(weights: dict[str, torch.Tensor], described: Any, name: str) -> config.Model:
    """Sizes from the tensors' shapes; heads, dropout and click radius, which no shape shows, from the file's config."""
    try:
        dim, _, patch, _ = weights["backbone.patch_embed.proj.weight"].shape
        depth = sum(key.startswith("backbone.blocks.") and key.endswith("norm1.weight") for key in weights)
        dims = tuple(weights[f"head.levels.{i}.weight"].shape[1] for i in range(4))
        head_dim = weights["head.fuse.weight"].shape[0]
        grid = round(weights[POSITIONS].shape[1] ** 0.5)
    except (KeyError, ValueError) as error:
        raise UserError(f"{name} lacks a part of the plain-ViT click model: {error}.") from error

    def said(*path: str) -> Any:
        """A value of the file's config; None when it does not say."""
        node = described.get("params") if isinstance(described, dict) else None
        for step in (path[0], "value", *path[1:]):
            node = node.get(step) if isinstance(node, dict) else None
        return list(node) if isinstance(node, tuple) else node

    expected = {
        ("use_disks",): True,
        ("with_prev_mask",): True,
        ("use_rgb_conv",): False,
        ("with_aux_output",): False,
        ("norm_mean_std",): [list(IMAGENET_MEAN), list(IMAGENET_STD)],
        ("backbone_params", "in_chans"): 3,
        ("backbone_params", "img_size"): [grid * patch] * 2,
        ("backbone_params", "patch_size"): [patch] * 2,
        ("backbone_params", "embed_dim"): dim,
        ("backbone_params", "depth"): depth,
        ("backbone_params", "mlp_ratio"): 4,
        ("backbone_params", "qkv_bias"): True,
        ("neck_params", "out_dims"): list(dims),
        ("head_params", "channels"): head_dim,
        ("head_params", "upsample"): "x1",
        ("head_params", "align_corners"): False,
    }
    for path, value in expected.items():
        if (other := said(*path)) is not None and other != value:
            raise UserError(
                f"{name} contradicts itself or is another network: its config says {'.'.join(path)} {other!r}, "
                f"this reader finds (or only knows) {value!r}."
            )
    heads = _heads(said("backbone_params", "num_heads"), (patch, dim, depth), name)
    radius, dropout = said("norm_radius"), said("head_params", "dropout_ratio")
    return config.Model(
        patch=patch,
        dim=dim,
        depth=depth,
        heads=heads,
        neck_dims=(dims[0], dims[1], dims[2], dims[3]),
        head_dim=head_dim,
        head_dropout=float(dropout) if isinstance(dropout, (int, float)) and 0 <= dropout < 1 else 0.1,
        train_size=grid * patch,
        click_radius=radius if isinstance(radius, int) and 0 < radius < 1000 else 5,
    )


def _heads(said: Any, shape: tuple[int, int, int], name: str) -> int:
    """The number of attention heads: what the file says and what the published variants have must agree."""
    known = VARIANTS.get(shape)
    what = "patch {}, dim {}, depth {}".format(*shape)
    if said is None:
        if known is None:
            raise UserError(
                f"{name} does not say its number of attention heads, and {what} is none of the published models "
                f"({', '.join(NAMES.values())})."
            )
        return known
    if not isinstance(said, int) or isinstance(said, bool) or said < 1 or shape[1] % said:
        raise UserError(f"{name} says {said!r} attention heads, which dim {shape[1]} cannot be divided among.")
    if known is not None and said != known:
        raise UserError(
            f"{name} contradicts itself: it says {said} attention heads; {NAMES[shape]} ({what}) has {known}."
        )
    return said


def to_published(model: ClickSegmenter, unused: dict[str, torch.Tensor] | None = None) -> dict[str, Any]:
    """A model in the published layout, {"state_dict", "config"}, for the tools of CFR-ICL and SimpleClick.

    Args:
        model: the network.
        unused: what no forward pass uses, kept from the published file that the model was imported from; what is not
            in it gets zeros (norms: ones).
    """
    kept = unused or {}
    empty = {
        key: torch.ones(shape) if key.endswith((".1.weight", ".3.weight", "norm.weight")) else torch.zeros(shape)
        for key, shape in unused_shapes(model.config).items()
    }
    rest = {key: kept.get(key, fresh).float() for key, fresh in empty.items()}
    state = OrderedDict((published_name(k), v.detach().cpu().float().clone()) for k, v in model.state_dict().items())
    state[POSITIONS] = torch.cat([rest.pop(POSITIONS), state[POSITIONS]], dim=1)
    state.update({key: value.clone() for key, value in rest.items()})
    return {"state_dict": state, "config": _described(model.config)}


def _described(model: config.Model) -> dict[str, Any]:
    """The `config` of the published files, in plain containers; what it leaves out has defaults over there."""
    dims = list(model.neck_dims)
    params: dict[str, tuple[Any, bool]] = {
        "use_disks": (True, True),
        "norm_radius": (model.click_radius, True),
        "with_prev_mask": (True, True),
        "backbone_params": (
            {
                "img_size": (model.train_size, model.train_size),
                "patch_size": (model.patch, model.patch),
                "in_chans": 3,
                "embed_dim": model.dim,
                "depth": model.depth,
                "num_heads": model.heads,
                "mlp_ratio": 4,
                "qkv_bias": True,
            },
            True,
        ),
        "neck_params": ({"in_dim": model.dim, "out_dims": dims}, True),
        "head_params": (
            {
                "in_channels": list(dims),
                "in_index": [0, 1, 2, 3],
                "dropout_ratio": model.head_dropout,
                "num_classes": 1,
                "align_corners": False,
                "upsample": "x1",
                "channels": model.head_dim,
            },
            True,
        ),
        "random_split": (False, True),
        "with_aux_output": (False, False),
        "cpu_dist_maps": (False, False),
        "use_rgb_conv": (False, False),
        "use_leaky_relu": (False, False),
        "norm_mean_std": ((list(IMAGENET_MEAN), list(IMAGENET_STD)), False),
    }
    return {
        "class": "isegm.model.is_plainvit_model.PlainVitModel",
        "params": {
            name: {"type": "builtin", "value": value, "specified": given} for name, (value, given) in params.items()
        },
    }
