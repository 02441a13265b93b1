"""Section of a sweep's report on how its trials trained, and when they were stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.report import sweep_plots
from pipeline.report.blocks import Block, Heading, Paragraph
from pipeline.report.pages import plot
from pipeline.tune.trials import OBJECTIVES, Objective, Trial


def histories(summary: Mapping[str, Any], trials: Sequence[Trial], objectives: Sequence[Objective]) -> list[Block]:
    """The validations of all trials over their steps; nothing for a cfr sweep, which does not train."""
    if summary["kind"] != "icl":
        return []
    options, steps = summary["options"], summary["steps"]
    rungs: list[int] = []
    rung = options["grace"]
    while options["reduction"] > 1 and rung < steps:
        rungs.append(rung)
        rung *= options["reduction"]
    how = (
        f"At steps {', '.join(map(str, rungs))} a trial goes on when it is among the best 1 in {options['reduction']} "
        "of those that came there before it (ASHA); else it is stopped."
        if rungs
        else "No trial is stopped early."
    )
    blocks: list[Block] = [
        Heading("Trials over their training"),
        Paragraph(f"A trial trains {steps} steps. {how} The sweep took {summary['hours']:.2f} hours."),
    ]
    for objective in objectives:
        figure = sweep_plots.history_plot(trials, objective, rungs)
        if figure is not None:
            caption = f"Validation {objective.label} of each trial over optimizer steps."
            blocks.append(plot(figure, f"history-{objective.name}.png", caption))
    return blocks


def indistinct(summary: Mapping[str, Any]) -> list[str]:
    """A sentence for every objective that is the same for all trials, and names the figures that are not."""
    done = [trial["metrics"] for trial in summary["trials"] if trial["state"] == "done"]
    if len(done) < 2:
        return []

    def differs(name: str) -> bool:
        return len({round(metrics[name], 6) for metrics in done if name in metrics}) > 1

    said = []
    others = [o for o in OBJECTIVES.values() if o.name not in summary["objectives"] and differs(o.name)]
    quality = [o.name for o in others if not o.cost]
    for name in summary["objectives"]:
        if name in done[0] and not differs(name):
            instead = f"{', '.join(quality[:3])} can (--objectives)" if quality else "no other figure can either"
            why = " (every object is at the click budget, perhaps)" if name.startswith("noc") else ""
            value = f"{done[0][name]:.4g} for all{why}"
            said.append(f"{name} cannot tell the {len(done)} settings apart: it is {value}; {instead}.")
    return said
