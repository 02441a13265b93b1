"""Checkpoints: ours (safetensors and JSON, nothing to unpickle) and published .pth files.

Ours is a folder: `model.safetensors`, `optimizer.safetensors`, `state.json` (format version, step, position of the
data, config, tracking run). `state.json` is written last: a folder without it is not a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes

from pipeline import config, config_io, storage
from pipeline.errors import UserError
from pipeline.model.pickle_reader import read_torch_pickle
from pipeline.model.published import from_published
from pipeline.model.segmenter import ClickSegmenter

FORMAT = 1
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
CHECKPOINTS = "checkpoints"  # folder of a run that holds its checkpoints


@dataclass(frozen=True)
class CheckpointInfo:
    """Where a model came from.

    Attributes:
        uri: the file or folder that was read.
        format: ours or published.
        sha256: of the model's file, hex.
        model: architecture.
        step: optimizer steps done (ours).
        config: of the training run (ours).
        mlflow_run: id of the training run (ours, when tracked).
    """

    uri: str
    format: Literal["cfr-icl", "published"]
    sha256: str
    model: config.Model
    step: int | None = None
    config: config.TrainConfig | None = None
    mlflow_run: str | None = None


def find_checkpoint(uri: str) -> str:
    """The checkpoint a URI means: a checkpoint folder itself, or the latest one of a run folder.

    Raises:
        UserError: there is none.
    """
    if storage.exists(storage.join(uri, STATE)):
        return uri
    base = storage.join(uri, CHECKPOINTS) if storage.exists(storage.join(uri, CHECKPOINTS)) else uri
    found = [f for f in storage.list_folders(base) if storage.exists(storage.join(f, STATE))]
    if not found:
        raise UserError(f"{uri} is no checkpoint: it holds no {STATE}, and no folder '{CHECKPOINTS}' with one.")
    return max(found, key=lambda f: int(read_state(f)["step"]))


def read_state(uri: str) -> dict[str, Any]:
    """`state.json` of one of our checkpoint folders."""
    try:
        state = json.loads(storage.read_bytes(storage.join(uri, STATE)))
    except ValueError as error:
        raise UserError(f"{storage.join(uri, STATE)} is not JSON: {error}.") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{uri} is not a checkpoint of format {FORMAT} of this project.")
    return state


def read_tensors(uri: str) -> dict[str, torch.Tensor]:
    """A safetensors file."""
    try:
        return tensors_from_bytes(storage.read_bytes(uri))
    except SafetensorError as error:
        raise UserError(f"{uri} is damaged: {error}.") from error


def load_weights(model: ClickSegmenter, weights: dict[str, torch.Tensor], name: str) -> None:
    """Load weights strictly: a missing, extra or misshapen key is an error that names it.

    Raises:
        UserError: naming the keys.
    """
    own = model.state_dict()
    missing = sorted(own.keys() - weights.keys())
    extra = sorted(weights.keys() - own.keys())
    shapes = [
        f"{k} is {tuple(weights[k].shape)}, not {tuple(own[k].shape)}"
        for k in sorted(own.keys() & weights.keys())
        if own[k].shape != weights[k].shape
    ]
    problems = [f"missing {_few(missing)}"] * bool(missing) + [f"unknown {_few(extra)}"] * bool(extra)
    problems += [f"wrong shape: {_few(shapes)}"] * bool(shapes)
    if problems:
        raise UserError(f"{name} does not fit the model: {'; '.join(problems)}.")
    model.load_state_dict(weights)


def _few(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def load_model(uri: str, device: str = "cpu") -> tuple[ClickSegmenter, CheckpointInfo]:
    """A model from our checkpoint folder, a run folder (its latest checkpoint) or a published .pth file.

    Returns:
        The model in eval mode on `device`, and where it came from.

    Raises:
        UserError: nothing there, not a checkpoint, damaged, or keys that do not fit.
    """
    if not storage.exists(uri):
        raise UserError(f"There is no checkpoint {uri}.")
    if storage.is_folder(uri):
        uri = find_checkpoint(uri)
        state = read_state(uri)
        run: config.TrainConfig = config_io.from_dict(config.TrainConfig, state["config"])
        data = storage.read_bytes(storage.join(uri, MODEL))
        try:
            weights = tensors_from_bytes(data)
        except SafetensorError as error:
            raise UserError(f"{storage.join(uri, MODEL)} is damaged: {error}.") from error
        info = CheckpointInfo(
            uri, "cfr-icl", hashlib.sha256(data).hexdigest(), run.model, state["step"], run, state.get("mlflow_run")
        )
    else:
        data = storage.read_bytes(uri)
        weights, architecture = from_published(read_torch_pickle(data, uri), uri)
        info = CheckpointInfo(uri, "published", hashlib.sha256(data).hexdigest(), architecture)
    model = ClickSegmenter(info.model)
    load_weights(model, weights, uri)
    return model.to(device).eval(), info
