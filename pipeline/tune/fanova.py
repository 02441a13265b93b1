"""Shares of the variance that single names explain (fANOVA, Hutter et al. 2014), in time that grows with the trials.

The same figures as those of `optuna.importance.FanovaImportanceEvaluator`, whose time grows with the square of the
trials where values are continuous: it walks through a tree once for every split. Here a leaf adds what it predicts to
the first and takes it away after the last of the cells that it covers, and one running sum gives all of them.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.importance import BaseImportanceEvaluator
from optuna.search_space import intersection_search_space
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from sklearn.ensemble import RandomForestRegressor

TREES = DEPTH = 64  # as Optuna's


class Fanova(BaseImportanceEvaluator):
    """An evaluator for `optuna.importance.get_param_importances` and Optuna's plots."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def evaluate(
        self,
        study: Study,
        params: list[str] | None = None,
        *,
        target: Callable[[FrozenTrial], float] | None = None,
    ) -> dict[str, float]:
        """The share of each name that all trials have, largest first.

        Raises:
            RuntimeError: no tree tells any two trials apart.
        """
        trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        spaces = intersection_search_space(trials)
        varied = {n: space for n, space in spaces.items() if (params is None or n in params) and not space.single()}
        known = [(trial, target(trial) if target else trial.value) for trial in trials]
        pairs = [(trial, value) for trial, value in known if value is not None and math.isfinite(value)]
        found = dict.fromkeys(params if params is not None else spaces, 0.0)
        if varied and len(pairs) > 1:
            columns = [_encoded(space, [t.params[name] for t, _ in pairs]) for name, space in varied.items()]
            bounds = np.concatenate([_bounds(space) for space in varied.values()])
            forest = RandomForestRegressor(n_estimators=TREES, max_depth=DEPTH, random_state=self._seed)
            forest.fit(np.concatenate(columns, axis=1), np.array([value for _, value in pairs]))
            ends = np.cumsum([column.shape[1] for column in columns])
            groups = [range(end - column.shape[1], end) for end, column in zip(ends.tolist(), columns)]
            shares = [share for one in forest.estimators_ if (share := _shares(one.tree_, bounds, groups)) is not None]
            if not shares:
                raise RuntimeError("No tree tells any two trials apart.")
            found |= dict(zip(varied, np.mean(shares, axis=0).tolist()))
        return dict(sorted(found.items(), key=lambda item: item[1], reverse=True))


def _encoded(space: BaseDistribution, values: Sequence[Any]) -> np.ndarray:
    """(trials, columns): a number as it is, a choice as a column of 0 and 1 for each value."""
    if isinstance(space, CategoricalDistribution):
        return np.eye(len(space.choices))[[int(space.to_internal_repr(value)) for value in values]]
    return np.array(values, np.float64)[:, None]


def _bounds(space: Any) -> np.ndarray:
    """(columns, 2) lowest and highest value."""
    if isinstance(space, CategoricalDistribution):
        return np.tile([0.0, 1.0], (len(space.choices), 1))
    return np.array([[space.low, space.high]], np.float64)


def _shares(tree: Any, bounds: np.ndarray, groups: Sequence[range]) -> list[float] | None:
    """The share that each group of columns has of a tree's variance over the whole space; None where there is none."""
    low, high = _boxes(tree, bounds)
    leaves = tree.children_left < 0
    low, high, values = low[leaves], high[leaves], tree.value[leaves, 0, 0]
    sizes = high - low
    variance = _variance(values, sizes.prod(axis=1))
    if variance <= 0:
        return None
    shares = []
    for group in groups:
        every = {c: np.unique(np.concatenate([low[:, c], high[:, c]])) for c in group}
        edges = {c: edge for c, edge in every.items() if len(edge) > 2}
        if not edges:  # the tree splits none of them
            shares.append(0.0)
            continue
        columns = list(edges)
        others = np.delete(sizes, columns, axis=1).prod(axis=1)
        sums = np.zeros([len(edge) for edge in edges.values()])
        for ends in itertools.product((low, high), repeat=len(columns)):
            at = tuple(np.searchsorted(edges[c], end[:, c]) for c, end in zip(columns, ends))
            np.add.at(sums, at, others * values * (-1.0) ** sum(end is high for end in ends))
        for axis in range(len(columns)):
            sums = sums.cumsum(axis)
        cells = [np.diff(edge) for edge in edges.values()]
        means = sums[tuple(slice(len(cell)) for cell in cells)] / np.delete(np.diff(bounds), columns).prod()
        shares.append(_variance(means, functools.reduce(np.multiply.outer, cells)) / variance)
    return shares


def _boxes(tree: Any, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(nodes, columns) lowest and highest value of the box of each node; a node comes before its children."""
    low, high = (np.tile(end, (tree.node_count, 1)) for end in bounds.T)
    children = zip(tree.children_left.tolist(), tree.children_right.tolist())
    for node, (column, threshold, (left, right)) in enumerate(zip(tree.feature, tree.threshold, children)):
        if left >= 0:
            low[[left, right]], high[[left, right]] = low[node], high[node]
            high[left, column] = low[right, column] = threshold
    return low, high


def _variance(values: np.ndarray, weights: np.ndarray) -> float:
    mean = np.average(values, weights=weights)
    return float(np.average((values - mean) ** 2, weights=weights))
