"""The report of a sweep: `report.md` with its pictures beside it, and `report.html` in one file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from pipeline.report import sweep_plots
from pipeline.report.blocks import Block, Facts, Heading, Paragraph, Table
from pipeline.report.naming import model_name
from pipeline.report.pages import header, plot, section, write_pages
from pipeline.report.sweep_history import histories, indistinct
from pipeline.tune.dimensions import Dimension, Fixed, parse, shown
from pipeline.tune.trials import OBJECTIVES, Objective, Trial, at_common_step, split

ABSENT = "–"
UNLIKELY = 0.05  # chance below which a spread is marked


def describe_setting(setting: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    """A setting in words: the values that differ from the base, or "as published"."""
    short = shortened([*setting, *base])
    changed = [f"{short[n]} {shown(v)}" for n, v in setting.items() if n not in base or base[n] != v]
    return ", ".join(changed) or "as published"


def shortened(names: Iterable[str]) -> dict[str, str]:
    """Dotted names without their groups, where that leaves them different: loss.gamma beside clicks.gamma stays."""
    rests = {name: name.partition(".")[2] or name for name in names}
    count = Counter(rests.values())
    return {name: rest if count[rest] == 1 else name for name, rest in rests.items()}


def write_sweep_report(out: str | Path, summary: Mapping[str, Any]) -> dict[str, bytes]:
    """Write the report of a sweep of either kind.

    Args:
        out: folder (local path or URI).
        summary: content of the sweep's `summary.json`.

    Returns:
        Content of the files by name below `out`.
    """
    trials = [Trial.from_dict(row) for row in summary["trials"]]
    objectives = [OBJECTIVES[name] for name in summary["objectives"]]
    dimensions = {name: parse(text, name) for name, text in summary["space"].items()}
    searched = {name: d for name, d in dimensions.items() if not isinstance(d, Fixed)}
    of = f" of {model_name(summary['checkpoint'])}" if "checkpoint" in summary else f" of {summary['recipe']}"
    title = f"Sweep over {summary['kind'].upper()} settings{of}"
    blocks: list[Block] = [
        Heading(title, 1),
        *(Paragraph(text) for text in indistinct(summary)),
        Paragraph(_scope(summary, trials)),
        header(summary),
        Facts(sorted((k, str(v)) for k, v in summary["options"].items()), title="Options of the sweep"),
        *section("Trials over their training", lambda: histories(summary, trials, objectives)),
        *section("Settings worth using", lambda: _worth(summary, trials, objectives)),
        *section("Pareto front", lambda: _front(summary, trials, objectives)),
        *_best(summary),
        *_passes(summary),
        *section("What mattered", lambda: _mattered(summary, trials, objectives, searched)),
        Heading("What was searched"),
        _space(summary, dimensions),
        Heading("All trials"),
        _table(trials, objectives, searched),
        *(Paragraph(text) for text in _legend(summary, objectives)),
        *_failed(trials),
        *_reproduce(summary),
    ]
    return write_pages(out, title, blocks)


def _scope(summary: Mapping[str, Any], trials: Sequence[Trial]) -> str:
    states = {state: sum(t.state == state for t in trials) for state in ("done", "stopped", "failed")}
    counts = ", ".join(f"{count} {state}" for state, count in states.items() if count)
    data = ", ".join(f"{name} ({d['objects']} objects)" for name, d in summary["data"].items())
    used_up = " The space holds no further setting." if summary.get("exhausted") else ""
    return f"{len(trials)} trials ({counts}) on {data}; objectives: {', '.join(summary['objectives'])}.{used_up}"


def _name(trial: Trial, base: Mapping[str, Any]) -> str:
    return trial.name or describe_setting(trial.setting, base)


def _worth(summary: Mapping[str, Any], trials: Sequence[Trial], objectives: Sequence[Objective]) -> list[Block]:
    quality, cost = split(objectives)
    if not summary["worth"] or quality is None or cost is None:
        return []
    worth = [step["trial"] for step in summary["worth"] if step["worth"]]
    on_front = [step["trial"] for step in summary["worth"]]
    figure = sweep_plots.pareto_plot(trials, cost, quality, on_front, worth)
    rows, marks = [], {"yes": "good", "not told apart": "none"}
    by_id = {trial.id: trial for trial in trials}
    others = [o for o in OBJECTIVES.values() if o not in (quality, cost) and o.name in by_id[on_front[0]].metrics]
    for step in summary["worth"]:
        trial = by_id[step["trial"]]
        change = ABSENT
        if step["change"] is not None:
            value, low, high = step["change"]
            change = f"{value:+.2f} [{low:+.2f}, {high:+.2f}] from #{step['against']}"
        rows.append(
            [
                f"#{trial.id}",
                _name(trial, summary["base"]),
                "yes" if step["worth"] else "not told apart",
                *(_figure(trial, o) for o in (cost, quality)),
                change,
                *(_figure(trial, o) for o in others),
            ]
        )
    head = ["trial", "setting", "worth using", cost.name, quality.label, "difference", *(o.label for o in others)]
    rule = (
        f"The Pareto front of {quality.label} and {cost.label}, from cheap to dear. A setting is worth using when its "
        f"{quality.label} is better than that of the last cheaper one worth using by a difference whose 95 % interval "
        "(bootstrap over the objects of both) does not hold 0; else the objects do not tell the two apart."
    )
    blocks: list[Block] = [Heading("Settings worth using at each cost"), Paragraph(rule)]
    blocks.append(Table(head, rows, text_columns=3, marks=marks))
    if figure is not None:
        blocks.append(plot(figure, "pareto.png", f"{quality.label} against {cost.label}, a point for each trial."))
    return blocks


def _front(summary: Mapping[str, Any], trials: Sequence[Trial], objectives: Sequence[Objective]) -> list[Block]:
    """The front of two figures neither of which is a cost."""
    if summary["worth"] or len(objectives) < 2 or not summary["front"]:
        return []
    first, second = objectives[:2]
    figure = sweep_plots.pareto_plot(trials, first, second, summary["front"], [])
    blocks: list[Block] = [Heading(f"Pareto front of {first.label} and {second.label}")]
    shown = [trial for trial in trials if trial.id in summary["front"]]
    rows = [[f"#{t.id}", _name(t, summary["base"]), *(_figure(t, o) for o in objectives)] for t in shown]
    blocks.append(Table(["trial", "setting", *(o.label for o in objectives)], rows, text_columns=2))
    if figure is not None:
        blocks.append(plot(figure, "pareto.png", f"{second.label} against {first.label}, a point for each trial."))
    return blocks


def _figure(trial: Trial, objective: Objective) -> str:
    value = trial.metrics.get(objective.name)
    return ABSENT if value is None else f"{value:.3f}" if value < 10 else f"{value:.2f}"


def _best(summary: Mapping[str, Any]) -> list[Block]:
    best = summary["best"]
    if best is None:
        return []
    job = {"cfr": "jobs.evaluate --config", "icl": "jobs.train RECIPE --config"}[summary["kind"]]
    rows = [(name, shown(value)) for name, value in best["values"].items()]
    return [
        Heading("best.json"),
        Paragraph(f"Trial #{best['trial']}. {best['why']} The file is taken as it is by {job}."),
        Facts([*rows, *((f"{n} (measured)", f"{v:.4g}") for n, v in best["objectives"].items())]),
    ]


def _passes(summary: Mapping[str, Any]) -> list[Block]:
    if "passes" not in summary:
        return []
    computed, separate = summary["passes"]["computed"], summary["passes"]["separate"]
    saved = 1 - computed / max(1, separate)
    text = (
        f"{computed} forward passes were computed. Evaluating every setting alone takes {separate}: {saved:.1%} were "
        "saved, as settings of one generation share the passes in which they see the same thing. Results are those of "
        "separate evaluations."
    )
    return [Heading("Forward passes"), Paragraph(text)]


def _mattered(
    summary: Mapping[str, Any],
    trials: Sequence[Trial],
    objectives: Sequence[Objective],
    searched: Mapping[str, Dimension],
) -> list[Block]:
    text = (
        "For each searched name the mean of the objective at each of its values (with the number of trials), while all "
        "other names vary as they happened to. The spread is the largest mean minus the smallest. Chance is the share "
        "of 2000 random dealings of the results to the trials with as wide a spread: a spread that chance gives often "
        "says nothing. Importance is Optuna's (fANOVA); it always adds up to 1, also when nothing mattered. A search "
        "that learns tries good values more often, and together: this is no controlled experiment."
    )
    blocks: list[Block] = [Heading("What mattered"), Paragraph(text)]
    if summary["kind"] == "icl":
        step, trials = at_common_step(trials)
        compared = f"Trials are compared by their validation at step {step}, the last that all of them reached."
        blocks.append(Paragraph(compared if trials else "No trial came to a validation."))
    for objective in objectives:
        rows, marks = [], {}
        for spread in summary["spreads"][objective.name]:
            means = "; ".join(f"{label}: {mean:.2f} ({count})" for label, count, mean in spread["groups"])
            importance = ABSENT if spread["importance"] is None else f"{spread['importance']:.2f}"
            chance = "<0.001" if spread["chance"] < 0.001 else f"{spread['chance']:.3f}"
            if spread["chance"] < UNLIKELY:
                marks[chance] = "good"
            rows.append([spread["name"], means, f"{spread['range']:.2f}", chance, importance])
        if rows:
            blocks.append(Heading(objective.label, 3))
            head = ["name", "means by value (trials)", "spread", "chance", "importance"]
            blocks.append(Table(head, rows, text_columns=2, marks=marks))
    figure: Figure | None = sweep_plots.importance_plot(trials, searched, objectives)
    if figure is not None:
        blocks.append(plot(figure, "importances.png", "Optuna's importance of the searched names."))
    for i, objective in enumerate(objectives):
        figure = sweep_plots.parallel_plot(trials, searched, objectives, i)
        if figure is not None:
            caption = f"The trials across the searched values, coloured by {objective.label}."
            picture = plot(figure, f"parallel-{objective.name}.png", caption)
            blocks.append(picture)
    return blocks


def _space(summary: Mapping[str, Any], dimensions: Mapping[str, Dimension]) -> Table:
    base = summary["base"]
    rows = [
        [name, text, shown(base[name]) if name in base else ABSENT]
        for name, text in summary["space"].items()
        if name in dimensions
    ]
    return Table(["name", "searched", "published or recipe's value"], rows, text_columns=2)


def _table(trials: Sequence[Trial], objectives: Sequence[Objective], searched: Mapping[str, Dimension]) -> Table:
    names = [name for name in searched if any(name in t.setting or name in t.values for t in trials)]
    figures = [*objectives, *(o for o in OBJECTIVES.values() if o not in objectives)]
    figures = [o for o in figures if any(o.name in t.metrics for t in trials)]
    rows = []
    for t in trials:
        values = {**t.values, **t.setting}
        cells = [f"#{t.id}", t.name, t.state, *(shown(values[n]) if n in values else ABSENT for n in names)]
        rows.append([*cells, *(_figure(t, o) for o in figures), f"{t.seconds:.1f}"])
    head = ["trial", "name", "state", *shortened(names).values(), *(o.name for o in figures), "s"]
    groups = [("", 3), ("setting ", len(names)), ("figures ", len(figures) + 1)]
    marks = {"failed": "bad", "stopped": "none"}
    return Table(head, rows, text_columns=3, groups=groups, marks=marks)


def _legend(summary: Mapping[str, Any], objectives: Sequence[Objective]) -> list[str]:
    texts = []
    if len(summary["data"]) > 1:
        texts.append("Figures are means over the data sets of their own figures: each counts the same.")
    if summary["kind"] == "cfr":
        texts.append(
            "passes: forward passes per object. seconds: per click, as if the setting had been evaluated alone: a pass "
            "that settings shared counts in full for each of them, and so do decoding, IoU and next click; measured "
            "without overlap at batch size 1. s: seconds over all objects, counted in the same way. What has no effect "
            "in a setting (refined clicks of CFR-0, the pixels of an adaptive stop that is off) shows its published "
            "value."
        )
    else:
        texts.append(
            "Figures are those of a trial's last validation; only trials that came to their end are compared with one "
            "another. s: seconds that the trial took in the command that ended it."
        )
    return texts


def _failed(trials: Sequence[Trial]) -> list[Block]:
    failed = [t for t in trials if t.state == "failed"]
    if not failed:
        return []
    rows = [[f"#{t.id}", ", ".join(f"{n}={shown(v)}" for n, v in t.setting.items()), t.error] for t in failed]
    return [Heading("Failed trials"), Table(["trial", "setting", "error"], rows, text_columns=3)]


def _reproduce(summary: Mapping[str, Any]) -> list[Block]:
    facts = [
        ("The sweep", str(summary["command"])),
        ("Its seed", json.dumps(summary["options"].get("seed"))),
    ]
    text = (
        "The same command with the same seed proposes the same settings; in the same output folder it continues, and "
        "evaluates nothing again that is finished. settings/ holds a file like best.json for each setting of the front."
    )
    return [Heading("How to reproduce"), Paragraph(text), Facts(facts, frozenset({"The sweep"}))]
