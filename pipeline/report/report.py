"""The report of an evaluation: `report.md` with its pictures beside it, and `report.html` in one file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure

from pipeline.evaluate.metrics import IOU_AT, IOU_LEVELS, hold
from pipeline.evaluate.setting import COLUMNS, Setting, dataset_rows
from pipeline.report import plots
from pipeline.report.blocks import Block, Facts, Heading, Paragraph, Picture, Table
from pipeline.report.claims import CLAIMS, TOLERANCE, compare
from pipeline.report.compared import compared_blocks
from pipeline.report.naming import model_name
from pipeline.report.pages import header, plot, section, write_pages

__all__ = ["ObjectPicture", "pick_objects", "write_report"]

JPEG_QUALITY = 88
ABSENT = "–"


@dataclass(frozen=True)
class ObjectPicture:
    """The strip of one object (`overlay.object_strip`).

    Attributes:
        iou: after the last click.
        strip: (H, W, 3) uint8 RGB.
        why: it went as it did, phrases (`reasons.reasons`).
    """

    dataset: str
    image_id: str
    object_id: int
    setting: str
    iou: float
    strip: np.ndarray
    kind: Literal["worst", "typical"] = "worst"
    why: Sequence[str] = ()


def pick_objects(
    objects: pa.Table, worst: int = 6, typical: int = 4
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Choose the objects to show: of the setting with the most CFR steps, spread evenly over the data sets.

    An object's score is its mean IoU over all clicks; the worst have the lowest, typical ones lie nearest the median.

    Args:
        objects: table of `objects.parquet`.
        worst, typical: how many of each at most.

    Returns:
        Rows of the table as dicts: the worst, worst first, and the typical; no object is in both.
    """
    if objects.num_rows == 0:
        return [], []
    columns = list(COLUMNS)
    setting = max(Setting.of(row) for row in objects.select(columns).group_by(columns).aggregate([]).to_pylist())
    # Only the rows that are shown become dicts: those of all objects, each click one of its own, are hundreds of times
    # the table's size.
    tables = [dataset_rows(objects, name, setting) for name in dict.fromkeys(objects["dataset"].to_pylist())]
    ranked: list[list[tuple[float, int, int]]] = []  # of each data set: score, number of its table, row there
    for number, rows in enumerate(tables):
        if rows.num_rows:
            curves = rows["iou"].to_numpy()
            held = hold(curves, max(map(len, curves)))
            scores = held.mean(axis=1, dtype=np.float64)
            ranked.append([(float(scores[i]), number, int(i)) for i in np.argsort(scores, kind="stable")])
    lowest = sorted(_in_turns(ranked, worst), key=lambda item: item[0])
    taken = set(lowest)
    middle = []
    for ranking in ranked:
        median = float(np.median([score for score, _, _ in ranking]))
        left = [item for item in ranking if item not in taken]
        middle.append(sorted(left, key=lambda item: abs(item[0] - median)))

    def rows_of(items: Sequence[tuple[float, int, int]]) -> list[dict[str, Any]]:
        return [tables[number].slice(row, 1).to_pylist()[0] for _, number, row in items]

    return rows_of(lowest), rows_of(_in_turns(middle, typical))


def _in_turns(lists: Sequence[Sequence[Any]], count: int) -> list[Any]:
    """The first of each list, then the second of each, ...; `count` items at most."""
    longest = max((len(items) for items in lists), default=0)
    return [items[i] for i in range(longest) for items in lists if i < len(items)][:count]


def write_report(
    out: str | Path, summary: Mapping[str, Any], objects: pa.Table, pictures: Sequence[ObjectPicture]
) -> dict[str, bytes]:
    """Write the report of an evaluation.

    Args:
        out: folder (local path or URI).
        summary: content of `summary.json`.
        objects: table of `objects.parquet`.
        pictures: strips of the objects of `pick_objects`.

    Returns:
        Content of the files, report.md, report.html and the pictures of report.md, by name below `out`.
    """
    name = model_name(summary["checkpoint"])
    title = f"Evaluation of {name}"
    blocks: list[Block] = [
        Heading(title, 1),
        Paragraph(_scope(summary)),
        header(summary),
        Facts(sorted((k, str(v)) for k, v in summary["options"].items()), title="Options of the evaluation"),
        Heading("Results"),
        _results(summary["results"]),
        *(Paragraph(text) for text in _legend(summary)),
        *section("Comparison", lambda: compared_blocks(summary.get("compared"), summary["checkpoint"])),
        *_plots(summary, objects),
        *section("Worst objects", lambda: _strips("Worst objects", [p for p in pictures if p.kind == "worst"])),
        *section("Typical objects", lambda: _strips("Typical objects", [p for p in pictures if p.kind == "typical"])),
        Heading("Published figures"),
        *_claims(summary),
        Heading("Images and objects set aside"),
        *_rejected(summary),
        *(Paragraph(line) for line in summary.get("left_out", ())),
        *_masks(summary.get("masks")),
    ]
    return write_pages(out, title, blocks)


def _scope(summary: Mapping[str, Any]) -> str:
    """What was evaluated, in a sentence."""
    results = summary["results"]
    objects = {row["dataset"]: row["objects"] for row in results}
    settings = list(dict.fromkeys(Setting.of(row).name for row in results))
    sets = "1 data set" if len(objects) == 1 else f"{len(objects)} data sets"
    return f"{sum(objects.values())} objects of {sets} ({', '.join(objects)}), with {', '.join(settings)}."


def _number(value: float | None, form: str) -> str:
    return ABSENT if value is None else format(value, form)


def _results(results: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for row in results:
        noc, nof, curve = row.get("noc", {}), row.get("nof", {}), row.get("mean_iou", [])
        cells = [row["dataset"], Setting.of(row).name, str(row["objects"])]
        cells += [_number(noc.get(str(level)), ".2f") for level in IOU_LEVELS]
        cells += [_number(nof.get(str(level)), "d") for level in IOU_LEVELS]
        cells += [_number(curve[k - 1] if k <= len(curve) else None, ".3f") for k in IOU_AT]
        cells += [_number(row.get("seconds_per_click"), ".3f"), _number(row.get("objects_per_second"), ".2f")]
        rows.append(cells)
    levels = [str(level) for level in IOU_LEVELS]
    head = ["data set", "setting", "objects", *levels, *levels, *map(str, IOU_AT), "s/click", "objects/s"]
    groups = [("", 3), ("NoC@", 4), ("NoF@", 4), ("IoU@", len(IOU_AT)), ("", 2)]
    return Table(head, rows, text_columns=2, groups=groups)


def _legend(summary: Mapping[str, Any]) -> list[str]:
    clicks = summary["options"].get("eval.max_clicks", 20)
    target = summary["options"].get("eval.target_iou", 0.95)
    return [
        f"NoC@q: mean number of clicks to reach IoU >= q %, where an object that never does counts {clicks}. "
        f"NoF@q: objects whose NoC is {clicks}. IoU@k: mean IoU after k clicks; an object that reached the target IoU "
        f"of {target} stops there and holds its last IoU.",
        "s/click is wall time of the evaluation loop (decoding, click simulation and all forward passes) over all "
        "clicks; s/click and objects/s are those of one inference process.",
    ]


def _level(results: Sequence[Mapping[str, Any]]) -> int | None:
    """NoC@90 for the plots, or the highest level that was reported."""
    known = [level for level in IOU_LEVELS if any(row.get("noc", {}).get(str(level)) is not None for row in results)]
    return 90 if 90 in known else max(known, default=None)


def _plots(summary: Mapping[str, Any], objects: pa.Table) -> list[Block]:
    results, level = summary["results"], _level(summary["results"])
    if level is None:
        return []
    clicks = int(summary["options"].get("eval.max_clicks", 20))
    model = model_name(summary["checkpoint"])
    made: list[tuple[str, str, Callable[[], Figure | None]]] = [
        ("iou.png", "Mean IoU after each click.", lambda: plots.iou_curves(results, model)),
        (
            "noc.png",
            f"Number of clicks to IoU {level} %.",
            lambda: plots.noc_histogram(results, objects, level, clicks, model),
        ),
        (
            "refinement.png",
            f"What refinement buys and costs: NoC@{level} against seconds per click.",
            lambda: plots.cost_of_refinement(results, level, model),
        ),
    ]
    blocks: list[Block] = [Heading("Plots")]
    for name, caption, make in made:

        def drawn(name: str = name, caption: str = caption, make: Callable[[], Figure | None] = make) -> list[Block]:
            figure = make()
            return [] if figure is None else [plot(figure, name, caption)]

        blocks += section(caption, drawn)
    return blocks


def _strips(title: str, pictures: Sequence[ObjectPicture]) -> list[Block]:
    if not pictures:
        return []
    chosen = {
        "worst": "The lowest mean IoU over all clicks, from each data set in turn.",
        "typical": "The mean IoU over all clicks nearest the median, from each data set in turn.",
    }[pictures[0].kind]
    text = (
        f"{chosen} Mask in blue, ground truth in yellow, ignored pixels grey; numbered clicks, positive ones as green "
        "disks, negative ones as red squares. Where they would hide a small object, the frame in the first picture "
        "says which part of it the others show."
    )
    blocks: list[Block] = [Heading(title), Paragraph(text)]
    for i, picture in enumerate(pictures):
        ok, data = cv2.imencode(
            ".jpg", cv2.cvtColor(picture.strip, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        )
        if not ok:
            raise ValueError(f"cannot encode the strip of {picture.image_id}")
        caption = (
            f"{picture.dataset}, image {picture.image_id}, object {picture.object_id}, {picture.setting}: "
            f"final IoU {picture.iou:.3f}"
        )
        name, note = f"{picture.kind}-{i + 1:02d}.jpg", "; ".join(picture.why)
        sentence = f"{note[0].upper()}{note[1:]}." if note else ""
        blocks.append(Picture(name, data.tobytes(), caption, picture.strip.shape[1], sentence))
    return blocks


def _masks(written: Mapping[str, Any] | None) -> list[Block]:
    """Where the final masks lie, if they were written (`summary["masks"]`)."""
    if not written:
        return []
    rows = [[folder, str(count)] for folder, count in written.items()]
    text = "The masks after each object's last click, beside this report: PNG files, and a COCO file, annotations.json."
    return [Heading("Masks as files"), Paragraph(text), Table(["folder", "masks"], rows)]


def _claims(summary: Mapping[str, Any]) -> list[Block]:
    rows = []
    for row in compare(CLAIMS, summary):
        claim = row.claim
        rows.append(
            [
                claim.benchmark,
                f"{claim.model.system} CFR-{claim.cfr_steps} {claim.model.variant}",
                claim.model.trained_on,
                f"NoC@{claim.level}",
                f"{claim.value:.2f}",
                _number(row.measured, ".2f"),
                row.status,
                row.note,
            ]
        )
    head = ["benchmark", "model", "trained on", "metric", "claimed", "measured", "status", "note"]
    marks = {"verified": "good", "not verified": "bad", "not run": "none"}
    text = (
        "Figures claimed by the paper (arXiv 2303.05620) beside this evaluation; verified means within "
        f"{TOLERANCE} clicks on all objects of the benchmark, with the same model, training set, CFR steps and options."
    )
    return [Paragraph(text), Table(head, rows, text_columns=len(head), marks=marks)]


def _rejected(summary: Mapping[str, Any]) -> list[Block]:
    rows = [
        [dataset, reason, str(count)]
        for dataset, reasons in summary.get("rejected", {}).items()
        for reason, count in reasons.items()
    ]
    if not rows:
        return [Paragraph("No image and no object was set aside.")]
    return [
        Paragraph("Images and objects that could not be used, by reason; each is listed in rejected.parquet."),
        Table(["data set", "reason", "number"], rows, text_columns=2),
    ]
