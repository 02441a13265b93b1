"""What a sweep found: trials, their objectives, the Pareto front, and which of its settings are worth their cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from pipeline.errors import UserError, did_you_mean
from pipeline.evaluate.bootstrap import interval

State = Literal["done", "failed", "stopped"]
RESAMPLES = 4000
CERTAIN = 1e-9  # clicks; an interval that ends nearer to 0 holds it


@dataclass(frozen=True)
class Objective:
    """A figure that a sweep makes better.

    Attributes:
        name: key of a trial's metrics, and the word on the command line.
        label: for tables and axes.
        mode: whether fewer or more is better.
        cost: what a setting takes, rather than what it gives.
    """

    name: str
    label: str
    mode: Literal["min", "max"] = "min"
    cost: bool = False


OBJECTIVES: dict[str, Objective] = {
    o.name: o
    for o in (
        *(Objective(f"noc{level}", f"NoC@{level}") for level in (80, 85, 90, 95)),
        *(Objective(f"iou{clicks}", f"IoU@{clicks}", "max") for clicks in (1, 3, 5)),
        Objective("passes", "forward passes per object", cost=True),
        Objective("seconds", "seconds per click", cost=True),
    )
}


def objectives_of(names: Sequence[str], target_iou: float = 1.0) -> list[Objective]:
    """The objectives that a command line names.

    Args:
        target_iou: IoU at which objects end: NoC is known up to it only.

    Raises:
        UserError: none, an unknown one, one twice, or a NoC above the target.
    """
    if not names or len(set(names)) < len(names):
        raise UserError(f"--objectives takes one or more different words of {', '.join(OBJECTIVES)}.")
    for name in names:
        if name not in OBJECTIVES:
            raise UserError(
                f"There is no objective {name!r}.{did_you_mean(name, OBJECTIVES)} Objectives: {', '.join(OBJECTIVES)}."
            )
        if name.startswith("noc") and int(name[3:]) > 100 * target_iou + 1e-9:
            raise UserError(f"Objects end at IoU {target_iou}, so {name} is not known; raise --target-iou.")
    return [OBJECTIVES[name] for name in names]


@dataclass(frozen=True)
class Trial:
    """One trial of a sweep.

    Attributes:
        id: number in the order of proposal.
        values: what was drawn, by dotted name (`tune.proposals`).
        setting: the dotted names of the config that it means; the same names in every trial.
        metrics: final figures by name.
        name: of a published setting or a point given by hand; "" for a proposal.
        inside: the searcher could have drawn it.
        error: what a failed trial failed with.
        seconds: that the trial took; of a cfr setting, as if it had been evaluated alone.
        curve: cfr: mean IoU after each click.
        generation: it was proposed in.
        history: icl: {"step": ..., name: figure} of each validation, in order.
    """

    id: int
    state: State
    values: dict[str, Any]
    setting: dict[str, Any]
    metrics: dict[str, float] = field(default_factory=dict)
    name: str = ""
    inside: bool = True
    error: str = ""
    seconds: float = 0.0
    curve: list[float] = field(default_factory=list)
    generation: int = 0
    mlflow_run: str | None = None
    history: list[dict[str, float]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Trial:
        """Inverse of `to_dict`, also after JSON."""
        return cls(**{**values, **{name: from_json(values[name]) for name in ("values", "setting")}})


def from_json(value: Any) -> Any:
    """Values as configs have them: JSON's lists are tuples."""
    if isinstance(value, dict):
        return {name: from_json(inner) for name, inner in value.items()}
    return tuple(map(from_json, value)) if isinstance(value, list) else value


def scores(trial: Trial, objectives: Sequence[Objective]) -> tuple[float, ...] | None:
    """The trial's objectives; None unless it is done and has them all."""
    if trial.state != "done" or any(o.name not in trial.metrics for o in objectives):
        return None
    return tuple(trial.metrics[o.name] for o in objectives)


def at_common_step(trials: Iterable[Trial]) -> tuple[int, list[Trial]]:
    """Trials compared where all of them came: with the figures of the last step at which each has a validation.

    Those that failed before the first validation of all are left out.

    Returns:
        The step, and the trials with its figures, all as done; (0, []) without a validation.
    """
    measured = [trial for trial in trials if trial.history]
    if not measured:
        return 0, []
    common = set.intersection(*({int(row["step"]) for row in trial.history} for trial in measured))
    if not common:
        return 0, []
    step = max(common)
    figures = [next(row for row in trial.history if row["step"] == step) for trial in measured]
    return step, [
        replace(trial, state="done", metrics={n: v for n, v in row.items() if n != "step"})
        for trial, row in zip(measured, figures, strict=True)
    ]


def pareto(points: Sequence[Sequence[float]], modes: Sequence[Literal["min", "max"]]) -> list[int]:
    """Indices of the points that no other point dominates (at least as good in all, better in one), in their order."""
    if not points:
        return []
    values = np.array(points, np.float64) * np.array([1.0 if mode == "min" else -1.0 for mode in modes])
    kept = []
    for i, value in enumerate(values):
        dominated = (values <= value).all(axis=1) & (values < value).any(axis=1)
        if not dominated.any():
            kept.append(i)
    return kept


def front(trials: Iterable[Trial], objectives: Sequence[Objective]) -> list[Trial]:
    """The done trials on the Pareto front of some objectives."""
    known = [(trial, found) for trial in trials if (found := scores(trial, objectives)) is not None]
    return [known[i][0] for i in pareto([found for _, found in known], [o.mode for o in objectives])]


ByObject = Mapping[str, Mapping[Any, float]]
"""{data set: {object: figure}}."""


def paired_difference(a: ByObject, b: ByObject) -> tuple[float, float, float]:
    """Mean of a minus b over the objects of both, with its bootstrap interval.

    The mean is that of the data sets' means, each of its objects (every data set counts the same); objects are drawn
    again within their data set.

    Returns:
        Difference, low and high end of the 95 % percentile interval.

    Raises:
        ValueError: no object is in both.
    """
    changes = []
    for name in sorted(a.keys() & b.keys()):
        if keys := sorted(a[name].keys() & b[name].keys()):
            changes.append(np.array([[a[name][k] - b[name][k]] for k in keys], np.float64))
    if not changes:
        raise ValueError("no object is in both")
    low, high = interval(changes, RESAMPLES)
    return float(np.mean([change.mean() for change in changes])), float(low[0]), float(high[0])


Difference = Callable[[Trial, Trial], tuple[float, float, float]]
"""Of the quality of two trials: first minus second, with the low and high end of its interval."""


@dataclass(frozen=True)
class FrontStep:
    """A setting on the front of quality and cost, from cheap to dear.

    Attributes:
        against: the last cheaper setting that was worth its cost; None for the cheapest.
        change: quality minus that of `against`, with its interval (low, high); None for the cheapest.
        worth: the cheapest, or better than `against` by an interval that does not hold 0.
    """

    trial: Trial
    against: Trial | None
    change: tuple[float, float, float] | None
    worth: bool


def worth_using(
    trials: Iterable[Trial], quality: Objective, cost: Objective, difference: Difference
) -> list[FrontStep]:
    """The settings worth using at each cost.

    Rule: on the Pareto front of quality and cost, from the cheapest up, a dearer setting is worth its cost when its
    quality is better than that of the last one worth it by a difference whose bootstrap interval does not hold 0.
    Of trials with the same figures the first counts.
    """
    steps: list[FrontStep] = []
    last: Trial | None = None
    seen: set[tuple[float, ...]] = set()
    ranked = sorted(front(trials, [quality, cost]), key=lambda t: (t.metrics[cost.name], t.id))
    for trial in ranked:
        figures = scores(trial, [quality, cost])
        if figures is None or figures in seen:
            continue
        seen.add(figures)
        if last is None:
            steps.append(FrontStep(trial, None, None, True))
            last = trial
            continue
        change = difference(trial, last)
        worth = change[2] < -CERTAIN if quality.mode == "min" else change[1] > CERTAIN
        steps.append(FrontStep(trial, last, change, worth))
        last = trial if worth else last
    return steps


def best(
    trials: Sequence[Trial], objectives: Sequence[Objective], difference: Difference | None
) -> tuple[Trial, str] | None:
    """The trial of best.json and why it is that one; None when no trial is done.

    With a quality and a cost among the objectives (the first of each): the dearest setting worth its cost
    (`worth_using`). Else the best by the first objective, among equals by the next.
    """
    known = [(trial, found) for trial in trials if (found := scores(trial, objectives)) is not None]
    if not known:
        return None
    quality, cost = split(objectives)
    if quality is not None and cost is not None and difference is not None:
        steps = [step for step in worth_using(trials, quality, cost, difference) if step.worth]
        chosen = steps[-1]
        if chosen.change is None:
            return chosen.trial, (
                f"It has the fewest {cost.label}; no dearer setting is better in {quality.label} by more than the "
                "spread over the objects."
            )
        value, low, high = chosen.change
        assert chosen.against is not None
        return chosen.trial, (
            f"The dearest setting that is worth its {cost.label}: {quality.label} differs by {value:+.3f} "
            f"[{low:+.3f}, {high:+.3f}] from the next cheaper one, trial {chosen.against.id}."
        )
    signs = [1.0 if o.mode == "min" else -1.0 for o in objectives]
    trial, _ = min(known, key=lambda item: [s * v for s, v in zip(signs, item[1], strict=True)])
    return trial, f"It has the best {objectives[0].label}."


def split(objectives: Sequence[Objective]) -> tuple[Objective | None, Objective | None]:
    """The first quality and the first cost among some objectives."""
    quality = next((o for o in objectives if not o.cost), None)
    return quality, next((o for o in objectives if o.cost), None)
