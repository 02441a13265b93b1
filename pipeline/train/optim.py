"""Adam, layer-wise learning-rate decay, the schedules of the rate and the running mean of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from pipeline import config
from pipeline.train.parallel import named_states, share

AVERAGE = "average"  # beside Adam's moments in a parameter's state: its running mean, cut among workers as they are


def layer_id(name: str, depth: int) -> int:
    """Depth of a parameter: 0 for the embeddings, i + 1 for block i, depth + 1 for neck and head.

    The original leaves the click embedding out of every group, so it is never trained under layer-wise decay; here it
    is an embedding like the image's.
    """
    if name.startswith(("backbone.patch_embed.", "backbone.pos_embed", "click_embed.")):
        return 0
    if name.startswith("backbone.blocks."):
        return int(name.split(".")[2]) + 1
    return depth + 1


def parameter_groups(model: nn.Module, optim: config.Optim, depth: int) -> list[dict]:
    """Optimizer groups; every parameter is in exactly one.

    Each group has `lr_scale` (layer_decay ** (depth + 1 - id)) and `weight_decay`; with layer-wise decay, 1-d
    parameters and the position embedding of the backbone are exempt from weight decay, as in the original.
    """
    groups: dict[tuple[float, float], dict] = {}
    for name, parameter in model.named_parameters():
        scale = optim.layer_decay ** (depth + 1 - layer_id(name, depth))
        exempt = optim.layer_decay < 1 and name.startswith("backbone.") and (parameter.ndim == 1 or "pos_embed" in name)
        decay = 0.0 if exempt else optim.weight_decay
        group = groups.setdefault((scale, decay), {"params": [], "names": [], "lr_scale": scale, "weight_decay": decay})
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def build_optimizer(model: nn.Module, optim: config.Optim, depth: int) -> torch.optim.Adam:
    """Adam (coupled weight decay) over `parameter_groups`; one kernel for all of them on a GPU."""
    groups = parameter_groups(model, optim, depth)
    fused = groups[0]["params"][0].is_cuda
    return torch.optim.Adam(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=fused)


def rate_at(optim: config.Optim, step: int, steps_per_epoch: int, total_steps: int) -> float:
    """Base learning rate of a step (from 0), by `optim.schedule`; rises linearly during warm-up."""
    warm = min(1.0, (step + 1) / optim.warmup_steps) if optim.warmup_steps else 1.0
    if optim.schedule == "cosine":
        wave = 0.5 + 0.5 * math.cos(math.pi * step / max(1, total_steps - 1))
        return warm * optim.lr * (optim.factor + (1 - optim.factor) * wave)
    epoch = step // steps_per_epoch
    return warm * optim.lr * optim.factor ** sum(epoch >= m for m in optim.milestones)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of the base rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


@torch.no_grad()
def update_average(optimizer: torch.optim.Optimizer, decay: float, step: int) -> None:
    """Move the running mean of the weights towards them, after optimizer step number `step` (from 1).

    The decay rises to its value as (1 + step) / (10 + step), so that the mean soon forgets the random start.
    """
    moves = 1 - min(decay, (1 + step) / (10 + step))
    for _, parameter, held in named_states(optimizer):
        weights = share(parameter)
        if AVERAGE not in held:
            held[AVERAGE] = parameter.detach().clone()
        share(held[AVERAGE]).lerp_(weights.detach(), moves)


@contextmanager
def averaged(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Inside, the parameters hold their running means, and the optimizer's state the weights; outside, as before.

    Nothing happens where no mean is kept.
    """
    exchange_average(optimizer)
    try:
        yield
    finally:
        exchange_average(optimizer)


@torch.no_grad()
def exchange_average(optimizer: torch.optim.Optimizer) -> None:
    """Let the weights and their running means change places."""
    for _, parameter, held in named_states(optimizer):
        if AVERAGE in held:
            mine, other = share(parameter), share(held[AVERAGE])
            kept = mine.clone()
            mine.copy_(other)
            other.copy_(kept)
