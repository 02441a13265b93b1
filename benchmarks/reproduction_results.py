"""What the cells of `benchmarks.reproduction` left: figures of every object, and paired differences with intervals."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from pipeline import storage
from pipeline.errors import UserError
from pipeline.evaluate.bootstrap import INTERVAL, SEED, times_drawn
from pipeline.evaluate.metrics import hold, noc
from pipeline.evaluate.results import read_table
from pipeline.evaluate.setting import COLUMNS, Setting

BASE = "base"
STEPS = (0, 1, 2, 4)  # of CFR-n
PLAIN_PASS = Setting(0)
ADAPTIVE = Setting(4, 1, True)
SETTINGS = (*(Setting(n) for n in STEPS), ADAPTIVE)
LEVELS = (80, 85, 90, 95)
CLICKS = (1, 3, 5, 10)
FIGURES = (*(f"noc{level}" for level in LEVELS), *(f"iou{k}" for k in CLICKS), "clicks", "passes", "seconds")
RESAMPLES = 4000


class Arm(NamedTuple):
    """A way to train the base on, and what it differs in from the recipe."""

    label: str
    options: tuple[str, ...]


def _icl(*weights: int) -> tuple[str, ...]:
    return ("--loss.mode", "icl", "--loss.weights", *map(str, weights))


_SUEM = tuple(word for stage in ("simple", "paste", "mix") for word in (f"--suem.{stage}-prob", "0.5"))
ARMS = {
    "plain": Arm("plain", ()),
    "icl": Arm("ICL, 3 clicks, weights 1 2 3", _icl(1, 2, 3)),
    "icl-suem": Arm("ICL + SUEM", (*_icl(1, 2, 3), *_SUEM)),
    "plain-suem": Arm("plain + SUEM", _SUEM),
    "icl-1": Arm("ICL, 1 click", _icl(1)),
    "icl-2": Arm("ICL, 2 clicks, weights 1 2", _icl(1, 2)),
    "icl-equal": Arm("ICL, 3 clicks, weights 1 1 1", _icl(1, 1, 1)),
}
"""In the order in which they are tried. `icl` has the published weights, SUEM the published probabilities."""

LABELS = {BASE: "base", **{name: arm.label for name, arm in ARMS.items()}}


@dataclass
class Results:
    """Everything that is done.

    Attributes:
        about: the settings of the whole (setting.json).
        images: of every object its image.
        values: by arm, seed and setting (objects, figures) float64 in the order of FIGURES.
        rates: by arm and seed the samples a second of the training, median of what it logged.
    """

    about: dict[str, Any]
    images: list[str] = field(default_factory=list)
    values: dict[str, dict[int, dict[Setting, np.ndarray]]] = field(default_factory=dict)
    rates: dict[str, dict[int, float]] = field(default_factory=dict)


def read(out: str) -> Results:
    """Read the cells whose evaluations are complete.

    Raises:
        UserError: there are none to read from, a table is damaged, or cells hold different objects.
    """
    setting = storage.join(out, "setting.json")
    if not storage.exists(setting):
        raise UserError(f"{out} holds no reproduction: it has no setting.json.")
    results = Results(json.loads(storage.read_bytes(setting)))
    keys: list[tuple[str, int]] = []
    for arm in LABELS:
        for seed in range(_seeds(out, arm)):
            folder = storage.join(out, "cells", BASE if arm == BASE else f"{arm}-seed{seed}")
            parts = [storage.join(folder, part) for part in ("cfr", "adaptive")]
            if not all(storage.exists(storage.join(part, "summary.json")) for part in parts):
                continue
            found: dict[Setting, np.ndarray] = {}
            for part in parts:
                for key, (objects, values) in object_figures(part, results.about["max_clicks"]).items():
                    keys = keys or objects
                    if objects != keys:
                        raise UserError(f"{part} holds other objects than the first evaluation; remove it.")
                    found[key] = values
            results.values.setdefault(arm, {})[seed] = found
            if rate := training_rate(storage.join(folder, "run", "metrics.jsonl")):
                results.rates.setdefault(arm, {})[seed] = rate
    results.images = [image for image, _ in keys]
    return results


def _seeds(out: str, arm: str) -> int:
    """One more than the highest seed of an arm that has a folder."""
    names = [uri.rstrip("/").rsplit("/", 1)[-1] for uri in storage.list_folders(storage.join(out, "cells"))]
    if arm == BASE:
        return int(BASE in names)
    numbers = [name.removeprefix(f"{arm}-seed") for name in names if name.startswith(f"{arm}-seed")]
    return max((int(number) + 1 for number in numbers if number.isdigit()), default=0)


def object_figures(folder: str, max_clicks: int) -> dict[Setting, tuple[list[tuple[str, int]], np.ndarray]]:
    """Of each setting of an evaluation the objects, (image, object), and their (objects, figures) values."""
    names = ["image_id", "object_id", *COLUMNS, "iou", "forward_passes", "seconds"]
    rows: dict[Setting, list[dict[str, Any]]] = {}
    for row in read_table(storage.join(folder, "objects.parquet"), names).to_pylist():
        rows.setdefault(Setting.of(row), []).append(row)
    found = {}
    for setting, mine in rows.items():
        curves = [np.asarray(row["iou"], np.float32) for row in mine]
        held = hold(curves, max_clicks)
        columns = [[noc(curve, level, max_clicks) for curve in curves] for level in LEVELS]
        columns += [held[:, k - 1] for k in CLICKS]
        columns += [[len(curve) for curve in curves]]
        columns += [[row[name] for row in mine] for name in ("forward_passes", "seconds")]
        keys = [(row["image_id"], row["object_id"]) for row in mine]
        found[setting] = (keys, np.stack([np.asarray(c, np.float64) for c in columns], axis=1))
    return found


def training_rate(uri: str) -> float:
    """Median of the samples a second that a run logged; 0 when it logged none."""
    if not storage.exists(uri):
        return 0.0
    rows = [json.loads(line) for line in storage.read_bytes(uri).splitlines()]
    return statistics.median([row["time/samples_per_s"] for row in rows if "time/samples_per_s" in row] or [0.0])


class Model(NamedTuple):
    """A model and how it is used: an arm (or the base) and a setting."""

    arm: str
    setting: Setting = PLAIN_PASS

    @property
    def label(self) -> str:
        return f"{LABELS[self.arm]}, {self.setting.name}"


def paired(results: Results, this: Model, that: Model) -> tuple[list[int], np.ndarray] | None:
    """Seeds that both have, and (seeds, objects, figures) values of the one minus the other; None without any.

    The base has no seeds: it is paired with each of the other's.
    """
    mine, other = results.values.get(this.arm, {}), results.values.get(that.arm, {})
    if this.arm == BASE != that.arm and mine:
        mine = dict.fromkeys(other, mine[0])
    if that.arm == BASE != this.arm and other:
        other = dict.fromkeys(mine, other[0])
    seeds = sorted(mine.keys() & other.keys())
    if not seeds:
        return None
    return seeds, np.stack([mine[seed][this.setting] - other[seed][that.setting] for seed in seeds])


def hierarchical_interval(
    differences: np.ndarray, groups: np.ndarray | None = None, resamples: int = RESAMPLES
) -> np.ndarray:
    """95 % percentile interval of a mean difference: the seeds are drawn again, then the objects.

    Every seed was evaluated on the same objects, so a resample draws its objects once for all of its seeds: drawn anew
    for each seed, an object that is hard for all of them would count as several independent ones, and the interval
    would be too narrow. With one seed only the objects are drawn.

    Args:
        differences: (seeds, objects, figures); at least one seed and one object.
        groups: (objects,) of each object what it is drawn together with, as its image; None: each by itself.

    Returns:
        (2, figures): low and high.
    """
    values = np.asarray(differences, np.float64)
    seeds, objects, figures = values.shape
    names = np.arange(objects) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    count = int(names.max()) + 1
    sums = np.zeros((count, seeds, figures))
    np.add.at(sums, names, values.transpose(1, 0, 2))
    seed_times, group_times = _drawn(seeds, count, resamples)
    totals = (group_times @ sums.reshape(count, -1)).reshape(resamples, seeds, figures)
    means = np.einsum("rs,rsf->rf", seed_times / seeds, totals) / (group_times @ np.bincount(names))[:, None]
    return np.percentile(means, INTERVAL, axis=0)


@lru_cache(maxsize=4)
def _drawn(seeds: int, count: int, resamples: int) -> tuple[np.ndarray, np.ndarray]:
    """How often each seed and each group is in each resample: (resamples, seeds) and (resamples, count) float64.

    The same draws serve all comparisons, so that equal differences get equal intervals.
    """
    rng = np.random.default_rng(SEED)
    return times_drawn(seeds, resamples, rng), times_drawn(count, resamples, rng)


class Contrast(NamedTuple):
    """A question: one model against another, and what the paper says to it."""

    group: str
    label: str
    this: Model
    that: Model
    paper: str = "not at hand"


@dataclass(frozen=True)
class Answer:
    """A contrast's differences in the order of FIGURES, with intervals (2, figures) by objects and by images."""

    question: Contrast
    seeds: list[int]
    difference: np.ndarray
    by_objects: np.ndarray
    by_images: np.ndarray
    passes: float

    def verdict(self, figure: str) -> int:
        """1 better, -1 worse, 0 when an interval, by objects or by images, holds 0."""
        i = FIGURES.index(figure)
        low = min(self.by_objects[0, i], self.by_images[0, i])
        high = max(self.by_objects[1, i], self.by_images[1, i])
        sign = int(low > 0) - int(high < 0)
        return -sign if figure.startswith("noc") else sign


def answers(results: Results, questions: Sequence[Contrast]) -> list[Answer]:
    """The answers that can be given from what is done."""
    found = []
    for question in questions:
        pair = paired(results, question.this, question.that)
        if pair is None:
            continue
        seeds, change = pair
        per_click = [_per_click(results, model, seeds) for model in (question.this, question.that)]
        by_objects, by_images = hierarchical_interval(change), hierarchical_interval(change, np.array(results.images))
        difference = change.mean(axis=(0, 1))
        found.append(Answer(question, seeds, difference, by_objects, by_images, per_click[0] / per_click[1]))
    return found


def _per_click(results: Results, model: Model, seeds: Sequence[int]) -> float:
    """Forward passes of a click."""
    mine = results.values[model.arm]
    values = [mine[seed if model.arm != BASE else 0][model.setting] for seed in seeds]
    clicks, passes = (sum(v[:, FIGURES.index(name)].sum() for v in values) for name in ("clicks", "passes"))
    return float(passes / clicks)


def standing(results: Results) -> list[dict[str, Any]]:
    """Means of every model and setting over its objects and seeds."""
    found = []
    for arm, seeds in results.values.items():
        for setting in SETTINGS:
            means = np.mean([seeds[seed][setting].mean(axis=0) for seed in seeds], axis=0)
            row = dict(zip(FIGURES, map(float, means), strict=True))
            row |= {
                "passes_per_click": row["passes"] / row["clicks"],
                "seconds_per_click": row["seconds"] / row["clicks"],
            }
            found.append({"arm": arm, "setting": setting.name, "seeds": list(seeds), **row})
    return found
