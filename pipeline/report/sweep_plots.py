"""Plots of a sweep: the Pareto plot, trials over their training, Optuna's parallel coordinates and importances."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import optuna
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.report.plots import COLOURS, panels
from pipeline.tune.dimensions import Dimension
from pipeline.tune.importance import evaluator, importances, study_of
from pipeline.tune.trials import Objective, Trial, scores

LABELLED = 12  # points of the front with a label; more would cover one another


def pareto_plot(
    trials: Sequence[Trial], x: Objective, y: Objective, on_front: Sequence[int], worth: Sequence[int]
) -> Figure | None:
    """Every trial as a point of cost and quality; the front as a staircase.

    Args:
        on_front: ids of the trials on the front of the two, which the staircase joins.
        worth: ids of those worth their cost, drawn larger.

    Returns:
        None without a done trial.
    """
    points = {t.id: (t.metrics[x.name], t.metrics[y.name]) for t in trials if scores(t, [x, y]) is not None}
    if not points:
        return None
    figure, (ax,) = panels(1)
    figure.set_size_inches(7.4, 4.6)
    others = [points[i] for i in points if i not in on_front]
    named = [points[t.id] for t in trials if t.name and t.id in points]
    if others:
        ax.scatter(*zip(*others), s=26, color="#9aa5af", label="other trials")
    if named:
        ax.scatter(*zip(*named), s=80, facecolors="none", edgecolors=COLOURS[2], label="published or given by hand")
    stairs = sorted(points[i] for i in on_front if i in points)
    ax.step(*zip(*stairs), where="post", color=COLOURS[0], linewidth=1.2)
    ax.scatter(*zip(*stairs), s=34, color=COLOURS[0], label="Pareto front", zorder=3)
    chosen = [points[i] for i in worth if i in points]
    if chosen:
        ax.scatter(*zip(*chosen), s=70, marker="D", color=COLOURS[1], label="worth using", zorder=4)
    label_of = {t.id: t.name or f"#{t.id}" for t in trials}
    labelled = [i for i in dict.fromkeys([*worth, *on_front]) if i in points][:LABELLED]
    labelled += [t.id for t in trials if t.name and t.id in points and t.id not in labelled]
    ax.margins(x=0.1, y=0.16)
    better = "fewer" if y.mode == "min" else "more"
    ax.set_xlabel(x.label, fontsize=9)
    ax.set_ylabel(f"{y.label} ({better} is better)", fontsize=9)
    ax.legend(fontsize=8, frameon=False)
    _label(ax, {label_of[number]: points[number] for number in labelled}, upwards=y.mode == "max")
    return figure


def history_plot(trials: Sequence[Trial], objective: Objective, rungs: Sequence[int] = ()) -> Figure | None:
    """The objective of each trial over its validations; where a trial was stopped early, a cross.

    Args:
        rungs: steps at which trials may be stopped, drawn as lines.

    Returns:
        None without a validation.
    """
    shown = [t for t in trials if any(objective.name in row for row in t.history)]
    if not shown:
        return None
    figure, (ax,) = panels(1)
    figure.set_size_inches(7.4, 4.6)
    for rung in rungs:
        ax.axvline(rung, color="#dddddd", linewidth=1, zorder=0)
    published = {t.id: COLOURS[i % len(COLOURS)] for i, t in enumerate(t for t in shown if t.name)}
    ends: dict[tuple[float, float], list[str]] = {}  # labels of trials that end in the same point are joined
    for trial in shown:
        points = [(row["step"], row[objective.name]) for row in trial.history if objective.name in row]
        colour = published.get(trial.id, "#9aa5af")
        width = 1.8 if trial.id in published else 1.1
        ax.plot(*zip(*points), color=colour, linewidth=width, marker=".", markersize=4, label=trial.name or None)
        if trial.state == "stopped":
            ax.plot(*points[-1], marker="x", markersize=8, color=colour, markeredgewidth=1.6)
        ends.setdefault(points[-1], []).append(f"#{trial.id}")
    for point, labels in ends.items():
        text = " ".join(labels)
        ax.annotate(text, point, xytext=(6, -3), textcoords="offset points", fontsize=7, color="#444444")
    better = "fewer" if objective.mode == "min" else "more"
    ax.set_xlabel("optimizer steps (a cross: stopped early)", fontsize=9)
    ax.set_ylabel(f"validation {objective.label} ({better} is better)", fontsize=9)
    if published:
        ax.legend(fontsize=8, frameon=False)
    return figure


def _label(ax: Axes, labels: Mapping[str, tuple[float, float]], upwards: bool) -> None:
    """Write labels beside their points, on the better side, where the front leaves room; none covers another."""
    low, high = ax.get_ylim()
    room = 0.3 * (high - low)
    ax.set_ylim((low, high + room) if upwards else (low - room, high))
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # places the axes
    placed: list[tuple[float, float]] = []
    step = 10 if upwards else -10
    for text, point in sorted(labels.items(), key=lambda item: item[1]):
        at, lift = ax.transData.transform(point) * 72 / figure.dpi, 6 if upwards else -13
        while any(abs(at[0] - left) < 44 and abs(at[1] + lift - base) < 10 for left, base in placed):
            lift += step
        placed.append((at[0], at[1] + lift))
        far = abs(lift) > 13
        ax.annotate(
            text,
            point,
            xytext=(5, lift),
            textcoords="offset points",
            fontsize=8,
            color="#444444",
            arrowprops={"arrowstyle": "-", "color": "#9aa5af", "linewidth": 0.6} if far else None,
        )


def parallel_plot(
    trials: Sequence[Trial], dimensions: Mapping[str, Dimension], objectives: Sequence[Objective], index: int
) -> Figure | None:
    """Optuna's parallel coordinates of one objective: a line for each trial across the searched names.

    Returns:
        None when the trials do not differ.
    """
    study = study_of(trials, dimensions, objectives)
    if len({trial.values[index] for trial in study.trials}) < 2:
        return None
    with _optuna():
        ax: Any = optuna.visualization.matplotlib.plot_parallel_coordinate(
            study, target=lambda trial: trial.values[index], target_name=objectives[index].label
        )
        figure = ax.figure
        figure.set_size_inches(max(8.0, 2.5 + 1.15 * len(study.trials[0].params)), 5.2)
        ax.set_title("")
        (lines,) = ax.collections
        # Optuna's palette begins at white: most lines could not be seen. Dark is good in both directions.
        lines.set(cmap="viridis" if objectives[index].mode == "min" else "viridis_r", linewidth=1.3, alpha=0.85)
        ax.tick_params(axis="x", labelsize=8)
        for label in ax.get_xticklabels():
            label.set(rotation=25, horizontalalignment="right")
        for other in figure.axes:
            other.tick_params(axis="y", labelsize=7)
            other.yaxis.label.set_size(8)
        return _finished(figure)


def importance_plot(
    trials: Sequence[Trial], dimensions: Mapping[str, Dimension], objectives: Sequence[Objective]
) -> Figure | None:
    """Optuna's importances, of all objectives of which the trials say something.

    Returns:
        None where that is none (`importance.importances`).
    """
    study = study_of(trials, dimensions, objectives)
    known = [o for i, o in enumerate(objectives) if importances(study, i)]
    if not known:
        return None
    study = study_of(trials, dimensions, known)
    with _optuna():
        study.set_metric_names([o.label for o in known])
        ax: Any = optuna.visualization.matplotlib.plot_param_importances(study, evaluator=evaluator())
        figure = ax.figure
        ax.set_title("", loc="left")
        ax.set_facecolor("white")
        ax.grid(True, color="#dddddd", linewidth=0.6)
        figure.set_size_inches(7.4, 1.4 + (0.16 + 0.2 * len(known)) * len(study.trials[0].params))
        ax.set_title("")
        ax.set_ylabel("")
        ax.set_xlabel("importance (shares of the variance that a model of the trials sees)", fontsize=9)
        ax.tick_params(labelsize=8)
        for text in ax.texts:
            text.set_size(7)
        if ax.get_legend() is not None:
            ax.legend(fontsize=8, frameon=False, loc="lower right")
        return _finished(figure)


@contextlib.contextmanager
def _optuna() -> Iterator[None]:
    """While this is open, Optuna may draw: through pyplot, with a style of its own, as something experimental."""
    pyplot.switch_backend("Agg")  # never a window, whatever the display
    with warnings.catch_warnings(), pyplot.rc_context():
        warnings.simplefilter("ignore")
        yield


def _finished(figure: Figure) -> Figure:
    """The figure, taken from pyplot."""
    figure.set_dpi(110)
    figure.set_facecolor("white")
    figure.tight_layout()
    pyplot.close(figure)
    return figure
