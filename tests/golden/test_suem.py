"""Shares of the SUEM branches and sizes of their targets over 6000 draws, against those of the original.

Nothing recorded depends on the pictures of the pool, so `data` keeps the label maps alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from pipeline.augment import suem as module
from pipeline.clicks.encode import is_used
from pipeline.clicks.sampling import sample_clicks
from pipeline.config import Clicks, Suem
from pipeline.data.schema import ObjectInfo, Sample

from . import DATA
from .test_sampling import near, near_share

RECORD = json.loads((DATA / "suem.json").read_text())
DRAWS = 6000
CLICKS, SUEM = Clicks(max_points=12), Suem()
NAMES = {"exclusion": "exclusion", "union": "union", "distractor": "alpha"}


def pool() -> list[Sample]:
    samples = []
    for labels in np.load(DATA / "suem_pool_masks.npz")["masks"]:
        objects = [ObjectInfo(0, int(i), -1, int((labels == i).sum())) for i in np.unique(labels) if i]
        samples.append(Sample(np.zeros((*labels.shape, 3), np.uint8), labels[None], objects))
    return samples


def test_branches(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: dict[str, tuple] = {}

    def spy(name: str) -> Callable:
        real = getattr(module, name)

        def call(*args):
            calls[name] = args
            return real(*args)

        return call

    for name in ("simple", "find_donor", *NAMES, "mixing"):
        monkeypatch.setattr(module, name, spy(name))
    samples = pool()
    seen: dict[str, list[float]] = {}
    loads = 0

    def donors(rng: np.random.Generator) -> Sample:
        nonlocal loads
        loads += 1
        return samples[rng.integers(len(samples))]

    def note(name: str, value: float) -> None:
        seen.setdefault(name, []).append(float(value))

    for i in range(DRAWS):
        rng = np.random.default_rng((3, i))
        calls.clear()
        loads = 0
        result = module.suem(samples[rng.integers(len(samples))], donors, SUEM, CLICKS, rng)
        target, points = sample_clicks(result, CLICKS, rng)
        mode = next((theirs for ours, theirs in NAMES.items() if ours in calls), "none")
        used = is_used(points)
        note("p_simple", "simple" in calls)
        note("p_second_entered", "find_donor" in calls)
        note("p_second_done", mode != "none")
        note("p_second_gave_up", "find_donor" in calls and mode == "none")
        for theirs in NAMES.values():
            note(f"p_{theirs}", mode == theirs)
        note("p_mixed", "mixing" in calls)
        note("p_nothing", mode == "none" and "simple" not in calls and "mixing" not in calls)
        note("p_empty_gt", not (target == 1).any())
        note("mean_donors_loaded", loads)
        if "find_donor" in calls:
            note("mean_donor_tries", loads - ("simple" in calls) - ("mixing" in calls))
        if "simple" in calls:
            note("mean_alpha_simple", calls["simple"][3])
        note("mean_gt_fraction", (target == 1).mean())
        note(f"mean_gt_fraction_by {mode}", (target == 1).mean())
        note("mean_positive_points", int(used[:12].sum()))
        note("mean_negative_points", int(used[12:].sum()))
        for ours, theirs in NAMES.items():
            if ours in calls:
                before = int(np.count_nonzero(calls[ours][1]))
                note(f"mean_area_before {theirs}", before)
                note(f"mean_area_ratio_after_before {theirs}", (target == 1).sum() / before)

    assert set(calls) <= {"simple", "find_donor", *NAMES, "mixing"}
    for name, values in seen.items():
        key, _, part = name.partition(" ")
        theirs = RECORD[key][part] if part else RECORD[key]
        ours, draws = float(np.mean(values)), len(values)
        if name.startswith("p_"):
            assert near_share(ours, theirs, draws), (name, ours, theirs)
        else:
            assert near(ours, theirs, float(np.std(values)), draws), (name, ours, theirs)
