"""What was asked for, checked before any work: every mistake of the user that can be seen without Ray is found here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline import storage
from pipeline.config import Cfr
from pipeline.config import io as config_io
from pipeline.config.evaluation import EvaluateConfig, EvaluationBase
from pipeline.data import fingerprint
from pipeline.data.fingerprint import Marks, checksum, of_shards
from pipeline.data.manifest import load_manifest
from pipeline.engine.lease import other_names
from pipeline.errors import UserError
from pipeline.evaluate.foreign import Origin, find
from pipeline.evaluate.plan import DataSet
from pipeline.evaluate.setting import Setting
from pipeline.evaluate.sources import Source, open_source, parse_data
from pipeline.model.checkpoints import load_model
from pipeline.model.segmenter import check_crop
from pipeline.storage.json_files import read_json, write_json
from pipeline.weights import located

IDENTITY = "evaluation.json"


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What can be carried out: of an evaluation, or of a sweep over CFR settings."""

    config: EvaluationBase
    out: str
    checkpoint: Origin
    sources: list[Source]


@dataclass(frozen=True, kw_only=True)
class CheckedEvaluation(Checked):
    """An evaluation that can be carried out."""

    config: EvaluateConfig
    settings: list[Setting]


def check(config: EvaluateConfig) -> CheckedEvaluation:
    """Check an evaluation without starting anything; then claim the output folder for it.

    Raises:
        UserError: as `look_at` and `claim` say.
    """
    cfr = config.cfr
    settings = [Setting(steps, cfr.clicks, cfr.adaptive) for steps in config.cfr_steps]
    checked = CheckedEvaluation(**look_at(config), config=config, settings=settings)
    claim(storage.join(checked.out, IDENTITY), identity(checked), "an evaluation", inputs_of(checked))
    return checked


def inputs_of(checked: Checked) -> dict[str, Marks]:
    """What goes into the results besides the options; of raw folders see `hold_shards`."""
    shards = {f"data {s.name}": of_shards(load_manifest(s.uri)) for s in checked.sources if not s.layout}
    network = config_io.to_dict(checked.checkpoint.model) if checked.checkpoint.model is not None else None
    return {"checkpoint": {"weights": checked.checkpoint.sha256, "config": checksum(network)}, **shards}


def hold_shards(out: str, datasets: Sequence[DataSet]) -> None:
    """Bind an output folder to the shards that it is made from, those of raw folders too.

    Raises:
        UserError: results there are of other shards.
    """
    fingerprint.hold(out, {f"data {data.name}": data.marks for data in datasets})


def look_at(config: EvaluationBase) -> dict[str, Any]:
    """Check what an evaluation or a cfr sweep works on, and nothing of its output folder.

    Returns:
        The fields of `Checked` besides the config.

    Raises:
        UserError: no such data, not a checkpoint, a crop that does not fit the model.
    """
    pairs = parse_data(config.data, config.voc_grey)
    if not pairs:
        raise UserError("--data names nothing to evaluate on. Example: --data grabcut=/data/GrabCut")
    out = storage.absolute(config.out)
    predictor = config.predictor if isinstance(config, EvaluateConfig) else ""
    if not (predictor or config.checkpoint):
        raise UserError("--checkpoint says what is evaluated: small, a run or checkpoint folder, or a published .pth.")
    checkpoint = find(predictor) if predictor else load_model(located(config.checkpoint))[1]
    sources = [open_source(name, text, out, config.crop, checkpoint) for name, text in pairs]
    if checkpoint.model is not None:
        for source in sources:
            check_crop(checkpoint.model, source.crop, "--crop")
    return {"out": out, "checkpoint": checkpoint, "sources": sources}


def identity(checked: CheckedEvaluation) -> dict[str, Any]:
    """What decides the results; the same in the output folder means that an evaluation is continued."""
    config = checked.config
    cfr = {k: v for k, v in asdict(config.cfr).items() if k not in ("steps", "crop")}
    return {**common_identity(checked), "cfr_steps": list(config.cfr_steps), "cfr": cfr}


def common_identity(checked: Checked) -> dict[str, Any]:
    """The part of the identity that a cfr sweep has too.

    Not in it: actors, GPU and the limit of bad rows, which may change from one start to the next.
    """
    config = checked.config
    rules = asdict(config.eval)
    for name in ("actors", "device", "gpu", "max_bad_fraction", "hang_seconds"):
        del rules[name]
    return {
        "format": 2,
        "checkpoint": checked.checkpoint.sha256,
        "data": {s.name: {"uri": s.uri, "layout": s.layout, "crop": s.crop} for s in checked.sources},
        "eval": rules,
        "batch_size": config.batch_size or 1,
        "limit": config.limit,
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
        held, wanted = _flat(read_json(uri)), _flat(wanted)
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


def _flat(content: dict[str, Any]) -> dict[str, Any]:
    """Groups of options taken apart, so that only those that differ are named."""
    found: dict[str, Any] = {}
    for name, value in content.items():
        found |= {f"{name}.{key}": one for key, one in value.items()} if isinstance(value, dict) else {name: value}
    return found


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else text[:197] + "..."


def cfr_of(config: EvaluateConfig, setting: Setting, crop: int) -> Cfr:
    """The inner loop of one setting at one crop."""
    return replace(config.cfr, steps=setting.steps, clicks=setting.clicks, adaptive=setting.adaptive, crop=crop)


def options(config: EvaluateConfig) -> dict[str, Any]:
    """The options by dotted name, as they are printed and tracked."""
    values = {f"cfr.{k}": v for k, v in config_io.flatten(config.cfr).items() if k not in ("steps", "crop")}
    values |= {f"eval.{k}": v for k, v in config_io.flatten(config.eval).items()}
    return {**values, "batch_size": config.batch, "limit": config.limit}
