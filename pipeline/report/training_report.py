"""The report of a training run: `report.md` with its pictures beside it, and `report.html` in one file."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.report.blocks import Block, Facts, Heading, Paragraph, Picture, Table
from pipeline.report.pages import header, plot, section, write_pages
from pipeline.report.plots import learning_curves

CAPTIONS = {
    "samples": "Samples as the network is trained on them: target in colour, first clicks.",
    "predictions": "Predictions at their last click, over the target, with the clicks that led there.",
}
VALIDATIONS = 12  # rows shown of a long run; the best and the last are among them
ABSENT = "–"


def write_training_report(
    out: str | Path,
    summary: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    pictures: Mapping[str, bytes],
) -> dict[str, bytes]:
    """Write the report of a training run, finished or not.

    Args:
        out: folder (local path or URI).
        summary: recipe, out, step, steps (of the whole run), data ({"train": sentence, ...}), options (dotted name to
            value), checkpoints (steps that are kept), best ((NoC@90, step) or None) and what `pages.header` takes.
        rows: content of `metrics.jsonl`.
        pictures: PNGs by name, as in the run's folder `pictures`: KIND_STEP, KIND of `CAPTIONS`.

    Returns:
        Content of the files by name below `out`.
    """
    title = f"Training of {summary['recipe']}"
    blocks: list[Block] = [
        Heading(title, 1),
        *(Paragraph(text) for text in _state(summary)),
        header(summary),
        Facts(sorted((k, str(v)) for k, v in summary["options"].items()), title="Options of the run"),
        *section("Learning curves", lambda: _curves(rows)),
        *section("Validation", lambda: _validation(rows, summary["best"])),
        *section("Pictures", lambda: _pictures(pictures)),
    ]
    return write_pages(out, title, blocks)


def _state(summary: Mapping[str, Any]) -> list[str]:
    step, steps = summary["step"], summary["steps"]
    done = f"All {steps} steps are done" if step >= steps else f"{step} of {steps} steps are done"
    goes_on = "" if step >= steps else "; the same command continues the run"
    kept = ", ".join(map(str, summary["checkpoints"])) or "none"
    data = [f"{name}: {text}." for name, text in summary["data"].items()]
    return [f"{done}{goes_on}. Checkpoints in {summary['out']}: steps {kept}.", *data]


def _curves(rows: Sequence[Mapping[str, Any]]) -> list[Block]:
    caption = "Training loss, and figures of the validation, over optimizer steps."
    if not any("train/loss" in row for row in rows):
        return [Heading("Learning curves"), Paragraph("Nothing was logged yet.")]
    return [Heading("Learning curves"), plot(learning_curves(rows), "learning_curves.png", caption)]


def _validation(rows: Sequence[Mapping[str, Any]], best: tuple[float, int] | None) -> list[Block]:
    """The figures of the validations: all of a short run, else evenly chosen ones, the best and the last among them."""
    found = [row for row in rows if any(name.startswith("val/") for name in row)]
    if not found:
        return []
    chosen = set(range(len(found)))
    if len(found) > VALIDATIONS:
        chosen = {round(i * (len(found) - 1) / (VALIDATIONS - 1)) for i in range(VALIDATIONS)}
    steps = {row["step"]: at for at, row in enumerate(found)}
    if best is not None and best[1] in steps:
        chosen.add(steps[best[1]])
    names = sorted({name for row in found for name in row if name.startswith("val/")})
    cells = [
        [
            f"{row['step']}{' (best)' if best is not None and row['step'] == best[1] else ''}",
            *(f"{row[name]:.{2 if 'noc' in name else 3}f}" if name in row else ABSENT for name in names),
        ]
        for at, row in enumerate(found)
        if at in chosen
    ]
    text = f"{len(cells)} of {len(found)} validations. noc90: clicks to IoU 0.90, fewer is better; iou5: IoU at 5."
    return [Heading("Validation"), Paragraph(text), Table(["step", *(n.removeprefix("val/") for n in names)], cells)]


def shown(names: Iterable[str]) -> list[str]:
    """Of each kind of picture the first and the last; names as in `write_training_report`."""
    found = [sorted(name for name in names if name.startswith(f"{kind}_")) for kind in CAPTIONS]
    return [name for of_kind in found for name in dict.fromkeys(of_kind[:1] + of_kind[-1:])]


def _pictures(pictures: Mapping[str, bytes]) -> list[Block]:
    blocks: list[Block] = []
    for name in shown(pictures):
        kind, step = name.rsplit("_", 1)
        (width,) = struct.unpack(">I", pictures[name][16:20])  # of a PNG's header
        blocks.append(Picture(f"{name}.png", pictures[name], f"Step {int(step)}. {CAPTIONS[kind]}", width))
    return [Heading("Samples and predictions"), *blocks] if blocks else []
