"""Checkpoints: ours (safetensors and JSON, nothing to unpickle) and published .pth files.

Ours is a folder: `model.safetensors`, `optimizer.safetensors` (with FSDP one file for each worker, see `tensor_files`),
`state.json` (format version, step, position of the data, config, tracking run, size and checksum of every file).
`state.json` is written last: a folder without it is not a checkpoint. One imported from a published file has no
optimizer, but `unused.safetensors`: the tensors that no forward pass uses, kept for export.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from pipeline import config, storage
from pipeline.config import io as config_io
from pipeline.config.options import load_json
from pipeline.errors import UserError
from pipeline.model.foreign import kind_of, read_foreign
from pipeline.model.published import Published, from_published
from pipeline.model.segmenter import ClickSegmenter
from pipeline.model.tensor_files import Part, assemble, decode, encode, file_name
from pipeline.storage.json_files import write_json

FORMAT = 1
MODEL, OPTIMIZER, UNUSED = "model", "optimizer", "unused"  # kinds of tensor files
STATE = "state.json"
CHECKPOINTS = "checkpoints"  # folder of a run that holds its checkpoints


@dataclass(frozen=True)
class CheckpointInfo:
    """Where a model came from.

    Attributes:
        uri: the file or folder that was read.
        format: ours or published (also when it was imported).
        sha256: of the model's file, hex (`read_tensors`).
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

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a summary.json."""
        return {
            "uri": self.uri,
            "format": self.format,
            "sha256": self.sha256,
            "step": self.step,
            "recipe": self.config.recipe if self.config else None,
            "mlflow_run": self.mlflow_run,
            "model": config_io.to_dict(self.model),
        }


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
        raise UserError(
            f"{uri} is no checkpoint: it holds no {STATE}, and no folder '{CHECKPOINTS}' with one.{_seen(uri)}"
        )
    return max(found, key=lambda f: int(read_state(f)["step"]))


def _seen(uri: str) -> str:
    """What a folder without a checkpoint is instead, as a sentence; "" when nothing is known of it."""
    if storage.exists(storage.join(uri, CHECKPOINTS)) or storage.exists(storage.join(uri, "config.json")):
        return " It is a training run that has saved no checkpoint yet."
    runs = [f for f in storage.list_folders(uri) if storage.exists(storage.join(f, CHECKPOINTS))]
    if runs:
        return f" It holds several runs; name one: {few([f.rsplit('/', 1)[1] for f in runs])}."
    files = [f.rsplit("/", 1)[1] for f in storage.list_files(uri, recursive=False)]
    files = [f for f in files if f.endswith((".pth", ".pt", ".safetensors"))]
    return f" It holds {few(files)}: name the file." if files else ""


def read_state(uri: str) -> dict[str, Any]:
    """`state.json` of one of our checkpoint folders."""
    try:
        state = load_json(storage.read_bytes(storage.join(uri, STATE)))
    except ValueError as error:
        raise UserError(f"{storage.join(uri, STATE)} is not JSON: {error}.") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{uri} is not a checkpoint of format {FORMAT} of this project.")
    return state


def describe_file(data: bytes) -> dict[str, Any]:
    """Size and checksum of a checkpoint's file, for `state.json`."""
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def writers_in(state: dict[str, Any]) -> int:
    """Number of workers that wrote a checkpoint, each its own files (1: whole tensors)."""
    return int(state.get("writers", 1))


def read_part(uri: str, kind: str, state: dict[str, Any], index: int = 0) -> Part:
    """One writer's file of a kind of tensors.

    Args:
        uri: checkpoint folder.
        kind: MODEL or OPTIMIZER.
        state: as `read_state` gave it; its checksums are verified.

    Raises:
        UserError: missing or damaged.
    """
    return _read_part(uri, kind, state, index)[0]


def _read_part(uri: str, kind: str, state: dict[str, Any], index: int) -> tuple[Part, str]:
    name = file_name(kind, index, writers_in(state))
    where = storage.join(uri, name)
    data = storage.read_bytes(where)
    if (kind := kind_of(data)) and "alone" not in kind:
        raise UserError(f"{where} is no checkpoint: it {kind}.")
    found, noted = describe_file(data), state.get("files", {}).get(name)  # older checkpoints note no files
    if noted is not None and found != noted:
        raise UserError(
            f"{where} is damaged: it has {found['bytes']} bytes with checksum {found['sha256'][:12]}, written were "
            f"{noted['bytes']} with {noted['sha256'][:12]}. Use another checkpoint of the run."
        )
    return decode(data, where), found["sha256"]


def read_tensors(uri: str, kind: str, state: dict[str, Any]) -> tuple[dict[str, torch.Tensor], str]:
    """All tensors of a kind, whole, and the sha256 of their file (of the checksums, where there are several).

    Raises:
        UserError: missing or damaged.
    """
    count = writers_in(state)
    parts = [_read_part(uri, kind, state, index) for index in range(count)]
    sums = [checksum for _, checksum in parts]
    whole = parts[0][0].tensors if count == 1 else assemble([part for part, _ in parts], storage.join(uri, kind))
    return whole, sums[0] if count == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()


def check_fit(shapes: dict[str, torch.Size], weights: dict[str, torch.Tensor], name: str) -> None:
    """Compare weights with a model's parameters: a missing, extra or misshapen key, or one with NaN or infinity in it,
    is an error that names it.

    Raises:
        UserError: naming the keys.
    """
    missing = sorted(shapes.keys() - weights.keys())
    extra = sorted(weights.keys() - shapes.keys())
    wrong = [
        f"{k} is {tuple(weights[k].shape)}, not {tuple(shapes[k])}"
        for k in sorted(shapes.keys() & weights.keys())
        if shapes[k] != weights[k].shape
    ]
    problems = [f"missing {few(missing)}"] * bool(missing) + [f"unknown {few(extra)}"] * bool(extra)
    problems += [f"wrong shape: {few(wrong)}"] * bool(wrong)
    if problems:
        raise UserError(f"{name} does not fit the model: {'; '.join(problems)}.")
    check_finite(weights, name)


def check_finite(tensors: Mapping[str, torch.Tensor], name: str) -> None:
    """UserError that names the tensors which hold NaN or infinity."""
    bad = [key for key, value in tensors.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if bad:
        raise UserError(f"{name} holds NaN or infinity in {few(bad)}: its training broke. Use another checkpoint.")


def load_weights(model: ClickSegmenter, weights: dict[str, torch.Tensor], name: str) -> None:
    """Load weights strictly (`check_fit`)."""
    check_fit({k: v.shape for k, v in model.state_dict().items()}, weights, name)
    model.load_state_dict(weights)


def shapes_of(model: config.Model) -> dict[str, torch.Size]:
    """The shape of every parameter of an architecture, without memory for any."""
    with torch.device("meta"):
        return {name: value.shape for name, value in ClickSegmenter(model).state_dict().items()}


def few(names: list[str], most: int = 5) -> str:
    """The first names of a list, and how many more there are."""
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
        weights, sha256 = read_tensors(uri, MODEL, state)
        if state.get("imported"):
            info = CheckpointInfo(uri, "published", sha256, run.model)
        else:
            info = CheckpointInfo(uri, "cfr-icl", sha256, run.model, state["step"], run, state.get("mlflow_run"))
    else:
        published, sha256 = read_published(uri)
        weights, info = published.weights, CheckpointInfo(uri, "published", sha256, published.model)
    check_fit(shapes_of(info.model), weights, uri)  # before the model takes memory
    model = ClickSegmenter(info.model)
    model.load_state_dict(weights)
    return model.to(device).eval(), info


def write_weights(model: ClickSegmenter, info: CheckpointInfo, out: str, half: bool = False) -> int:
    """A model alone as a checkpoint of ours, for others: no optimizer, and nothing of where it was made.

    Args:
        info: of one of our own checkpoints.
        half: float16 weights.

    Returns:
        Bytes of its weights.
    """
    assert info.config is not None, "a checkpoint of ours"
    run = config_io.replace(info.config, **{"out": "", "data.train": "", "data.val": "", "model.start": ""})
    run = dataclasses.replace(run, tracking=config.Tracking())
    weights = {k: (v.half() if half else v).cpu().contiguous() for k, v in model.state_dict().items()}
    data = encode(Part(weights))
    storage.write_bytes(storage.join(out, file_name(MODEL)), data)
    described = {"format": FORMAT, "step": info.step, "position": None, "best": None, "mlflow_run": info.mlflow_run}
    files = {file_name(MODEL): describe_file(data)}
    write_json(storage.join(out, STATE), {**described, "config": config_io.to_dict(run), "files": files})
    return len(data)


def read_published(uri: str) -> tuple[Published, str]:
    """A published .pth file and its sha256 (hex).

    Raises:
        UserError: not such a file, damaged, or one that would run code.
    """
    data = storage.read_bytes(uri)
    return from_published(read_foreign(data, uri), uri), hashlib.sha256(data).hexdigest()


def read_unused(uri: str) -> dict[str, torch.Tensor]:
    """The tensors of a published file that no forward pass uses; empty for a model of our own."""
    if not storage.is_folder(uri):
        return read_published(uri)[0].unused
    kept = storage.join(find_checkpoint(uri), file_name(UNUSED))
    return decode(storage.read_bytes(kept), kept).tensors if storage.exists(kept) else {}


def write_imported(published: Published, sha256: str, source: str, out: str) -> None:
    """A published checkpoint in our format: no optimizer, step 0, the unused tensors beside the model.

    Its `imported` entry says that the weights are published ones: they are evaluated and named as such.

    Raises:
        UserError: the weights do not fit the architecture.
    """
    check_fit(shapes_of(published.model), published.weights, source)
    run = config.TrainConfig(recipe="imported", model=published.model)
    described: dict[str, Any] = {
        "format": FORMAT,
        "files": {},
        "step": 0,
        "position": None,
        "best": None,
        "mlflow_run": None,
        "imported": {"file": source.rstrip("/").rsplit("/", 1)[-1], "sha256": sha256},
        "config": config_io.to_dict(run),
    }
    for kind, tensors in ((MODEL, published.weights), (UNUSED, published.unused)):
        data = encode(Part({k: v.contiguous() for k, v in tensors.items()}))
        described["files"][file_name(kind)] = describe_file(data)
        storage.write_bytes(storage.join(out, file_name(kind)), data)
    write_json(storage.join(out, STATE), described)
