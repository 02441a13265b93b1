"""Which settings a generation tries, from what is known so far.

The proposals of a generation are a function of (space, search, seed, generation, known trials): a new searcher is told
all trials, by `points_to_evaluate` and their results, and then asked. Nothing has to be saved of a searcher, and a
sweep that was killed goes on as if it had not been.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.samplers import RandomSampler, TPESampler
from ray.tune.search.optuna import OptunaSearch

from pipeline.config.sweeps import Search
from pipeline.tune.dimensions import plain
from pipeline.tune.proposals import Proposal, grid, key_of, setting_of, suggest
from pipeline.tune.spaces import Space
from pipeline.tune.trials import Objective, Trial

TRIES = 30  # suggestions for each wanted one before the space counts as used up


def propose(
    space: Space,
    objectives: Sequence[Objective],
    search: Search,
    seed: int,
    generation: int,
    known: Sequence[Trial],
    planned: Sequence[Proposal],
    count: int,
) -> list[Proposal]:
    """New settings, each different from all that are known or planned; fewer than `count` when the space is used up.

    Args:
        known: trials with a result; the failed ones are not suggested again either.
        planned: settings of this generation that are settled already (the published ones).
    """
    taken = {key_of(t.setting): t for t in known} | {key_of(p.setting): None for p in planned}
    if search == "grid":
        drawn = [(values, setting_of(space, values)) for values in grid(space)]
        return [Proposal(v, s) for v, s in drawn if key_of(s) not in taken][:count]
    searcher = _searcher(space, objectives, search, seed, generation, known)
    found: list[Proposal] = []
    for number in range(TRIES * count):
        if len(found) == count:
            break
        name = f"new-{number}"
        values = searcher.suggest(name) or {}
        setting = setting_of(space, values)
        key = key_of(setting)
        if key not in taken:
            taken[key] = None
            found.append(Proposal(values, setting))
        elif (trial := taken[key]) is not None:
            _tell(searcher, name, trial, objectives)  # the same setting drawn again: its result is known
    return found


def _searcher(
    space: Space, objectives: Sequence[Objective], search: Search, seed: int, generation: int, known: Sequence[Trial]
) -> OptunaSearch:
    """Tune's Optuna searcher, told all known trials that lie in the space."""
    own_seed = int(np.random.SeedSequence((seed, generation)).generate_state(1)[0])
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # one line of its own for each study
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # constant_liar: proposals of one generation keep away from one another, though none has a result yet.
        sampler = RandomSampler(own_seed) if search == "random" else TPESampler(seed=own_seed, constant_liar=True)
    told = [trial for trial in known if trial.inside]
    searcher = OptunaSearch(
        lambda trial: suggest(space, trial),
        metric=[o.name for o in objectives],
        mode=[o.mode for o in objectives],
        points_to_evaluate=[{name: plain(value) for name, value in trial.values.items()} for trial in told],
        sampler=sampler,
    )
    for trial in told:
        name = f"trial-{trial.id}"
        if searcher.suggest(name) != trial.values:
            raise AssertionError(f"the searcher was told trial {trial.id} as another one")
        _tell(searcher, name, trial, objectives)
    return searcher


def _tell(searcher: OptunaSearch, name: str, trial: Trial, objectives: Sequence[Objective]) -> None:
    result: dict[str, Any] = {o.name: trial.metrics[o.name] for o in objectives if o.name in trial.metrics}
    if trial.state == "failed" or len(result) < len(objectives):
        searcher.on_trial_complete(name, error=True)
    else:
        searcher.on_trial_complete(name, result)
