"""What `benchmarks.reproduction` found, for people: tables, one picture, and the numbers as JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.reproduction_results import (
    ADAPTIVE,
    ARMS,
    BASE,
    CLICKS,
    FIGURES,
    LABELS,
    LEVELS,
    SETTINGS,
    Answer,
    Contrast,
    Model,
    Results,
    answers,
    standing,
)
from pipeline import storage
from pipeline.storage.json_files import write_json

NAME = "reproduction"
SHOWN = ("noc80", "noc85", "noc90", "iou1", "iou3", "iou5", "iou10")
PICTURED = ("noc80", "noc90", "iou1", "iou5")
BETTER, WORSE, UNDECIDED = "#0072B2", "#D55E00", "#8C8C8C"  # Okabe-Ito and a grey
HEADLINE = (
    "the whole method with ViT-H takes 33.2 % (Berkeley) and 15.5 % (DAVIS) fewer clicks to IoU 0.95 than the best "
    "before it (abstract)"
)
"""All that could be read of arXiv 2303.05620 when this was written: its abstract, none of its tables."""


def _questions() -> list[Contrast]:
    found = [
        Contrast("A", f"{LABELS[arm]}: {setting.name} - CFR-0", Model(arm, setting), Model(arm))
        for arm in LABELS
        for setting in SETTINGS[1:]
    ]
    plain = Model("plain")
    found.append(Contrast("B", "plain - base: what training on gives", plain, Model(BASE), "no such contrast"))
    found += [Contrast("B", f"{LABELS[arm]} - plain", Model(arm), plain) for arm in ("icl", "icl-suem", "plain-suem")]
    found.append(Contrast("B", "ICL + SUEM - ICL", Model("icl-suem"), Model("icl")))
    whole = Model("icl-suem", ADAPTIVE)
    found.append(Contrast("B", "ICL + SUEM with A-CFR-4 - plain: all of it", whole, plain, HEADLINE))
    icl = ("icl-1", "icl-2", "icl-equal")
    found += [Contrast("C", f"{LABELS[arm]} - plain", Model(arm), plain) for arm in icl]
    found += [Contrast("C", f"{LABELS[arm]} - {LABELS['icl']}", Model(arm), Model("icl")) for arm in icl]
    return found


QUESTIONS = _questions()
TITLES = {
    "A": "A. Inference alone: refinement against a single pass, the same model",
    "B": "B. Training on from the base, the same steps and samples; CFR-0 where nothing else is said",
    "C": "C. Clicks with a loss under ICL and their weights; CFR-0",
}


def _points(figure: str, value: float) -> float:
    """IoU in percent points, clicks as they are."""
    return 100 * value if figure.startswith("iou") else value


def _head(figure: str) -> str:
    return f"NoC@{figure[3:]}" if figure.startswith("noc") else f"IoU@{figure[3:]}"


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> list[str]:
    """A Markdown table; the first columns are texts, the others numbers."""
    rule = ["---"] * texts + ["---:"] * (len(head) - texts)
    return [f"| {' | '.join(row)} |" for row in (head, rule, *rows)] + [""]


def _cell(answer: Answer, figure: str) -> str:
    i, digits = FIGURES.index(figure), 2 if figure.startswith("noc") else 1
    mean, low, high = (f"{_points(figure, v):+.{digits}f}" for v in (answer.difference[i], *answer.by_objects[:, i]))
    text = f"{mean} [{low}, {high}]"
    if answer.verdict(figure):
        return f"**{text}**"
    return text if answer.by_objects[0, i] <= 0 <= answer.by_objects[1, i] else f"{text} °"


def table(results: Results, found: Sequence[Answer]) -> str:
    """All tables, Markdown."""
    about, images = results.about, len(set(results.images))
    lines = [
        "# The method's claims at small size",
        "",
        f"One base of the recipe `small`, trained on for {about['steps']} steps in every arm (highest rate "
        f"{about['lr']:g}); {len(results.images)} objects of {images} images, at most {about['max_clicks']} clicks. A "
        "difference is a mean over objects and seeds, paired by both; IoU in points. [95 % interval: seeds, then "
        "objects drawn again]; **bold** where it holds no 0, also when whole images are drawn; ° where only the "
        "objects' holds none. Fewer clicks (NoC) and more IoU are better.",
        "",
        f"{len(QUESTIONS)} questions times {len(SHOWN)} figures: one interval in twenty misses by chance. Few seeds "
        "make it too narrow, and one seed says nothing of others.",
        "",
    ]
    for group, title in TITLES.items():
        mine = [answer for answer in found if answer.question.group == group]
        lines += [f"## {title}", ""]
        rows = [
            [
                answer.question.label,
                str(len(answer.seeds)),
                *(_cell(answer, figure) for figure in SHOWN),
                f"x {answer.passes:.2f}",
                answer.question.paper,
            ]
            for answer in mine
        ]
        head = ["this - that", "seeds", *map(_head, SHOWN), "passes per click", "arXiv 2303.05620"]
        lines += _grid(head, rows) if rows else ["Nothing is done yet.", ""]
    lines += ["## Where the models stand", ""]
    lines += _grid(
        ["model", "setting", "seeds", *map(_head, SHOWN), "passes per click", "ms per click"],
        [
            [
                LABELS[row["arm"]],
                row["setting"],
                str(len(row["seeds"])),
                *(f"{_points(f, row[f]):.{2 if f.startswith('noc') else 1}f}" for f in SHOWN),
                f"{row['passes_per_click']:.2f}",
                f"{1000 * row['seconds_per_click']:.0f}",
            ]
            for row in standing(results)
        ],
        texts=2,
    )
    lines += ["## What a step costs", ""]
    plain = np.mean(list(results.rates.get("plain", {}).values()) or [np.nan])
    lines += _grid(
        ["arm", "samples a second", "time of a step, plain = 1"],
        [
            [ARMS[arm].label, f"{np.mean(list(rates.values())):.1f}", f"{plain / np.mean(list(rates.values())):.2f}"]
            for arm, rates in results.rates.items()
        ],
    )
    lines += ["Seconds and rates are those of the machine with whatever else it did."]
    return "\n".join(lines)


def picture(found: Sequence[Answer]) -> Figure | None:
    """Differences and intervals: above the arms against plain training, below CFR against a single pass."""
    trained = [a for a in found if a.question.group != "A" and a.question.that == Model("plain")]
    trained.sort(key=lambda a: a.question.this.setting.steps)  # what else differs than the training comes last
    refined = [
        a for a in found if a.question.group == "A" and a.question.this.arm in (BASE, "plain", "icl", "icl-suem")
    ]
    parts: list[tuple[str, list[Answer], Callable[[Contrast], str]]] = [
        ("against plain training", trained, lambda q: q.label.split(" - plain")[0].split(":")[0]),
        ("against CFR-0", refined, lambda q: q.this.label),
    ]
    parts = [part for part in parts if part[1]]
    if not parts:
        return None
    heights = [len(part[1]) + 1.5 for part in parts]
    figure = Figure(figsize=(14, 1.6 + 0.33 * sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(parts), len(PICTURED), squeeze=False, gridspec_kw={"height_ratios": heights})
    for row, (what, mine, label) in zip(grid, parts, strict=True):
        for axes, name in zip(row, PICTURED, strict=True):
            _forest(axes, mine, name)
            axes.set_title(f"{_head(name)} {what}", fontsize=10)
            axes.set_yticks(range(len(mine)), [label(a.question) for a in mine] if axes is row[0] else [], fontsize=8)
    colours = {"better": BETTER, "worse": WORSE, "undecided: an interval holds 0": UNDECIDED}
    handles = [
        Line2D([], [], color=c, marker="o", markerfacecolor="white" if c == UNDECIDED else c, label=text)
        for text, c in colours.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    counts = sorted({len(answer.seeds) for answer in trained + refined})
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    figure.suptitle(f"Mean difference over objects and seeds ({seeds}) with its 95 % interval", fontsize=12)
    return figure


def _forest(axes: Axes, mine: Sequence[Answer], name: str) -> None:
    i = FIGURES.index(name)
    axes.axvline(0, color="black", linewidth=0.8)
    for y, answer in enumerate(mine):
        colour = {1: BETTER, -1: WORSE, 0: UNDECIDED}[answer.verdict(name)]
        low, high = (_points(name, v) for v in answer.by_objects[:, i])
        axes.plot([low, high], [y, y], color=colour, linewidth=2)
        fill = "white" if colour == UNDECIDED else colour
        axes.plot([_points(name, answer.difference[i])], [y], "o", color=colour, markerfacecolor=fill)
    axes.set_ylim(len(mine) - 0.5, -0.5)
    axes.set_xlabel(
        "clicks; better to the left" if name.startswith("noc") else "points; better to the right", fontsize=8
    )
    axes.tick_params(labelsize=8)
    axes.grid(axis="x", alpha=0.3)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)


def numbers(results: Results, found: Sequence[Answer]) -> dict[str, Any]:
    """Everything as JSON; IoU from 0 to 1."""

    def figures(values: np.ndarray) -> dict[str, float]:
        return dict(zip(FIGURES, map(float, values), strict=True))

    return {
        "about": results.about,
        "objects": len(results.images),
        "images": len(set(results.images)),
        "noc_levels": LEVELS,
        "iou_clicks": CLICKS,
        "standing": standing(results),
        "samples_per_second": {arm: {str(s): r for s, r in rates.items()} for arm, rates in results.rates.items()},
        "contrasts": [
            {
                "group": answer.question.group,
                "label": answer.question.label,
                "this": [answer.question.this.arm, answer.question.this.setting.name],
                "that": [answer.question.that.arm, answer.question.that.setting.name],
                "paper": answer.question.paper,
                "seeds": answer.seeds,
                "difference": figures(answer.difference),
                "objects_low": figures(answer.by_objects[0]),
                "objects_high": figures(answer.by_objects[1]),
                "images_low": figures(answer.by_images[0]),
                "images_high": figures(answer.by_images[1]),
                "passes_per_click_ratio": answer.passes,
            }
            for answer in found
        ],
    }


def write(out: str, results: Results) -> str:
    """Write the tables, the picture and the JSON beside the cells; gives the tables."""
    found = answers(results, QUESTIONS)
    text = table(results, found)
    storage.write_bytes(storage.join(out, f"{NAME}.md"), (text + "\n").encode())
    write_json(storage.join(out, f"{NAME}.json"), json.loads(json.dumps(numbers(results, found))))
    drawn = picture(found)
    if drawn is not None:
        buffer = io.BytesIO()
        drawn.savefig(buffer, format="png", dpi=130)
        storage.write_bytes(storage.join(out, f"{NAME}.png"), buffer.getvalue())
    return text
