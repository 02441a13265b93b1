"""Importances of our own fANOVA beside Optuna's."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from pipeline.tune.fanova import Fanova

SPACE: dict[str, BaseDistribution] = {
    "lr": FloatDistribution(1e-4, 1e-1, log=True),
    "threshold": FloatDistribution(0.3, 0.6),
    "steps": IntDistribution(0, 4),
    "shape": CategoricalDistribution(["flat", "linear", "free"]),
    "flip": CategoricalDistribution([False, True]),
    "fixed": IntDistribution(3, 3),
}


def made(trials: int, seed: int) -> optuna.Study:
    study, rng = optuna.create_study(directions=["minimize", "maximize"]), np.random.default_rng(seed)
    for _ in range(trials):
        params = {
            "lr": float(10 ** rng.uniform(-4, -1)),
            "threshold": float(rng.uniform(0.3, 0.6)),
            "steps": int(rng.integers(5)),
            "shape": ["flat", "linear", "free"][rng.integers(3)],
            "flip": bool(rng.integers(2)),
            "fixed": 3,
        }
        values = [
            params["steps"] + 3.0 * (params["shape"] == "free") + rng.normal(),
            params["threshold"] + rng.normal(),
        ]
        study.add_trial(optuna.trial.create_trial(params=params, distributions=SPACE, values=values))
    return study


@pytest.mark.parametrize(("trials", "index"), [(4, 0), (30, 0), (30, 1), (120, 0)])
def test_fanova_is_optunas(trials: int, index: int) -> None:
    study = made(trials, trials)
    ours, theirs = (
        optuna.importance.get_param_importances(study, evaluator=evaluator, target=lambda trial: trial.values[index])
        for evaluator in (Fanova(0), optuna.importance.FanovaImportanceEvaluator(seed=0))
    )
    assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-12)
    assert ours["fixed"] == 0
