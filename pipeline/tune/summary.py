"""What a sweep comes to: the front, the settings worth their cost, what mattered, the best setting.

`summary_of` is the same for both kinds of sweep; a kind adds what only it knows (data, forward passes, ...).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pipeline.tune.importance import spreads
from pipeline.tune.setting_file import setting_content
from pipeline.tune.spaces import Space
from pipeline.tune.trials import Difference, Objective, Trial, at_common_step, best, front, split, worth_using


def summary_of(
    trials: Sequence[Trial], space: Space, objectives: Sequence[Objective], difference: Difference | None, sweep: str
) -> dict[str, Any]:
    """The parts of a sweep's summary.json that come from its trials; plain values.

    Args:
        difference: of the first quality among the objectives; None where no cost is among them.
        sweep: URI of the sweep, noted in the settings' files.
    """
    quality, cost = split(objectives)
    steps = worth_using(trials, quality, cost, difference) if quality and cost and difference else []
    compared = at_common_step(trials)[1] if space.kind == "icl" else trials
    chosen = best(trials, objectives, difference)
    return {
        "kind": space.kind,
        "space": space.to_dict(),
        "base": {name: space.base[name] for name in space.dimensions if name in space.base},
        "objectives": [o.name for o in objectives],
        "trials": [trial.to_dict() for trial in trials],
        "front": [trial.id for trial in front(trials, objectives)],
        "worth": [
            {
                "trial": step.trial.id,
                "against": None if step.against is None else step.against.id,
                "change": step.change,
                "worth": step.worth,
            }
            for step in steps
        ],
        "spreads": {
            o.name: [asdict(s) for s in spreads(compared, space.searched, objectives, i)]
            for i, o in enumerate(objectives)
        },
        "best": None if chosen is None else setting_content(chosen[0], chosen[1], space, objectives, sweep),
    }
