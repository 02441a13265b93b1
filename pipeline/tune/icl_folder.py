"""What a sweep over training settings keeps on storage; its position is what exists of it.

trials/0003/proposal.json    written before the trial begins
trials/0003/run-0/           its training run (`train.run_folder`), readable by jobs.evaluate
trials/0003/run-1/           of a population: a run that goes on from another member's checkpoint
trials/0003/run-1/begun.json the run's setting, and the checkpoint it began from
trials/0003/ended.json       the trial, once it has ended
trials.json                  all trials that have ended
spent.json                   hours of work so far
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipeline import storage
from pipeline.train.run_folder import METRICS
from pipeline.train.state import step_of
from pipeline.tune.proposals import Proposal
from pipeline.tune.trials import Trial, from_json

TRIALS, PROPOSAL, ENDED, BEGUN, SPENT = "trials", "proposal.json", "ended.json", "begun.json", "spent.json"
VALIDATION = "val/"


@dataclass(frozen=True)
class Segment:
    """A training run of a trial.

    Attributes:
        setting: what it trains with.
        source: checkpoint of another trial that it began from; "": from the start.
    """

    uri: str
    setting: dict[str, Any]
    source: str = ""


def trial_uri(out: str, number: int) -> str:
    return storage.join(out, TRIALS, f"{number:04d}")


def numbers(out: str) -> list[int]:
    """The trials that have been proposed."""
    return sorted(int(uri.rsplit("/", 1)[1]) for uri in storage.list_folders(storage.join(out, TRIALS)))


def write_proposal(out: str, number: int, proposal: Proposal) -> None:
    _write(storage.join(trial_uri(out, number), PROPOSAL), asdict(proposal))


def read_proposal(out: str, number: int) -> Proposal:
    return Proposal(**from_json(_read(storage.join(trial_uri(out, number), PROPOSAL))))


def write_ended(out: str, trial: Trial) -> None:
    _write(storage.join(trial_uri(out, trial.id), ENDED), trial.to_dict())


def read_ended(out: str, number: int) -> Trial | None:
    """A trial that has ended, else None."""
    uri = storage.join(trial_uri(out, number), ENDED)
    return Trial.from_dict(_read(uri)) if storage.exists(uri) else None


def write_trials(out: str, trials: list[Trial]) -> None:
    _write(storage.join(out, f"{TRIALS}.json"), [trial.to_dict() for trial in trials])


def write_spent(out: str, seconds: float, gpu_seconds: float) -> None:
    _write(storage.join(out, SPENT), {"seconds": seconds, "gpu_seconds": gpu_seconds})


def read_spent(out: str) -> tuple[float, float]:
    """Seconds of work, and of GPUs, by all commands that worked on the sweep."""
    uri = storage.join(out, SPENT)
    held = _read(uri) if storage.exists(uri) else {}
    return held.get("seconds", 0.0), held.get("gpu_seconds", 0.0)


def segments(trial: str) -> list[Segment]:
    """The training runs of a trial, in their order."""
    found = []
    while storage.exists(about := storage.join(uri := storage.join(trial, f"run-{len(found)}"), BEGUN)):
        held = from_json(_read(about))
        found.append(Segment(uri, held["setting"], held["source"]))
    return found


def setting_now(out: str, number: int) -> dict[str, Any]:
    """What a trial trains with: as it was proposed, or as its last run has it."""
    found = segments(trial_uri(out, number))
    return found[-1].setting if found else read_proposal(out, number).setting


def begin_segment(trial: str, setting: Mapping[str, Any], source: str = "") -> Segment:
    """The trial's next run; the last one where that began with the same setting from the same checkpoint."""
    found = segments(trial)
    if found and (dict(setting), source) == (found[-1].setting, found[-1].source):
        return found[-1]
    segment = Segment(storage.join(trial, f"run-{len(found)}"), dict(setting), source)
    _write(storage.join(segment.uri, BEGUN), {"setting": segment.setting, "source": source})
    return segment


def history(trial: str) -> list[dict[str, float]]:
    """{"step": ..., figure: value} of each validation over all runs of a trial, in order.

    What a run did after the step at which the next one took over from another trial does not count.
    """
    found: dict[int, dict[str, float]] = {}
    for segment in segments(trial):
        if segment.source:
            found = {step: row for step, row in found.items() if step <= step_of(segment.source)}
        uri = storage.join(segment.uri, METRICS)
        if storage.exists(uri):
            for row in map(json.loads, storage.read_bytes(uri).decode().splitlines()):
                if figures := validation_figures(row):
                    found[row["step"]] = {"step": row["step"], **figures}
    return [found[step] for step in sorted(found)]


def validation_figures(row: Mapping[str, Any]) -> dict[str, float]:
    """The validation's figures among the values of a step, under their plain names (noc90)."""
    return {name.removeprefix(VALIDATION): value for name, value in row.items() if name.startswith(VALIDATION)}


def _write(uri: str, content: Any) -> None:
    storage.write_bytes(uri, json.dumps(content, indent=1).encode())


def _read(uri: str) -> Any:
    return json.loads(storage.read_bytes(uri))
