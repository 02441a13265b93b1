"""What a sweep over training settings keeps on storage; its position is what exists of it.

trials/0003/proposal.json  written before the trial begins
trials/0003/run-0/         its training run (`train.run_folder`), readable by jobs.evaluate
trials/0003/ended.json     the trial, once it has ended
trials.json                all trials that have ended
spent.json                 hours of work so far
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pipeline import storage
from pipeline.storage.json_files import read_json, write_json
from pipeline.train.run_folder import METRICS
from pipeline.tune.proposals import Proposal
from pipeline.tune.trials import Trial, from_json

TRIALS, RUN = "trials", "run-0"
PROPOSAL, ENDED, SPENT = "proposal.json", "ended.json", "spent.json"
VALIDATION = "val/"


def trial_uri(out: str, number: int) -> str:
    return storage.join(out, TRIALS, f"{number:04d}")


def run_uri(out: str, number: int) -> str:
    """The training run of a trial."""
    return storage.join(trial_uri(out, number), RUN)


def numbers(out: str) -> list[int]:
    """The trials that have been proposed."""
    return sorted(int(uri.rsplit("/", 1)[1]) for uri in storage.list_folders(storage.join(out, TRIALS)))


def write_proposal(out: str, number: int, proposal: Proposal) -> None:
    write_json(storage.join(trial_uri(out, number), PROPOSAL), asdict(proposal))


def read_proposal(out: str, number: int) -> Proposal:
    return Proposal(**from_json(read_json(storage.join(trial_uri(out, number), PROPOSAL))))


def write_ended(out: str, trial: Trial) -> None:
    write_json(storage.join(trial_uri(out, trial.id), ENDED), trial.to_dict())


def read_ended(out: str, number: int) -> Trial | None:
    """A trial that has ended, else None."""
    uri = storage.join(trial_uri(out, number), ENDED)
    return Trial.from_dict(read_json(uri)) if storage.exists(uri) else None


def write_trials(out: str, trials: list[Trial]) -> None:
    write_json(storage.join(out, f"{TRIALS}.json"), [trial.to_dict() for trial in trials])


def write_spent(out: str, seconds: float, gpu_seconds: float) -> None:
    write_json(storage.join(out, SPENT), {"seconds": seconds, "gpu_seconds": gpu_seconds})


def read_spent(out: str) -> tuple[float, float]:
    """Seconds of work, and of GPUs, by all commands that worked on the sweep."""
    uri = storage.join(out, SPENT)
    held = read_json(uri) if storage.exists(uri) else {}
    return held.get("seconds", 0.0), held.get("gpu_seconds", 0.0)


def history(out: str, number: int) -> list[dict[str, float]]:
    """{"step": ..., figure: value} of each validation of a trial, in order."""
    uri = storage.join(run_uri(out, number), METRICS)
    if not storage.exists(uri):
        return []
    rows = map(json.loads, storage.read_bytes(uri).decode().splitlines())
    return [{"step": row["step"], **figures} for row in rows if (figures := validation_figures(row))]


def validation_figures(row: Mapping[str, Any]) -> dict[str, float]:
    """The validation's figures among the values of a step, under their plain names (noc90)."""
    return {name.removeprefix(VALIDATION): value for name, value in row.items() if name.startswith(VALIDATION)}
