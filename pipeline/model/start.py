"""What a new model starts from: nothing, a complete click model, or a backbone pretrained as a masked autoencoder.

MAE (arXiv 2111.06377) fills the backbone alone; the click embedding, the neck and the head keep the framework's
defaults. Its position embedding is interpolated to the training grid.
"""

from __future__ import annotations

from typing import Any

import torch

from pipeline import config, storage
from pipeline.errors import UserError
from pipeline.model.backbone import resize_positions
from pipeline.model.checkpoints import check_fit, load_model, load_weights
from pipeline.model.foreign import read_foreign
from pipeline.model.published import NAMES, VARIANTS, from_published
from pipeline.model.segmenter import ClickSegmenter

# Of an MAE file: class token and final norm of the encoder; norm and classifier of a finetuned one.
UNUSED = ("cls_token", "norm.weight", "norm.bias", "fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias")


def new_model(model: config.Model, start: str) -> ClickSegmenter:
    """A model with fresh parameters (torch's global generator), filled from `start`.

    Args:
        model: architecture.
        start: "" (nothing), our checkpoint or run folder, a published .pth of a click model, an MAE .pth
            (mae_pretrain_vit_base.pth), or timm:NAME (timm:vit_base_patch16_224.mae).

    Raises:
        UserError: nothing there, not readable, or not of this architecture.
    """
    fresh = ClickSegmenter(model)
    if not start:
        return fresh
    if start.startswith(config.TIMM):
        weights, heads = _from_timm(start.removeprefix(config.TIMM))
        _fill_backbone(fresh, weights, heads, start)
        return fresh
    if not storage.exists(start):
        raise UserError(f"There is no checkpoint {start} (--model.start).")
    if storage.is_folder(start):
        whole, info = load_model(start)
        _same_heads(model, info.model.heads, start)
        load_weights(fresh, whole.state_dict(), start)
        return fresh
    content = read_foreign(storage.read_bytes(start), start)
    if "patch_embed.proj.weight" in content["state_dict"]:  # an encoder's; a click model's has backbone. before it
        _fill_backbone(fresh, content["state_dict"], VARIANTS.get((model.patch, model.dim, model.depth)), start)
        return fresh
    published = from_published(content, start)
    _same_heads(model, published.model.heads, start)
    load_weights(fresh, published.weights, start)
    return fresh


def _same_heads(model: config.Model, heads: int, name: str) -> None:
    """The number of attention heads shows in no tensor's shape, so a strict load would not see it."""
    if heads != model.heads:
        raise UserError(f"{name} has {heads} attention heads, model.heads is {model.heads}.")


def _fill_backbone(fresh: ClickSegmenter, weights: dict[Any, Any], heads: int | None, name: str) -> None:
    """Load an encoder's weights into the backbone; every key is used or known to be unused.

    Args:
        heads: of the encoder, as far as it is known.
    """
    model = fresh.config
    if not all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in weights.items()):
        raise UserError(f"{name} holds something else than tensors under 'model': it is no MAE file.")
    if heads is None:
        shape = (model.patch, model.dim, model.depth)
        raise UserError(f"{name}: no MAE encoder has patch, dim, depth {shape}; known: {', '.join(NAMES.values())}.")
    _same_heads(model, heads, name)
    used = {k: v.float() for k, v in weights.items() if k not in UNUSED}
    positions = used.get("pos_embed")
    if (
        positions is None
        or positions.ndim != 3
        or round((positions.shape[1] - 1) ** 0.5) ** 2 != positions.shape[1] - 1
    ):
        raise UserError(f"{name} is no ViT encoder: it has no position embedding of a square grid and a class slot.")
    for key in (k for k in UNUSED if k in weights):
        classes = weights[key].shape[:1]
        special = {"cls_token": (1, 1, model.dim), "head.weight": (*classes, model.dim), "head.bias": tuple(classes)}
        wanted = special.get(key, (model.dim,))
        if tuple(weights[key].shape) != wanted:
            raise UserError(f"{name} does not fit the model: {key} is {tuple(weights[key].shape)}, not {wanted}.")
    grid = model.train_size // model.patch
    used["pos_embed"] = resize_positions(positions[:, 1:], (grid, grid))  # slot 0 is the class token's
    check_fit({k: v.shape for k, v in fresh.backbone.state_dict().items()}, used, name)
    fresh.backbone.load_state_dict(used)


def _from_timm(name: str) -> tuple[dict[str, torch.Tensor], int]:
    """Weights and number of heads of a ViT that timm fetches (from the Hugging Face hub, or its cache)."""
    # Not above: timm takes seconds to import, and whoever builds a network needs three modules of it (`timm_blocks`).
    import timm

    from pipeline.model import torchvision_ops as _torchvision_ops  # noqa: F401, must come before timm

    try:
        encoder: Any = timm.create_model(name, pretrained=True)
        heads = int(encoder.blocks[0].attn.num_heads)
    except Exception as error:  # timm, its hub client and the network each have their own errors
        raise UserError(
            f"timm cannot give the weights of {name!r}: {type(error).__name__}: {str(error).splitlines()[0]}. "
            "They come from huggingface.co (or the cache under HF_HOME); without network, give --model.start the "
            "file mae_pretrain_vit_base.pth (large, huge) of facebookresearch/mae."
        ) from error
    return encoder.state_dict(), heads
