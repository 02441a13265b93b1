"""One training step of clicks: iterative click loss (paper, section on ICL) and the plain iterative mode (RITM).

In ICL the previous map is detached between the click steps, so the gradient of the sum of losses is the sum of the
gradients of the steps: backward runs after each step and the activations of one step only are alive.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from pipeline import config
from pipeline.clicks.batched import training_errors
from pipeline.clicks.simulate import next_click_random
from pipeline.train.loss import normalized_focal_loss

_CLICK_COUNT, _CLICK_PIXEL, _DROP = 11, 12, 13  # purposes: keep the draws of one key apart
_POOL = ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1))


@dataclass(frozen=True)
class ClickBatch:
    """One forward batch.

    Attributes:
        image: (B, 3, H, W) uint8 RGB.
        target: (B, 1, H, W) int8, 1 object, 0 background, -1 ignore.
        points: (B, 2N, 3) float32 first clicks.
        keys: B integers that identify the samples; the draws of clicks depend on them and on nothing else.
    """

    image: torch.Tensor
    target: torch.Tensor
    points: torch.Tensor
    keys: list[tuple[int, ...]]


@dataclass
class StepResult:
    """What a step computed.

    Attributes:
        losses: unweighted batch-mean NFL of each click step.
        total: weighted sum, the value whose gradient was taken.
        prob: (B, 1, H, W) float32 probabilities of the last forward pass.
        points: (B, 2N, 3) clicks of the last forward pass.
    """

    losses: list[float] = field(default_factory=list)
    total: float = 0.0
    prob: torch.Tensor | None = None
    points: torch.Tensor | None = None


def draw_steps(loss: config.Loss, seed: int, step: int) -> int:
    """Number of forward passes with a loss (icl: 1..T) or without gradient (iter_mask), the same on every rank."""
    rng = np.random.default_rng((_CLICK_COUNT, seed, step))
    if loss.mode == "icl":
        return int(rng.integers(1, len(loss.weights) + 1))
    return int(rng.integers(loss.passes[0], loss.passes[1] + 1))


def begin_training_clicks(
    target: torch.Tensor,
    prob: torch.Tensor,
    points: torch.Tensor,
    keys: list[tuple[int, ...]],
    loss: config.Loss,
    step: int,
) -> Callable[[], torch.Tensor]:
    """One simulated click more for every sample of a batch, drawn when the returned function is called, in threads.

    From a GPU the errors are on their way at once, and the function waits for them alone: whatever the device was
    given between the two calls, such as a backward pass, it computes while the clicks are drawn.

    Args:
        target: (B, 1, H, W) 1 / 0 / -1.
        prob: (B, 1, H, W) probabilities.
        points: (B, 2N, 3).
        keys: see `ClickBatch`.
        loss: for `click_rows`.
        step: number of this simulated click, from 1.

    Returns:
        A function that gives (B, 2N, 3) on the device of `points`.
    """
    device = points.device
    missed, wrong = training_errors(target[:, 0], prob[:, 0].float())
    kinds = (missed.to(torch.uint8) + 2 * wrong.to(torch.uint8)).to("cpu", non_blocking=True)
    old = points.to("cpu", non_blocking=True)
    arrived = torch.cuda.Event() if device.type == "cuda" else None
    if arrived:
        arrived.record()

    def one(i: int) -> np.ndarray:
        kind, rng = kinds[i].numpy(), np.random.default_rng((_CLICK_PIXEL, *keys[i], step))
        return next_click_random(kind == 1, kind == 2, old[i].numpy(), rng, loss.click_rows, step)

    def drawn() -> torch.Tensor:
        if arrived:
            arrived.synchronize()
        new = torch.from_numpy(np.stack(list(_POOL.map(one, range(len(keys))))))
        # Memory that is not pinned would have to wait for all that the device still has to do.
        return new.pin_memory().to(device, non_blocking=True) if arrived else new

    return drawn


def drop_previous(prob: torch.Tensor, keys: list[tuple[int, ...]], probability: float, step: int) -> torch.Tensor:
    """Zero the previous map of each sample with a probability."""
    if probability == 0.0:
        return prob
    keep = [np.random.default_rng((_DROP, *key, step)).random() >= probability for key in keys]
    return prob * torch.tensor(keep, dtype=prob.dtype, device=prob.device)[:, None, None, None]


def icl_step(
    model: nn.Module,
    batch: ClickBatch,
    loss: config.Loss,
    steps: int,
    *,
    backward: Callable[[torch.Tensor], None],
    no_sync: Callable[[], AbstractContextManager[object]] = nullcontext,
    sync_last: bool = True,
) -> StepResult:
    """Iterative click loss: `steps` clicks, a weighted loss after each, backward per step.

    Args:
        model: forward(image, prev_mask, points) -> logits; its mode (train or eval) is left as it is.
        batch: see `ClickBatch`.
        loss: weights, NFL constants, `prev_mask_drop_prob`.
        steps: t, 1..len(weights).
        backward: called with each step's weighted loss; it runs backward (and may scale).
        no_sync: context without data-parallel gradient exchange; used for all but the last backward.
        sync_last: whether the last backward exchanges gradients (False inside gradient accumulation).

    Returns:
        Losses, and the last prediction.
    """
    result = StepResult()
    prev = torch.zeros_like(batch.target, dtype=torch.float32)
    points = batch.points
    values: list[torch.Tensor] = []
    for i in range(steps):
        last = i == steps - 1
        with nullcontext() if last and sync_last else no_sync():
            logits = model(batch.image, prev, points)
            prob = torch.sigmoid(logits.detach().float())
            result.prob, result.points = prob, points
            draw = None if last else begin_training_clicks(batch.target, prob, points, batch.keys, loss, i + 1)
            value = normalized_focal_loss(logits, batch.target, loss.alpha, loss.gamma).mean()
            backward(loss.weights[i] * value)
        values.append(value.detach())
        if draw:
            points = draw()
            prev = drop_previous(prob, batch.keys, loss.prev_mask_drop_prob, i + 1)
    result.losses = torch.stack(values).tolist()  # only here, as reading a loss waits for the device
    result.total = sum(weight * value for weight, value in zip(loss.weights, result.losses, strict=False))
    return result


def iter_mask_step(
    model: nn.Module,
    batch: ClickBatch,
    loss: config.Loss,
    passes: int,
    *,
    backward: Callable[[torch.Tensor], None],
    no_sync: Callable[[], AbstractContextManager[object]] = nullcontext,
    sync_last: bool = True,
) -> StepResult:
    """Plain iterative training: gradient-free passes in eval mode, each followed by a click, then one loss pass.

    Args and result as `icl_step`; `passes` is the number of gradient-free passes.
    """
    prev = torch.zeros_like(batch.target, dtype=torch.float32)
    points = batch.points
    training = model.training
    model.eval()
    with torch.no_grad():
        for i in range(passes):
            prev = torch.sigmoid(model(batch.image, prev, points).float())
            points = begin_training_clicks(batch.target, prev, points, batch.keys, loss, i + 1)()
    model.train(training)
    if passes:
        prev = drop_previous(prev, batch.keys, loss.prev_mask_drop_prob, passes)
    with nullcontext() if sync_last else no_sync():
        logits = model(batch.image, prev, points)
        value = normalized_focal_loss(logits, batch.target, loss.alpha, loss.gamma).mean()
        backward(value)
    prob = torch.sigmoid(logits.detach().float())
    return StepResult([float(value.detach())], float(value.detach()), prob, points)
