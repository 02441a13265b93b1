"""Data parallel in two ways: every worker with the whole model (DDP), or with a share of it (FSDP2)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pipeline import config
from pipeline.model.segmenter import ClickSegmenter
from pipeline.model.tensor_files import Part

if TYPE_CHECKING:  # imported where it is needed: with FSDP comes sympy, which takes seconds
    from torch.distributed.tensor import DTensor


def parallelize(model: ClickSegmenter, train: config.Train, device: torch.device, world: int) -> nn.Module:
    """The module whose forward pass exchanges gradients among `world` workers.

    Args:
        model: on `device`, the same on every worker. With fsdp it is changed itself: its parameters become shares.

    Returns:
        The model, or DDP around it.
    """
    if world == 1:
        return model
    if train.parallel == "fsdp":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(device.type, (world,))
        for block in model.backbone.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        return model
    devices = [device] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)


def no_sync(module: nn.Module) -> Callable[[], AbstractContextManager[object]]:
    """What to run the backward passes in whose gradients are not exchanged yet.

    FSDP exchanges after every backward pass: gradients kept whole until the last one would cost what it saves.
    """
    return module.no_sync if isinstance(module, DistributedDataParallel) else nullcontext


def is_cut(model: nn.Module) -> bool:
    """Whether each worker holds a share of the parameters."""
    return any(_as_cut(parameter) is not None for parameter in model.parameters())


def whole_model(model: ClickSegmenter) -> ClickSegmenter:
    """A model that can be evaluated on one worker alone: itself, or a gathered copy (then every worker must call)."""
    if not is_cut(model):
        return model
    device = next(model.parameters()).device
    with torch.device(device):
        copy = ClickSegmenter(model.config)
    with torch.no_grad():
        for name, parameter in copy.named_parameters():
            parameter.copy_(_whole(model.get_parameter(name)))
    return copy


def clip_gradients(model: nn.Module, limit: float) -> float:
    """Scale the gradients of all workers to a norm of at most `limit`; returns the norm they had."""
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
    return float(_whole(norm))


def agree(values: list[int], world: int, device: torch.device) -> list[int]:
    """The largest of each number over all workers; every worker must call."""
    if world == 1:
        return values
    numbers = torch.tensor(values, dtype=torch.int32, device=device)
    dist.all_reduce(numbers, dist.ReduceOp.MAX)
    return numbers.tolist()


def _as_cut(tensor: torch.Tensor) -> DTensor | None:
    """The tensor, if each worker holds a share of it. None does where nobody has imported what that takes."""
    loaded = sys.modules.get("torch.distributed.tensor")
    return cast("DTensor", tensor) if loaded is not None and isinstance(tensor, loaded.DTensor) else None


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    cut = _as_cut(tensor)
    return tensor if cut is None else cut.full_tensor()


def rows_here(tensor: torch.Tensor) -> tuple[int, int, int] | None:
    """(first row, row after the last, rows of the whole) of the share of a cut tensor; None for a whole one."""
    cut = _as_cut(tensor)
    if cut is None:
        return None
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape, offset = compute_local_shape_and_global_offset(cut.shape, cut.device_mesh, cut.placements)
    return offset[0], offset[0] + shape[0], cut.shape[0]


def share(tensor: torch.Tensor) -> torch.Tensor:
    """What this worker holds of a tensor, as a view."""
    cut = _as_cut(tensor)
    return tensor if cut is None else cut.to_local()


def like(share_of: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Rows of this worker as a tensor that is cut (or not) as `share_of` is."""
    rows = rows.to(share_of.device)
    cut = _as_cut(share_of)
    if cut is None:
        return rows
    return type(cut).from_local(
        rows, cut.device_mesh, cut.placements, run_check=False, shape=cut.shape, stride=cut.stride()
    )


def copy_of_shares(tensors: Mapping[str, torch.Tensor]) -> Part:
    """This worker's shares of some tensors, copied to the CPU."""
    part = Part({})
    for name, tensor in tensors.items():
        reach = rows_here(tensor)
        if reach is not None:
            if reach[0] == reach[1]:
                continue  # too few rows for every worker
            part.rows[name] = (reach[0], reach[2])
        part.tensors[name] = share(tensor).detach().to("cpu", copy=True).contiguous()
    return part


def named_states(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, torch.Tensor, dict[str, torch.Tensor]]]:
    """(name, parameter, its optimizer state) of every parameter of groups with names (`optim.parameter_groups`)."""
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            yield name, parameter, optimizer.state.get(parameter, {})
