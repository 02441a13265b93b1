"""A run in words, as MLflow shows it above its parameters: what was done, what came out, the command that repeats it.

Markdown, from what summary.json says: of a training, an evaluation, a sweep. Pure functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.evaluate.setting import Setting

LEVELS = ("80", "85", "90")
AT = ("1", "5")
FEWER = "NoC@90: clicks until IoU 0.90, fewer is better. IoU@5: IoU after 5 clicks."


def describe_run(summary: Mapping[str, Any], checkpoint_page: str = "") -> str:
    """The description of a finished run; "" for a summary of something else.

    Args:
        summary: of summary.json.
        checkpoint_page: address of the page of the run that made the checkpoint, "" without one.
    """
    if "results" in summary:
        text = _evaluation(summary, checkpoint_page)
    elif "trials" in summary:
        text = _sweep(summary, checkpoint_page)
    elif "recipe" in summary:
        text = _training(summary)
    else:
        return ""
    again = f"The same again:\n\n    {summary['command']}"
    return f"{text}\n\n{again}\n\nreport.html and report.md are among the artifacts."


def describe_version(name: str, version: str, tags: Mapping[str, str]) -> str:
    """The description of a version of a registered model; `tags`: its recipe and step among others."""
    made = f"Recipe **{tags['recipe']}**, step {tags['step']}. " if {"recipe", "step"} <= tags.keys() else ""
    load = f'    from pipeline import Predictor\n\n    predictor = Predictor.load("models:/{name}/{version}")'
    return f"{made}Tags NAME.SETTING.noc90 come from evaluations of this model. To click with it:\n\n{load}"


def _training(summary: Mapping[str, Any]) -> str:
    data = ", ".join(f"{name} `{uri}`" for name, uri in summary["data"].items())
    lines = [f"Training of recipe **{summary['recipe']}**: {summary['step']} of {summary['steps']} steps; {data}."]
    if result := summary.get("result"):
        figures = {name: value for name, value in result.items() if name not in ("step", "objects")}
        table = _table(["step", *map(_named, figures)], [[str(result["step"]), *map(_number, figures.values())]])
        lines.append(f"Validation of the best checkpoint. {FEWER}\n\n{table}")
    return "\n\n".join(lines)


def _evaluation(summary: Mapping[str, Any], checkpoint_page: str) -> str:
    entries = [entry for entry in summary["results"] if entry["objects"]]
    names = list(dict.fromkeys(entry["dataset"] for entry in summary["results"]))
    head = ["data set", "setting", "objects", *(f"NoC@{n}" for n in LEVELS), *(f"IoU@{n}" for n in AT)]
    rows = [
        [
            entry["dataset"],
            Setting.of(entry).name,
            str(entry["objects"]),
            *(_number(entry["noc"].get(level)) for level in LEVELS),
            *(_number(entry["iou_at"].get(clicks)) for clicks in AT),
        ]
        for entry in entries
    ]
    lines = [f"Evaluation on {', '.join(names)} by simulated clicks. {FEWER}", _table(head, rows)]
    return "\n\n".join([*lines, _checkpoint(summary["checkpoint"], checkpoint_page)])


def _sweep(summary: Mapping[str, Any], checkpoint_page: str) -> str:
    of = f" of recipe **{summary['recipe']}**" if "recipe" in summary else ""
    lines = [f"Search of settings{of}: {len(summary['trials'])} trials, each a run below this one."]
    if best := summary["best"]:
        found = {trial["id"]: trial for trial in summary["trials"]}[best["trial"]]
        figures = {
            **{_named(name): value for name, value in best["objectives"].items()},
            **{f"`{name}`": value for name, value in found["setting"].items()},
        }
        table = _table(list(figures), [[_number(value) for value in figures.values()]])
        lines.append(f"Best: trial {best['trial']}.\n\n{table}\n\n`--config` of the next job takes best.json.")
    if "checkpoint" in summary:
        lines.append(_checkpoint(summary["checkpoint"], checkpoint_page))
    return "\n\n".join(lines)


def _checkpoint(checkpoint: Mapping[str, Any], page: str) -> str:
    made = f", made by [this training]({page})" if page else ""
    return f"Checkpoint: `{checkpoint['uri']}`{made}."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _named(figure: str) -> str:
    """NoC@90 for noc90, IoU@5 for iou5."""
    return figure.replace("noc", "NoC@").replace("iou", "IoU@")


def _number(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
