"""The report's section that compares an evaluation with an earlier one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.evaluate.setting import Setting
from pipeline.report.blocks import Block, Facts, Heading, Paragraph, Table
from pipeline.report.naming import two_names

FORMS = {"noc": "+z.2f", "iou_at": "+z.3f"}
TITLES = {"noc": "NoC", "iou_at": "IoU"}


def compared_blocks(compared: Mapping[str, Any] | None, checkpoint: Mapping[str, Any]) -> list[Block]:
    """The section of the entry "compared" of a summary (`compare.differences`); nothing when there is none.

    Args:
        checkpoint: the summary's own.
    """
    if compared is None:
        return []
    here, there = two_names(checkpoint, compared["checkpoint"])
    facts = [
        ("Earlier evaluation", compared["uri"]),
        ("Its checkpoint", compared["checkpoint"]["uri"]),
        ("SHA-256", compared["checkpoint"]["sha256"]),
        ("Its date", compared["date"]),
        ("Its command", compared["command"]),
    ]
    shown = [(name, str(value)) for name, value in facts if value not in (None, "")]
    blocks: list[Block] = [
        Heading(f"Compared with {there}"),
        Paragraph(f"{here} is evaluated here; {there} was in the earlier evaluation below."),
        Facts(shown, frozenset(name for name, _ in shown) - {"Its date"}),
        *(Paragraph(note) for note in compared["notes"]),
        _numbers(compared["results"], here, there),
        *(_differences(compared["results"], kind) for kind in FORMS if any(row[kind] for row in compared["results"])),
        Paragraph(
            f"Differences are {here} minus {there}, means over the objects that both have (paired): "
            "fewer clicks and a higher IoU are better. In brackets the 95 % interval over "
            f"{compared['resamples']} bootstrap resamples of the paired objects; a difference whose interval holds 0 "
            f"may be chance. Both are taken up to {compared['max_clicks']} clicks and a target IoU of "
            f"{compared['target_iou']}."
        ),
    ]
    largest = _largest(compared["results"], here, there)
    if largest.rows:
        text = (
            "The objects of each data set and setting with the largest differences in NoC, "
            "among equals in mean IoU over all clicks."
        )
        blocks += [Heading("Objects with the largest differences", 3), Paragraph(text), largest]
    return blocks


def _numbers(results: Sequence[Mapping[str, Any]], here: str, there: str) -> Table:
    """How many objects are in both evaluations, and in one only."""
    counts = ("paired", "only_here", "only_there")
    rows = [[row["dataset"], Setting.of(row).name, *(str(row[name]) for name in counts)] for row in results]
    return Table(["data set", "setting", "in both", f"{here} only", f"{there} only"], rows, text_columns=2)


def _differences(results: Sequence[Mapping[str, Any]], kind: str) -> Table:
    keys = sorted({key for row in results for key in row[kind]}, key=int)
    rows: list[list[str]] = []
    marks: dict[str, str] = {}
    for row in results:
        cells = [row["dataset"], Setting.of(row).name]
        for key in keys if row[kind] else ():
            value, low, high = (row[kind][key][name] for name in ("difference", "low", "high"))
            cells.append(f"{value:{FORMS[kind]}} [{low:{FORMS[kind]}}, {high:{FORMS[kind]}}]")
            if low > 0 or high < 0:
                marks[cells[-1]] = "good" if (value > 0) == (kind == "iou_at") else "bad"
        if row[kind]:
            rows.append(cells)
    groups = [("", 2), (f"difference in {TITLES[kind]}@", len(keys))]
    return Table(["data set", "setting", *keys], rows, text_columns=2, groups=groups, marks=marks)


def _largest(results: Sequence[Mapping[str, Any]], here: str, there: str) -> Table:
    level = next((item["level"] for row in results for item in row["largest"] if "level" in item), None)
    counts = [] if level is None else ["noc_there", "noc_here"]
    rows = [
        [
            row["dataset"],
            Setting.of(row).name,
            item["image_id"],
            str(item["object_id"]),
            *(str(item[name]) for name in counts),
            *(f"{item[name]:.3f}" for name in ("mean_iou_there", "mean_iou_here")),
        ]
        for row in results
        for item in row["largest"]
    ]
    groups = [("", 4), (f"NoC@{level} ", len(counts)), ("mean IoU ", 2)]
    head = ["data set", "setting", "image", "object", *([there, here] if counts else []), there, here]
    return Table(head, rows, text_columns=3, groups=[group for group in groups if group[1]])
