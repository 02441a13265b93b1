"""Which of the searched values mattered: Optuna's importances, and the plain spread beside what chance would give.

An importance says how the variance that a model of the trials sees divides among the names; of few trials it also
divides what is noise. The spread says in the objective's own unit how far the means of a name's values lie apart, and
how often as wide a spread comes about when the trials' results are dealt out to its values at random.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from pipeline.tune.dimensions import Dimension, Range, plain, shown, text_of
from pipeline.tune.trials import Objective, Trial, scores

SHUFFLES = 2000
SEED = 0
BINS = 3  # of a range's values, equally many trials in each
LEAST_TRIALS = 4  # fewer say nothing of importance
optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Spread:
    """How far the means of the values of one name lie apart.

    Attributes:
        groups: (value or range, trials, mean of the objective), in the order of the values.
        range: largest mean minus smallest.
        chance: share of random dealings of the trials' results with as large a range; small means that it mattered.
        importance: Optuna's, in [0, 1], summing to 1 over the names; None where it is not known.
    """

    name: str
    groups: list[tuple[str, int, float]]
    range: float
    chance: float
    importance: float | None


def study_of(
    trials: Sequence[Trial], dimensions: Mapping[str, Dimension], objectives: Sequence[Objective]
) -> optuna.Study:
    """An Optuna study of the done trials: by their settings, so that every trial has every name.

    Args:
        dimensions: of the searched names; those that no setting has (`tune.weights`) come from the drawn values and are
            left out unless all trials have them.
    """
    study = optuna.create_study(directions=["minimize" if o.mode == "min" else "maximize" for o in objectives])
    done = [(trial, found) for trial in trials if (found := scores(trial, objectives)) is not None]
    values = [{**trial.values, **trial.setting} for trial, _ in done]
    names = [name for name in dimensions if values and all(name in one for one in values)]
    spaces = {name: _distribution(dimensions[name], [one[name] for one in values]) for name in names}
    for (_, found), one in zip(done, values, strict=True):
        params = {name: plain(one[name]) for name in names}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=spaces, values=list(found)))
    return study


def _distribution(dimension: Dimension, seen: Sequence[Any]) -> BaseDistribution:
    """Wide enough for published values outside of the space too."""
    if isinstance(dimension, Range):
        low, high = min(dimension.low, *seen), max(dimension.high, *seen)
        if dimension.whole:
            return IntDistribution(int(low), int(high))
        return FloatDistribution(float(low), float(high), log=dimension.log)
    return CategoricalDistribution(_ordered({json.dumps(v): plain(v) for v in seen}))


def _ordered(found: dict[str, Any]) -> list[Any]:
    return sorted(found.values(), key=lambda v: (str(type(v)), v))


def evaluator() -> optuna.importance.FanovaImportanceEvaluator:
    """fANOVA: of all the variance, where Optuna's default looks at the best trials only."""
    return optuna.importance.FanovaImportanceEvaluator(seed=SEED)


def importances(study: optuna.Study, index: int) -> dict[str, float]:
    """Optuna's importance (fANOVA) of every name for one objective, largest first; empty when too few trials differ."""
    values = [trial.values[index] for trial in study.trials]
    if len(values) < LEAST_TRIALS or len(set(values)) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = optuna.importance.get_param_importances(
            study, evaluator=evaluator(), target=lambda trial: trial.values[index]
        )
    return {name: float(value) for name, value in found.items()}


def spreads(
    trials: Sequence[Trial], dimensions: Mapping[str, Dimension], objectives: Sequence[Objective], index: int
) -> list[Spread]:
    """The spread of one objective over the values of every searched name, by falling importance, then range.

    The other names vary with it, as they happened to in the trials: this is no controlled comparison.
    """
    study = study_of(trials, dimensions, objectives)
    weighed = importances(study, index)
    results = np.array([trial.values[index] for trial in study.trials], np.float64)
    found = []
    for name in study.trials[0].params if study.trials else ():
        labels, codes = _groups([trial.params[name] for trial in study.trials], dimensions[name])
        if len(labels) < 2:
            continue
        means = _means(results, codes, len(labels))
        width = float(means.max() - means.min())
        groups = [(label, int((codes == k).sum()), float(means[k])) for k, label in enumerate(labels)]
        found.append(Spread(name, groups, width, _chance(results, codes, len(labels), width), weighed.get(name)))
    return sorted(found, key=lambda s: (-(s.importance or 0.0), -s.range, s.name))


def _means(results: np.ndarray, codes: np.ndarray, count: int) -> np.ndarray:
    return np.bincount(codes, results, count) / np.bincount(codes, minlength=count)


def _chance(results: np.ndarray, codes: np.ndarray, count: int, width: float) -> float:
    rng = np.random.default_rng(SEED)
    hits = 0
    for _ in range(SHUFFLES):
        means = _means(rng.permutation(results), codes, count)
        hits += means.max() - means.min() >= width - 1e-12
    return float((hits + 1) / (SHUFFLES + 1))  # the deal that was seen is one of them


def _groups(values: Sequence[Any], dimension: Dimension) -> tuple[list[str], np.ndarray]:
    """Labels of the groups of some values, and the group of each value."""
    distinct = sorted(set(values), key=lambda v: (str(type(v)), v))
    continuous = isinstance(dimension, Range) and dimension.step is None
    if not continuous or len(distinct) <= BINS:
        return [(shown if continuous else text_of)(v) for v in distinct], np.array([distinct.index(v) for v in values])
    array = np.array(values, np.float64)
    ranks = np.argsort(np.argsort(array, kind="stable"), kind="stable")
    codes = ranks * BINS // len(array)
    ends = [(array[codes == k].min(), array[codes == k].max()) for k in range(BINS)]
    return [f"{low:.3g} to {high:.3g}" for low, high in ends], codes
