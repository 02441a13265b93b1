"""The whole state of a training run, and its checkpoints (format: `pipeline.model.checkpoints`)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import save as tensors_to_bytes

from pipeline import config, config_io, storage
from pipeline.data.order import Position
from pipeline.errors import UserError
from pipeline.model.checkpoints import (
    CHECKPOINTS,
    FORMAT,
    MODEL,
    OPTIMIZER,
    STATE,
    load_weights,
    read_state,
    read_tensors,
)
from pipeline.model.segmenter import ClickSegmenter


@dataclass
class TrainState:
    """Everything a continued run needs. Random draws are keyed by (seed, step, sample), so no generator is kept.

    Attributes:
        model: the network.
        optimizer: Adam with its moments.
        step: optimizer steps done; the schedule is a function of it.
        position: of the data stream.
        best: the lowest validation score so far, and its step.
        mlflow_run: id of the tracking run.
    """

    model: ClickSegmenter
    optimizer: torch.optim.Optimizer
    step: int
    position: Position
    best: tuple[float, int] | None = None
    mlflow_run: str | None = None


def checkpoint_uri(out: str, step: int) -> str:
    return storage.join(out, CHECKPOINTS, f"step_{step:08d}")


def step_of(uri: str) -> int:
    return int(uri.rsplit("_", 1)[1])


def complete_checkpoints(out: str) -> list[str]:
    """Checkpoint folders of a run that were written whole, the oldest first."""
    folders = storage.list_folders(storage.join(out, CHECKPOINTS))
    return sorted((f for f in folders if storage.exists(storage.join(f, STATE))), key=step_of)


def save_checkpoint(state: TrainState, run: config.TrainConfig, keep: int) -> str:
    """Write a checkpoint, `state.json` last, and delete all but the first, the best and the last `keep`.

    Returns:
        Its URI.
    """
    uri = checkpoint_uri(run.out, state.step)
    if not storage.exists(storage.join(uri, STATE)):
        storage.write_bytes(storage.join(uri, MODEL), tensors_to_bytes(_contiguous(state.model.state_dict())))
        moments = optimizer_tensors(state.optimizer)
        storage.write_bytes(storage.join(uri, OPTIMIZER), tensors_to_bytes(_contiguous(moments)))
        described = {
            "format": FORMAT,
            "step": state.step,
            "position": state.position.to_dict(),
            "best": state.best,
            "mlflow_run": state.mlflow_run,
            "config": config_io.masked(run),
        }
        storage.write_bytes(storage.join(uri, STATE), json.dumps(described, indent=1).encode())
    found = complete_checkpoints(run.out)
    spared = {step_of(f) for f in found[-keep:]} | {0} | ({state.best[1]} if state.best else set())
    for folder in found:
        if step_of(folder) not in spared:
            storage.remove(storage.join(folder, STATE))  # first: half-deleted must not look complete
            storage.remove(folder)
    return uri


def restore(state: TrainState, uri: str) -> None:
    """Load a checkpoint of the same run into `state`.

    Raises:
        UserError: the checkpoint does not fit.
    """
    described = read_state(uri)
    load_weights(state.model, read_tensors(storage.join(uri, MODEL)), uri)
    load_optimizer_tensors(state.optimizer, read_tensors(storage.join(uri, OPTIMIZER)), uri)
    state.step = int(described["step"])
    state.position = Position.from_dict(described["position"])
    state.best = tuple(described["best"]) if described["best"] else None
    state.mlflow_run = described["mlflow_run"]


def _contiguous(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: t.detach().cpu().contiguous() for name, t in tensors.items()}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's state by parameter name: {"<parameter>/exp_avg": tensor, ...}; empty before the first step."""
    tensors: dict[str, torch.Tensor] = {}
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            for key, value in optimizer.state.get(parameter, {}).items():
                tensors[f"{name}/{key}"] = value
    return tensors


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor], name: str) -> None:
    """Inverse of `optimizer_tensors`.

    Raises:
        UserError: tensors of other parameters.
    """
    rest = dict(tensors)
    for group in optimizer.param_groups:
        for parameter_name, parameter in zip(group["names"], group["params"], strict=True):
            found: dict[str, Any] = {}
            for key in [k for k in rest if k.rsplit("/", 1)[0] == parameter_name]:
                value = rest.pop(key)
                # Adam keeps its step count on the CPU and its moments beside the parameter.
                found[key.rsplit("/", 1)[1]] = value if value.ndim == 0 else value.to(parameter.device)
            if found:
                optimizer.state[parameter] = found
    if rest:
        raise UserError(f"The optimizer state in {name} is of another model: unknown {', '.join(sorted(rest)[:5])}.")
