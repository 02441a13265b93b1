"""A made sweep for tests of its report: 24 trials of random search, one of them failed, with a hostile error."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from pipeline.config import Cfr, TrainConfig
from pipeline.tune.proposals import Proposal, published, setting_of
from pipeline.tune.search import propose
from pipeline.tune.spaces import build, cfr_defaults
from pipeline.tune.summary import summary_of
from pipeline.tune.trials import OBJECTIVES, Trial
from tests.report_example import HOSTILE

SPACE = build("cfr", TrainConfig(cfr=Cfr(crop=160)), cfr_defaults((128, 160, 192)))
OBJECTIVES_ = [OBJECTIVES["noc90"], OBJECTIVES["passes"]]


def sweep_trials(count: int = 24) -> list[Trial]:
    """NoC falls with the refinement steps and depends on the threshold; passes grow with the refined clicks."""
    rng = np.random.default_rng(0)
    first = [Proposal(v, setting_of(SPACE, v), name) for name, v in published(SPACE).items()]
    made = [*first, *propose(SPACE, OBJECTIVES_, "random", 0, 0, [], first, count - len(first))]
    trials = []
    for number, p in enumerate(made):
        steps, refined = p.setting["cfr.steps"], p.setting["cfr.clicks"]
        noc = 12 - steps - 0.05 * refined + 20 * abs(p.setting["cfr.threshold"] - 0.44) + rng.normal(0, 0.1)
        metrics = {f"noc{level}": float(noc + (level - 90) / 5) for level in (80, 85, 90, 95)}
        metrics |= {"passes": 15.0 + steps * min(refined, 15), "seconds": 0.1 + 0.02 * steps}
        curve = [float(v) for v in 1 - 0.6 * np.exp(-0.2 * np.arange(20))]
        trials.append(Trial(number, "done", p.values, p.setting, metrics, p.name, seconds=12.5, curve=curve))
    bad = trials[-1]
    trials[-1] = Trial(bad.id, "failed", bad.values, bad.setting, error=f"RuntimeError: {HOSTILE}")
    return trials


def sweep_summary() -> dict[str, Any]:
    """As `jobs.tune cfr` writes it."""
    trials = sweep_trials()

    def difference(a: Trial, b: Trial) -> tuple[float, float, float]:
        value = a.metrics["noc90"] - b.metrics["noc90"]
        return value, value - 0.4, value + 0.4

    summary = {
        "checkpoint": {"uri": "/runs/tiny_run", "sha256": "0" * 64, "format": "cfr-icl", "step": 300, "recipe": "tiny"},
        "options": {"seed": 0, "search": "tpe", "generation": 8},
        "data": {"davis": {"objects": 24, "images": 24}, "grabcut": {"objects": 50, "images": 50}},
        "date": "2026-01-02T03:04:05Z",
        "command": "python -m jobs.tune cfr --checkpoint /runs/tiny_run",
        **summary_of(trials, SPACE, OBJECTIVES_, difference, "/runs/sweep"),
        "passes": {"computed": 6000, "separate": 8000},
    }
    return json.loads(json.dumps(summary))
