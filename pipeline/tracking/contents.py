"""What an output folder holds of its MLflow run: who the run is (tracking.json), values, tags and files.

A folder is a training run, an evaluation, a sweep, or a trial of a sweep, whose training run lies in run-0 below it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple

from pipeline import storage
from pipeline.errors import UserError
from pipeline.evaluate.setting import Setting
from pipeline.storage.json_files import read_json, write_json
from pipeline.train.run_folder import CONFIG, METRICS, PICTURES
from pipeline.train.state import complete_checkpoints, step_of
from pipeline.tune.icl_folder import ENDED, RUN

IDENTITY, SUMMARY = "tracking.json", "summary.json"
FILES = (CONFIG, SUMMARY, "best.json", "report.md", "report.html")
MODEL = "model/"  # a folder for the step of each MLflow model
WRITTEN_ONCE = (f"{PICTURES}/", MODEL)  # all other files may be written again
FOLDERS = (f"{PICTURES}/", "report-figures/")


class Values(NamedTuple):
    """Values of one moment.

    Attributes:
        step: None: final values, which the store has at step 0.
        time: milliseconds since 1970; the same each time, as a store knows a value that it is sent again by it.
    """

    step: int | None
    time: int
    values: Mapping[str, float]


@dataclass
class Identity:
    """Which run an output folder belongs to, whether or not the store knows it yet; the content of tracking.json.

    Attributes:
        key: our own id, a tag of the MLflow run. A folder that was emptied and begun again is another run.
        uri: tracking URI, credentials masked.
        began: milliseconds since 1970; the run's start, also when it is made in the store long afterwards.
        params: MLflow never changes one: a later value is the tag continued.NAME.
        run_id: MLflow's id once the run exists.
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
    run_id: str | None = None
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
    """What summary.json and ended.json say: final values, and IoU by click."""
    summary, trial = _read(storage.join(out, SUMMARY)), _read(storage.join(out, ENDED))
    for entry in summary.get("results", []):
        if entry["objects"]:
            prefix = f"{entry['dataset']}/{Setting.of(entry).label}"
            yield Values(None, time, {f"{prefix}/{name}": value for name, value in _figures(entry).items()})
            yield from _by_click(f"{prefix}/mean_iou", entry["mean_iou"], time)
    if "trials" in summary:
        yield Values(None, time, {f"passes_{name}": n for name, n in summary.get("passes", {}).items()})
        best = summary["best"] or {"objectives": {}}
        yield Values(None, time, {f"best/{name}": value for name, value in best["objectives"].items()})
    if trial:
        prefix = "final/" if trial["history"] else ""  # beside val/ of a training run
        yield Values(None, time, {f"{prefix}{name}": value for name, value in trial["metrics"].items()})
        yield from _by_click("mean_iou", trial["curve"], time)


def tags(out: str) -> dict[str, str]:
    """Tags that tell of the newest checkpoint."""
    saved = complete_checkpoints(storage.join(out, _inner(out)).rstrip("/"))
    return checkpoint_tags(saved[-1]) if saved else {}


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


def _by_click(name: str, values: list[float], time: int) -> Iterator[Values]:
    for clicks, value in enumerate(values, start=1):
        yield Values(clicks, time, {name: value})
