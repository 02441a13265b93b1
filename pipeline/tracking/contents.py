"""What an output folder holds of its MLflow run: who the run is (tracking.json), values, tags and files.

A folder is a training run, an evaluation, a sweep, or a trial of a sweep, whose training run lies in run-0 below it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple

from pipeline import storage
from pipeline.data.fingerprint import Marks, checksum, of_shards
from pipeline.data.manifest import load_manifest
from pipeline.errors import UserError
from pipeline.evaluate.setting import Setting
from pipeline.storage.json_files import read_json, write_json
from pipeline.tracking.description import describe_run
from pipeline.train.run_folder import CONFIG, METRICS, PICTURES
from pipeline.train.state import complete_checkpoints, step_of
from pipeline.tune.icl_folder import ENDED, RUN
from pipeline.tune.setting_file import BEST

SETTINGS = "settings"  # below an evaluation's output: a folder for the run of each setting, where there are several
IDENTITY, SUMMARY = "tracking.json", "summary.json"
FILES = (CONFIG, SUMMARY, BEST, "report.md", "report.html")
DESCRIPTION = "mlflow.note.content"  # the tag that MLflow shows as the description
DIGEST = 32  # characters of a checksum, of which MLflow takes 36
TOP = ("noc80", "noc85", "noc90", "iou1", "iou5")  # figures of a run's result
MODEL = "model/"  # a folder for the step of each MLflow model
WRITTEN_ONCE = (f"{PICTURES}/", MODEL)  # all other files may be written again
FOLDERS = (f"{PICTURES}/", "report-figures/")


class Values(NamedTuple):
    """Values of one moment.

    Attributes:
        step: None: final values, which the store has at step 0.
        time: milliseconds since 1970; the same each time, as a store knows a value that it is sent again by it.
        held: the output folder has them, or will have them when it is saved.
    """

    step: int | None
    time: int
    values: Mapping[str, float]
    held: bool = True


@dataclass(frozen=True)
class DataInput:
    """A data set that a run used.

    Attributes:
        uri: credentials masked.
        digest: of its contents; the same for the same shards, wherever they lie.
        context: what for: train, val or test.
        rows: images.
        objects: of all rows.
    """

    name: str
    uri: str
    digest: str
    context: str
    rows: int
    objects: int


def prepared_input(uri: str, context: str) -> DataInput:
    """Prepared shards as an input.

    Raises:
        UserError: there are none.
    """
    manifest = load_manifest(uri)
    name = uri.rstrip("/").rsplit("/", 1)[-1]
    return DataInput(name, uri, digest(of_shards(manifest)), context, manifest.rows, manifest.objects)


def digest(marks: Marks) -> str:
    """What MLflow knows the contents of shards by."""
    return checksum(marks)[:DIGEST]


@dataclass
class Identity:
    """Which run an output folder belongs to, whether or not the store knows it yet; the content of tracking.json.

    Attributes:
        key: our own id, a tag of the MLflow run. A folder that was emptied and begun again is another run.
        uri: tracking URI, credentials masked.
        began: milliseconds since 1970; the run's start, also when it is made in the store long afterwards.
        params: MLflow never changes one: a later value is the tag continued.NAME.
        inputs: the data sets that it used, as `DataInput`.
        run_id: MLflow's id once the run exists.
        experiment_id: MLflow's, likewise.
        status: how the run ended; "" while it runs, or when its process was killed.
        ended: milliseconds since 1970; 0 with an empty status.
        complete: the store has all values up to this step.
        register: name of the registered model that the run's model becomes a version of; "" for none.
        model_tags: tags of that version.
        version: the version that it became; "" until then.
    """

    key: str
    uri: str
    experiment: str
    name: str
    began: int
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    inputs: list[dict[str, Any]] = field(default_factory=list)
    run_id: str | None = None
    experiment_id: str = ""
    status: str = ""
    ended: int = 0
    complete: int = -1
    register: str = ""
    model_tags: dict[str, str] = field(default_factory=dict)
    version: str = ""


def read_identity(out: str) -> Identity | None:
    """The run of an output folder; None when it was never tracked.

    Raises:
        UserError: the storage cannot be reached, or the file is another one.
    """
    uri = storage.join(out, IDENTITY)
    if not storage.exists(uri):
        return None
    try:
        content = read_json(uri)
        return Identity(**{f.name: content[f.name] for f in fields(Identity) if f.name in content})
    except (ValueError, TypeError) as error:
        raise UserError(f"{uri} does not say which run this output belongs to: {error}.") from error


def write_identity(out: str, identity: Identity) -> None:
    write_json(storage.join(out, IDENTITY), asdict(identity))


def curves(out: str, began: int) -> Iterator[Values]:
    """The lines of metrics.jsonl.

    Args:
        began: the time of lines without one, which earlier versions wrote.
    """
    uri = storage.join(out, f"{_inner(out)}{METRICS}")
    for line in storage.read_bytes(uri).decode().splitlines() if storage.exists(uri) else []:
        row = json.loads(line)
        yield Values(row.pop("step"), row.pop("time", began), row)


def results(out: str, time: int) -> Iterator[Values]:
    """What summary.json and ended.json say: final values, and IoU by click.

    One naming for all jobs: DATASET/noc90 is a figure on a data set (val/noc90 while training; DATASET/cfr4/noc90 where
    several settings were evaluated), and a figure without a data set is the run's result: of an evaluation the mean
    over the data sets, of a training that of its best checkpoint, of a sweep that of its best trial.
    """
    summary, trial = _read(storage.join(out, SUMMARY)), _read(storage.join(out, ENDED))
    entries = [entry for entry in summary.get("results", []) if entry["objects"]]
    several = len({Setting.of(entry) for entry in summary.get("results", [])}) > 1
    for entry in entries:
        prefix = f"{entry['dataset']}/{Setting.of(entry).label}" if several else entry["dataset"]
        yield Values(None, time, {f"{prefix}/{name}": value for name, value in _figures(entry).items()})
        yield from _by_click(f"{prefix}/mean_iou", entry["mean_iou"], time)
    if entries and not several:
        yield Values(None, time, _means([_figures(entry) for entry in entries]))
    if "trials" in summary:
        yield Values(None, time, {f"passes/{name}": n for name, n in summary.get("passes", {}).items()})
        yield Values(None, time, summary["best"]["objectives"] if summary["best"] else {})
    if summary.get("result"):
        yield Values(None, time, {name: value for name, value in summary["result"].items() if name in TOP})
    if trial:
        yield Values(None, time, trial["metrics"])
        yield from _by_click("mean_iou", trial["curve"], time)


def tags(out: str, page_of: Callable[[str], str] = lambda run_id: "") -> dict[str, str]:
    """Tags that tell of the newest checkpoint, and the run's description.

    Args:
        page_of: address of the page of a run, "" for one that the store does not have.
    """
    saved = complete_checkpoints(storage.join(out, _inner(out)).rstrip("/"))
    summary = _read(storage.join(out, SUMMARY))
    made_by = summary.get("checkpoint", {}).get("mlflow_run")
    try:
        said = describe_run(summary, page_of(made_by) if made_by else "")
    except KeyError:  # a summary of an earlier version; its values are sent all the same
        said = ""
    return {**(checkpoint_tags(saved[-1]) if saved else {}), **({DESCRIPTION: said} if said else {})}


def scored(out: str) -> tuple[str, dict[str, str]]:
    """Of an evaluation: the training run that made the checkpoint, "" without one, and its NoC, as tags of a model."""
    summary = _read(storage.join(out, SUMMARY))
    made_by = summary.get("checkpoint", {}).get("mlflow_run") or ""
    return made_by if "results" in summary else "", {
        f"{entry['dataset']}.{Setting.of(entry).label}.noc{level}": f"{value:.4f}"
        for entry in summary.get("results", [])
        for level, value in entry["noc"].items()
    }


def checkpoint_tags(uri: str) -> dict[str, str]:
    return {"checkpoint": uri, "checkpoint_step": str(step_of(uri))}


def files(out: str) -> list[str]:
    """Names, below `out`, of the files that MLflow shows."""
    inner, found = _inner(out), []
    for folder in ("", *FOLDERS):
        for uri in storage.list_files(storage.join(out, f"{inner}{folder}").rstrip("/"), recursive=False):
            name = uri.rsplit("/", 1)[-1]
            if folder or name in FILES:
                found.append(f"{inner}{folder}{name}")
    base = f"{out.rstrip('/')}/"
    return found + [uri.removeprefix(base) for uri in storage.list_files(storage.join(out, MODEL.rstrip("/")))]


def is_written_once(name: str) -> bool:
    """Whether a file of `files` never changes."""
    return any(folder in name for folder in WRITTEN_ONCE)


def model_folder(out: str) -> str:
    """The newest MLflow model of an output folder, below it; "" without one."""
    folders = storage.list_folders(storage.join(out, MODEL.rstrip("/")))
    return f"{MODEL}{max(uri.rstrip('/').rsplit('/', 1)[-1] for uri in folders)}" if folders else ""


def _inner(out: str) -> str:
    """Where the training run of an output lies below it: "" or "run-0/"."""
    return f"{RUN}/" if storage.exists(storage.join(out, RUN, CONFIG)) else ""


def _read(uri: str) -> dict[str, Any]:
    return read_json(uri) if storage.exists(uri) else {}


def _figures(entry: Mapping[str, Any]) -> dict[str, float]:
    """The final values of a data set and setting."""
    values = {f"noc{level}": value for level, value in entry["noc"].items()}
    values |= {f"nof{level}": value for level, value in entry["nof"].items()}
    values |= {f"iou{clicks}": value for clicks, value in entry["iou_at"].items()}
    return values | {name: entry[name] for name in ("objects", "seconds_per_click", "objects_per_second")}


def _means(figures: list[dict[str, float]]) -> dict[str, float]:
    """Means over data sets of the figures that a run is compared by."""
    return {name: sum(one[name] for one in figures) / len(figures) for name in TOP if all(name in f for f in figures)}


def _by_click(name: str, values: list[float], time: int) -> Iterator[Values]:
    for clicks, value in enumerate(values, start=1):
        yield Values(clicks, time, {name: value})
