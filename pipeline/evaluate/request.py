"""What was asked for, checked before any work: every mistake of the user that can be seen without Ray is found here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pipeline import config_io, storage
from pipeline.config import Cfr, Eval
from pipeline.data import fingerprint
from pipeline.data.fingerprint import Marks, checksum, of_shards
from pipeline.data.manifest import MANIFEST, PLAN, load_manifest
from pipeline.data.readers import SOURCES, open_reader
from pipeline.errors import UserError, did_you_mean
from pipeline.evaluate.plan import DataSet, Setting
from pipeline.model.checkpoints import CheckpointInfo, load_model
from pipeline.model.segmenter import check_crop

IDENTITY = "evaluation.json"
DAVIS_CROP = 672  # the published evaluation's crop for this one data set
# Of raw folders whose layout has splits.
SPLIT: dict[str, str] = dict.fromkeys(("coco-lvis", "merged", "sbd", "synthetic", "voc", "voc-grey"), "val")
VOC = "voc"
VOC_GREY = "voc-grey"  # read as the published evaluation did


@dataclass(frozen=True, kw_only=True)
class Request:
    """An evaluation as the command line describes it.

    Attributes:
        data: (NAME, URI) pairs; the URI holds prepared shards, or is a raw folder whose layout NAME says.
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
class Source:
    """A data set of the request.

    Attributes:
        layout: "" when `uri` holds prepared shards, else the reader's source of the raw folder.
        shards: URI of the prepared shards; those of a raw folder are made below the output folder.
    """

    name: str
    uri: str
    layout: str
    shards: str
    crop: int


@dataclass(frozen=True)
class Checked:
    """A request that can be carried out."""

    request: Request
    out: str
    checkpoint: CheckpointInfo
    settings: list[Setting]
    sources: list[Source]


def parse_data(words: tuple[str, ...], voc_grey: bool = False) -> tuple[tuple[str, str], ...]:
    """NAME=URI words as pairs.

    Args:
        voc_grey: take `voc` as `voc-grey`, which reads PASCAL VOC as the published evaluation did.

    Raises:
        UserError: a word of another form, a name that cannot be a file name or is used twice; no `voc` to read as grey.
    """
    pairs: list[tuple[str, str]] = []
    for word in words:
        name, equals, uri = word.partition("=")
        if voc_grey and name == VOC:
            name = VOC_GREY
        if not equals or not name or not uri:
            raise UserError(f"--data takes NAME=URI, got {word!r}. Example: --data grabcut=/data/GrabCut")
        if not name.replace("-", "").replace("_", "").isalnum():
            raise UserError(f"--data name {name!r} may hold letters, digits, - and _ only.")
        if name in (known for known, _ in pairs):
            raise UserError(f"--data names {name!r} twice; give each data set a name of its own.")
        pairs.append((name, uri))
    if voc_grey and VOC_GREY not in (name for name, _ in pairs):
        raise UserError("--voc-grey says how --data voc=... is read, and there is no such data set.")
    return tuple(pairs)


def default_crop(name: str, checkpoint: CheckpointInfo) -> int:
    """The crop our checkpoint was trained with; of a published one its training size, and 672 for DAVIS."""
    if checkpoint.config is not None:
        return checkpoint.config.data.crop
    return DAVIS_CROP if name.lower() == "davis" else checkpoint.model.train_size


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
    sources = [_source(name, storage.absolute(uri), out, request, checkpoint) for name, uri in request.data]
    settings = [Setting(steps, request.cfr.clicks, request.cfr.adaptive) for steps in request.steps]
    return Checked(request, out, checkpoint, settings, sources)


def _source(name: str, uri: str, out: str, request: Request, checkpoint: CheckpointInfo) -> Source:
    crop = request.crop or default_crop(name, checkpoint)
    check_crop(checkpoint.model, crop, "--crop")
    if not storage.exists(uri):
        raise UserError(f"There is no data set {uri} (--data {name}=...).")
    if any(storage.exists(storage.join(uri, file)) for file in (MANIFEST, PLAN)):
        source = load_manifest(uri).source
        if name != source and {name, source} == {VOC, VOC_GREY}:
            raise UserError(
                f"{uri} was prepared as {source!r}, not as {name!r}: prepare it again, or name it {source}=."
            )
        return Source(name, uri, "", uri, crop)
    layout = name if name in SOURCES else "folder"
    try:
        open_reader(layout, uri, SPLIT.get(layout, "")).items()
    except UserError as error:
        hint = did_you_mean(name, SOURCES.keys() - {"folder"}) if layout != name else ""
        raise UserError(
            f"{error} (--data {name}=... holds no manifest.json of prepared shards and was taken for the raw layout "
            f"{layout!r}.{hint})"
        ) from error
    return Source(name, uri, layout, storage.join(out, "data", name), crop)


def identity(checked: Checked) -> dict[str, Any]:
    """What decides the results; the same in the output folder means that an evaluation is continued.

    Not in it: actors, GPU and the limit of bad rows, which may change from one start to the next.
    """
    request = checked.request
    rules = asdict(request.rules)
    for name in ("actors", "gpu", "max_bad_fraction"):
        del rules[name]
    return {
        "format": 1,
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
        held = json.loads(storage.read_bytes(uri))
        differing = sorted(k for k in wanted.keys() | held.keys() if held.get(k) != wanted.get(k))
        if differing:
            raise UserError(
                f"{out} holds {what} with another {', '.join(differing)} "
                f"({'; '.join(f'{k}: {_short(held.get(k))} there, {_short(wanted.get(k))} here' for k in differing)}). "
                f"Choose another --out."
            )
    elif storage.exists(out) and (storage.list_files(out, recursive=False) or storage.list_folders(out)):
        raise UserError(f"{out} holds something that is not {what}. Choose another --out.")
    else:
        storage.write_bytes(uri, json.dumps(wanted, indent=1).encode())
    fingerprint.hold(out, inputs)


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else text[:197] + "..."


def cfr_of(request: Request, setting: Setting, crop: int) -> Cfr:
    """The inner loop of one setting at one crop."""
    return replace(request.cfr, steps=setting.steps, clicks=setting.clicks, adaptive=setting.adaptive, crop=crop)


def options(request: Request) -> dict[str, Any]:
    """The options by dotted name, as they are printed and tracked."""
    values = {f"cfr.{k}": v for k, v in config_io.flatten(request.cfr).items() if k not in ("steps", "crop")}
    values |= {f"eval.{k}": v for k, v in config_io.flatten(request.rules).items()}
    return {**values, "batch_size": request.batch_size, "limit": request.limit}
