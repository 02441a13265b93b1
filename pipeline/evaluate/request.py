"""What was asked for, checked before any work: every mistake of the user that can be seen without Ray is found here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pipeline import storage
from pipeline.config import Cfr, Eval
from pipeline.config import io as config_io
from pipeline.data import fingerprint
from pipeline.data.fingerprint import Marks, checksum, of_shards
from pipeline.data.manifest import load_manifest
from pipeline.engine.lease import other_names
from pipeline.errors import UserError
from pipeline.evaluate.plan import DataSet
from pipeline.evaluate.setting import Setting
from pipeline.evaluate.sources import Source, open_source
from pipeline.model.checkpoints import CheckpointInfo, load_model
from pipeline.model.segmenter import check_crop
from pipeline.storage.json_files import read_json, write_json

IDENTITY = "evaluation.json"


@dataclass(frozen=True, kw_only=True)
class Request:
    """An evaluation as the command line describes it.

    Attributes:
        data: (NAME, URI) pairs; the URI holds prepared shards, or is a raw folder whose layout NAME says, or LAYOUT:
            before the URI.
        steps: one setting for each; `cfr.steps` is not used.
        crop: side of the network's input; 0: the checkpoint's own (`default_crop`). `cfr.crop` is not used.
        limit: objects of each data set, the first ones; 0: all.
    """

    checkpoint: str
    data: tuple[tuple[str, str], ...]
    out: str
    steps: tuple[int, ...] = (0,)
    cfr: Cfr = field(default_factory=Cfr)
    rules: Eval = field(default_factory=Eval)
    crop: int = 0
    batch_size: int = 1
    limit: int = 0


@dataclass(frozen=True)
class Checked:
    """A request that can be carried out."""

    request: Request
    out: str
    checkpoint: CheckpointInfo
    settings: list[Setting]
    sources: list[Source]


def check(request: Request) -> Checked:
    """Check a request without starting anything; then claim the output folder for it.

    Raises:
        UserError: as `look_at` and `claim` say.
    """
    checked = look_at(request)
    claim(storage.join(checked.out, IDENTITY), identity(checked), "an evaluation", inputs_of(checked))
    return checked


def inputs_of(checked: Checked) -> dict[str, Marks]:
    """What goes into the results besides the options; of raw folders see `hold_shards`."""
    shards = {f"data {s.name}": of_shards(load_manifest(s.uri)) for s in checked.sources if not s.layout}
    network = config_io.to_dict(checked.checkpoint.model)
    return {"checkpoint": {"weights": checked.checkpoint.sha256, "config": checksum(network)}, **shards}


def hold_shards(out: str, datasets: Sequence[DataSet]) -> None:
    """Bind an output folder to the shards that it is made from, those of raw folders too.

    Raises:
        UserError: results there are of other shards.
    """
    fingerprint.hold(out, {f"data {data.name}": data.marks for data in datasets})


def look_at(request: Request) -> Checked:
    """Check a request, and nothing of its output folder.

    Raises:
        UserError: bad options, no such data, not a checkpoint, a crop that does not fit the model.
    """
    if not request.data:
        raise UserError("--data names nothing to evaluate on. Example: --data grabcut=/data/GrabCut")
    if not request.steps or min(request.steps) < 0 or len(set(request.steps)) < len(request.steps):
        raise UserError(f"--cfr-steps takes different numbers from 0 up, got {list(request.steps)}.")
    if request.batch_size < 1 or request.limit < 0 or request.rules.actors < 0:
        raise UserError("--batch-size must be at least 1, --limit and --actors at least 0.")
    out = storage.absolute(request.out)
    _, checkpoint = load_model(storage.absolute(request.checkpoint))
    sources = [open_source(name, text, out, request.crop, checkpoint) for name, text in request.data]
    for source in sources:
        check_crop(checkpoint.model, source.crop, "--crop")
    settings = [Setting(steps, request.cfr.clicks, request.cfr.adaptive) for steps in request.steps]
    return Checked(request, out, checkpoint, settings, sources)


def identity(checked: Checked) -> dict[str, Any]:
    """What decides the results; the same in the output folder means that an evaluation is continued.

    Not in it: actors, GPU and the limit of bad rows, which may change from one start to the next.
    """
    request = checked.request
    rules = asdict(request.rules)
    for name in ("actors", "device", "gpu", "max_bad_fraction", "hang_seconds"):
        del rules[name]
    return {
        "format": 2,
        "checkpoint": checked.checkpoint.sha256,
        "data": {s.name: {"uri": s.uri, "layout": s.layout, "crop": s.crop} for s in checked.sources},
        "cfr_steps": list(request.steps),
        "cfr": {k: v for k, v in asdict(request.cfr).items() if k not in ("steps", "crop")},
        "eval": rules,
        "batch_size": request.batch_size,
        "limit": request.limit,
    }


def claim(uri: str, wanted: dict[str, Any], what: str, inputs: Mapping[str, Marks]) -> None:
    """Note in a new output folder what decides its results, or find the same noted there.

    Args:
        uri: of the note, a file directly in the output folder.
        what: the folder holds, "an evaluation".
        inputs: marks of what goes in (`data.fingerprint`).

    Raises:
        UserError: the folder holds something else, or the same with other options or of other inputs.
    """
    out = uri.rsplit("/", 1)[0]
    wanted = json.loads(json.dumps(wanted))
    if storage.exists(uri):
        held = read_json(uri)
        differing = sorted(k for k in wanted.keys() | held.keys() if held.get(k) != wanted.get(k))
        if differing:
            raise UserError(
                f"{out} holds {what} with another {', '.join(differing)} "
                f"({'; '.join(f'{k}: {_short(held.get(k))} there, {_short(wanted.get(k))} here' for k in differing)}). "
                f"Choose another --out."
            )
    elif storage.exists(out) and (other_names(storage.list_files(out, recursive=False)) or storage.list_folders(out)):
        raise UserError(f"{out} holds something that is not {what}. Choose another --out.")
    else:
        write_json(uri, wanted)
    fingerprint.hold(out, inputs)


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else text[:197] + "..."


def on_device(checked: Checked, rules: Eval, batch_size: int) -> Checked:
    """The request with what the cluster decided: device and objects that share a forward pass."""
    return replace(checked, request=replace(checked.request, rules=rules, batch_size=batch_size))


def cfr_of(request: Request, setting: Setting, crop: int) -> Cfr:
    """The inner loop of one setting at one crop."""
    return replace(request.cfr, steps=setting.steps, clicks=setting.clicks, adaptive=setting.adaptive, crop=crop)


def options(request: Request) -> dict[str, Any]:
    """The options by dotted name, as they are printed and tracked."""
    values = {f"cfr.{k}": v for k, v in config_io.flatten(request.cfr).items() if k not in ("steps", "crop")}
    values |= {f"eval.{k}": v for k, v in config_io.flatten(request.rules).items()}
    return {**values, "batch_size": request.batch_size, "limit": request.limit}
