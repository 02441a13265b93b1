"""The whole state of a training run, and its checkpoints (format: `pipeline.model.checkpoints`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pipeline import config, storage
from pipeline.config import io as config_io
from pipeline.errors import StorageUnavailable, UserError
from pipeline.model.checkpoints import (
    CHECKPOINTS,
    FORMAT,
    MODEL,
    OPTIMIZER,
    STATE,
    check_finite,
    check_fit,
    describe_file,
    read_part,
    read_state,
    writers_in,
)
from pipeline.model.segmenter import ClickSegmenter
from pipeline.model.tensor_files import Part, encode, file_name, take_rows, writers_of
from pipeline.storage.json_files import write_json
from pipeline.stream.order import Position
from pipeline.train.optim import AVERAGE, exchange_average
from pipeline.train.parallel import copy_of_shares, like, named_states, rows_here, share

MOMENTS = ("exp_avg", "exp_avg_sq", AVERAGE)  # of Adam and of the running mean, each of its parameter's shape


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


@dataclass(frozen=True)
class Snapshot:
    """A worker's part of a checkpoint, copied out of the training's way.

    Attributes:
        uri: of the checkpoint folder.
        parts: by kind of tensor file; empty on a worker that writes nothing.
        described: `state.json`, without its files.
    """

    step: int
    uri: str
    parts: dict[str, Part]
    described: dict[str, Any]


def take_snapshot(state: TrainState, run: config.TrainConfig, writers: int, writes: bool) -> Snapshot:
    """Copy the state; training may go on at once.

    Where a running mean of the weights is kept, call it in `optim.averaged`: the model's file then holds the mean,
    which is what others load, and the optimizer's the weights.

    Args:
        writers: workers that write files, each its share of the tensors.
        writes: whether this worker is one of them.
    """
    parts: dict[str, Part] = {}
    if writes:
        parts = {
            MODEL: copy_of_shares(state.model.state_dict()),
            OPTIMIZER: copy_of_shares(optimizer_tensors(state.optimizer)),
        }
    described = {
        "format": FORMAT,
        "writers": writers,
        "step": state.step,
        "position": state.position.to_dict(),
        "best": state.best,
        "mlflow_run": state.mlflow_run,
        "config": config_io.masked(run),
    }
    return Snapshot(state.step, checkpoint_uri(run.out, state.step), parts, described)


def write_parts(snapshot: Snapshot, writer: int) -> dict[str, dict[str, Any]]:
    """Write a worker's files; the checkpoint does not count before `publish`.

    Returns:
        Size and checksum of each by name.
    """
    files = {}
    for kind, part in snapshot.parts.items():
        name, data = file_name(kind, writer, snapshot.described["writers"]), encode(part)
        storage.write_bytes(storage.join(snapshot.uri, name), data)
        files[name] = describe_file(data)
    return files


def publish(snapshot: Snapshot, files: dict[str, dict[str, Any]]) -> None:
    """Write `state.json`, by which the checkpoint counts, once all `files` of all workers are there.

    Raises:
        StorageUnavailable: files that were written are gone.
    """
    found = {uri.rsplit("/", 1)[1]: uri for uri in storage.list_files(snapshot.uri)}
    if gone := sorted(files.keys() - found.keys()):
        raise StorageUnavailable(f"{snapshot.uri}: {', '.join(gone)} was written, and is not there any more.")
    for name in found.keys() - files.keys():  # of an earlier try, by another number of workers
        storage.remove(found[name])
    described = {**snapshot.described, "files": files}
    write_json(storage.join(snapshot.uri, STATE), described)


def prune(out: str, keep: int) -> None:
    """Delete all checkpoints but the first, the best and the last `keep`, and those that were never finished.

    Nothing newer than the last one is touched: other workers may have begun to write the next.
    """
    found = complete_checkpoints(out)
    if not found:
        return
    best = read_state(found[-1])["best"]
    spared = set(found[-keep:]) | {checkpoint_uri(out, 0)} | ({checkpoint_uri(out, best[1])} if best else set())
    for folder in storage.list_folders(storage.join(out, CHECKPOINTS)):
        if folder not in spared and folder < found[-1]:
            storage.remove(storage.join(folder, STATE))  # first: half-deleted must not look complete
            storage.remove(folder)


def restore(state: TrainState, uri: str) -> None:
    """Load a checkpoint of the same run into `state`, however many workers wrote it and hold it now.

    Raises:
        UserError: the checkpoint is damaged or does not fit.
    """
    described = read_state(uri)
    _fill(state.model.state_dict(), _read_shares(uri, MODEL, described, state.model.state_dict()), uri)
    moments = {f"{name}/{key}": parameter for name, parameter, _ in named_states(state.optimizer) for key in MOMENTS}
    load_optimizer_tensors(state.optimizer, _read_shares(uri, OPTIMIZER, described, moments), uri)
    state.step = int(described["step"])
    state.position = Position.from_dict(described["position"])
    state.best = tuple(described["best"]) if described["best"] else None
    state.mlflow_run = described["mlflow_run"]
    exchange_average(state.optimizer)  # a checkpoint's model is the mean, where one is kept


def _read_shares(
    uri: str, kind: str, described: dict[str, Any], like_these: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Tensors of a checkpoint, of those that are cut here only this worker's rows; reads only the files it needs."""
    writers = writers_in(described)
    wanted = {name: reach for name, tensor in like_these.items() if (reach := rows_here(tensor)) is not None}
    if wanted:
        needed = {0} | {w for start, stop, total in wanted.values() for w in writers_of(start, stop, total, writers)}
    else:
        needed = set(range(writers))
    parts = [read_part(uri, kind, described, index) for index in sorted(needed)]
    cut = {name: total for part in parts for name, (_, total) in part.rows.items()}
    found: dict[str, torch.Tensor] = {}
    rows: dict[str, tuple[int, int]] = {}
    for name, tensor in ((name, tensor) for part in parts for name, tensor in part.tensors.items()):
        if name in wanted:
            start, stop, _ = wanted[name]
            if start < stop:
                rows[name] = start, stop
        elif name in cut:
            rows[name] = 0, cut[name]
        else:
            found[name] = tensor
    return {**found, **take_rows(parts, rows, uri)}


def _fill(targets: Mapping[str, torch.Tensor], values: dict[str, torch.Tensor], name: str) -> None:
    """Copy values into this worker's shares of `targets`; a missing, extra or misshapen one is an error."""
    shares = {key: share(target) for key, target in targets.items()}
    check_fit({key: tensor.shape for key, tensor in shares.items() if tensor.numel()}, values, name)
    with torch.no_grad():
        for key, tensor in shares.items():
            if tensor.numel():
                tensor.copy_(values[key])


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's state by parameter name: {"<parameter>/exp_avg": tensor, ...}; empty before the first step."""
    return {f"{name}/{key}": value for name, _, held in named_states(optimizer) for key, value in held.items()}


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor], name: str) -> None:
    """Inverse of `optimizer_tensors`; of cut parameters the tensors hold this worker's rows.

    Raises:
        UserError: tensors of other parameters, or with NaN or infinity.
    """
    check_finite(tensors, name)
    by_parameter: dict[str, dict[str, torch.Tensor]] = {}
    moments = {key.rpartition("/")[2] for key in tensors}.intersection(MOMENTS)
    for key, value in tensors.items():
        parameter_name, _, kind = key.rpartition("/")
        by_parameter.setdefault(parameter_name, {})[kind] = value
    for parameter_name, parameter, _ in list(named_states(optimizer)):
        found = by_parameter.pop(parameter_name, None)
        if found:
            if not share(parameter).numel():  # no rows of it here, and none were read
                found |= dict.fromkeys(moments, torch.zeros_like(share(parameter)))
            # In the same order on every worker: whoever gathers cut tensors one after the other would mix them up
            # otherwise. Step counts are never cut; a GPU's fused Adam wants them there.
            ordered, device = sorted(found.items()), share(parameter).device
            optimizer.state[parameter] = {k: v.to(device) if v.ndim == 0 else like(parameter, v) for k, v in ordered}
    if by_parameter:
        unknown = ", ".join(sorted(by_parameter)[:5])
        raise UserError(f"The optimizer state in {name} is of another model: unknown {unknown}.")
