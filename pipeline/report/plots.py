"""Plots of the report and of training runs: matplotlib figures made through its object API, without pyplot's state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.evaluate.metrics import noc
from pipeline.evaluate.setting import Setting, dataset_rows

# Okabe-Ito: told apart by colour-blind readers and in grey print. Settings also differ in marker and line style.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":")
PANEL = (4.6, 3.3)  # inches
COLUMNS = 2


def _style(index: int) -> dict[str, Any]:
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": LINES[index % len(LINES)],
    }


def panels(count: int, title: str = "") -> tuple[Figure, list[Axes]]:
    """A figure with `count` axes, at most COLUMNS side by side, and a title over them."""
    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * rows), dpi=110, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, fontsize=10, color="#444444", wrap=True)
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(count)]
    for ax in axes:
        ax.grid(True, color="#dddddd", linewidth=0.6)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=9)
    return figure, axes


def _click_ticks(clicks: int) -> list[int]:
    return list(range(1, clicks + 1)) if clicks <= 8 else [1, *range(5, clicks + 1, 5)]


def _datasets(results: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Results by data set, those without objects left out."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        if result["objects"]:
            found.setdefault(result["dataset"], []).append(result)
    return found


def iou_curves(results: Sequence[Mapping[str, Any]], model: str = "") -> Figure | None:
    """Mean IoU after each click, a panel per data set, a line per setting.

    Args:
        results: `summary["results"]`.
        model: whose results these are, for the title.

    Returns:
        The figure, or None when there are no objects.
    """
    datasets = _datasets(results)
    if not datasets:
        return None
    figure, axes = panels(len(datasets), model)
    for ax, (name, rows) in zip(axes, datasets.items(), strict=True):
        for i, row in enumerate(rows):
            curve = row["mean_iou"]
            ax.plot(range(1, len(curve) + 1), curve, label=Setting.of(row).name, markersize=3.5, **_style(i))
        ax.set_title(f"{name} ({rows[0]['objects']} objects)", fontsize=10)
        ax.set_xlabel("clicks", fontsize=9)
        ax.set_ylabel("mean IoU", fontsize=9)
        ax.set_xticks(_click_ticks(len(rows[0]["mean_iou"])))
        ax.legend(fontsize=8, frameon=False)
    return figure


def noc_histogram(
    results: Sequence[Mapping[str, Any]], objects: pa.Table, level: int = 90, max_clicks: int = 20, model: str = ""
) -> Figure | None:
    """How many objects needed how many clicks to reach IoU >= `level` %, a panel per data set.

    Args:
        results: `summary["results"]`, which name the data sets and settings.
        objects: table of `objects.parquet`.
        level: IoU in percent.
        max_clicks: the click budget; a last bar counts the objects that did not reach the level in it.
        model: whose results these are, for the title.
    """
    datasets = _datasets(results)
    if not datasets:
        return None
    figure, axes = panels(len(datasets), model)
    bins = np.arange(1, max_clicks + 2)
    for ax, (name, rows) in zip(axes, datasets.items(), strict=True):
        width = 0.84 / len(rows)
        for i, row in enumerate(rows):
            curves = dataset_rows(objects, name, Setting.of(row))["iou"].to_pylist()
            # max_clicks + 1 when never reached; NoC counts those as max_clicks.
            counts = np.bincount([noc(curve, level, max_clicks + 1) for curve in curves], minlength=max_clicks + 2)
            at = bins - 0.42 + width * (i + 0.5)
            style = {"color": COLOURS[i % len(COLOURS)], "edgecolor": "white", "linewidth": 0.4}
            ax.bar(at, counts[1 : max_clicks + 2], width, label=Setting.of(row).name, **style)
        ax.set_title(f"{name}: clicks to IoU {level} %", fontsize=10)
        ax.set_xlabel("clicks", fontsize=9)
        ax.set_ylabel("objects", fontsize=9)
        ticks = [tick for tick in _click_ticks(max_clicks) if tick < max_clicks]  # room for the last label
        ax.set_xticks([*ticks, max_clicks + 1], [*map(str, ticks), "not\nreached"])
        ax.yaxis.set_major_locator(MaxNLocator(integer=True))
        ax.legend(fontsize=8, frameon=False)
    return figure


def cost_of_refinement(results: Sequence[Mapping[str, Any]], level: int = 90, model: str = "") -> Figure | None:
    """NoC@level against seconds per click: what CFR-n buys and what it costs. A line per data set.

    Returns:
        The figure, or None unless some data set was evaluated in two settings that report this level.
    """
    key = str(level)
    datasets = {
        name: [row for row in rows if row["noc"].get(key) is not None] for name, rows in _datasets(results).items()
    }
    datasets = {name: rows for name, rows in datasets.items() if len(rows) > 1}
    if not datasets:
        return None
    figure, (ax,) = panels(1, model)
    for i, (name, rows) in enumerate(datasets.items()):
        rows = sorted(rows, key=lambda row: row["seconds_per_click"])
        seconds, clicks = [row["seconds_per_click"] for row in rows], [row["noc"][key] for row in rows]
        ax.plot(seconds, clicks, label=name, **_style(i))
        for row, x, y in zip(rows, seconds, clicks, strict=True):
            label = Setting.of(row).name
            ax.annotate(label, (x, y), xytext=(4, 5), textcoords="offset points", fontsize=8, color="#444444")
    ax.set_xlabel("seconds per click", fontsize=9)
    ax.set_ylabel(f"NoC@{level} (fewer is better)", fontsize=9)
    rows = [row for members in datasets.values() for row in members]
    levels = [row["noc"][key] for row in rows]
    space = max(0.25, 0.18 * (max(levels) - min(levels)))  # differences of hundredths of a click stay small
    ax.set_ylim(min(levels) - space, max(levels) + space)
    ax.set_xlim(0, 1.2 * max(row["seconds_per_click"] for row in rows))
    ax.legend(fontsize=8, frameon=False)
    return figure


def learning_curves(rows: Iterable[Mapping[str, float]]) -> Figure:
    """Training loss and validation figures over optimizer steps.

    Args:
        rows: one mapping per logged step: `step` and any of `train/loss`, `val/noc*`, `val/iou*`.

    Returns:
        A figure with a panel for the loss and, where there is a validation, one for NoC and one for IoU.
    """
    rows = list(rows)
    names = sorted({name for row in rows for name in row})
    groups = [("loss", [n for n in names if n == "train/loss"]), ("NoC", [n for n in names if n.startswith("val/noc")])]
    groups.append(("IoU", [n for n in names if n.startswith(("val/iou", "val/mean_iou"))]))
    groups = [group for group in groups if group[1]]
    figure, axes = panels(max(1, len(groups)))
    for ax, (label, members) in zip(axes, groups, strict=False):
        for i, name in enumerate(members):
            points = [(row["step"], row[name]) for row in rows if name in row]
            style = {**_style(i), "marker": MARKERS[i % len(MARKERS)] if len(points) < 60 else ""}
            ax.plot(*zip(*points, strict=True), label=name, markersize=3.5, linewidth=1.2, **style)
        ax.set_xlabel("step", fontsize=9)
        ax.set_ylabel(label, fontsize=9)
        ax.legend(fontsize=8, frameon=False)
    return figure
