"""Statistics of the first clicks over 6000 draws on three label maps, against those of the original sampler."""

from __future__ import annotations

import json
from collections import Counter

import cv2
import numpy as np
import pytest

from pipeline.clicks.encode import is_used
from pipeline.clicks.sampling import KERNEL, border_band, choose, first_clicks
from pipeline.config import Clicks
from pipeline.data.schema import ObjectInfo, Sample

from . import DATA

RECORD = json.loads((DATA / "points_sampler.json").read_text())
DRAWS = 6000
SIGMAS = 4.5
CLICKS = Clicks(max_points=RECORD["max_num_points"])


def near(ours: float, theirs: float, deviation: float, draws: float = DRAWS) -> bool:
    """Whether two means, each over `draws` draws of this standard deviation, agree."""
    return abs(ours - theirs) <= SIGMAS * deviation * np.sqrt(2 / draws) + 1e-9


def near_share(ours: float, theirs: float, draws: float = DRAWS) -> bool:
    p = (ours + theirs) / 2
    return near(ours, theirs, np.sqrt(p * (1 - p)), draws)


def same_histogram(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Two-sample chi-square of counts."""
    total = ours + theirs
    value = float((((ours - theirs) ** 2)[total > 0] / total[total > 0]).sum())
    freedom = np.count_nonzero(total) - 1
    return value <= freedom + SIGMAS * np.sqrt(2 * freedom)


@pytest.mark.parametrize("scene", RECORD["scenes"], ids=lambda s: f"scene{s['scene']}")
def test_first_clicks(scene: dict) -> None:
    labels = cv2.imread(str(DATA / f"points_scene_{scene['scene']}.png"), cv2.IMREAD_UNCHANGED)
    assert labels is not None
    objects = [ObjectInfo(0, i, -1, int((labels == i).sum())) for i in scene["labels"]]
    sample = Sample(np.zeros((*labels.shape, 3), np.uint8), labels[None], objects)
    positives, negatives, inner_share = [], [], []
    places, selected = Counter(), Counter()
    merged = outside = 0
    for i in range(DRAWS):
        rng = np.random.default_rng((scene["scene"], i))
        selection = choose(sample, CLICKS, rng)
        points = first_clicks(sample, selection, CLICKS, rng)
        used = is_used(points)
        half = CLICKS.max_points
        pos, neg = (points[s][used[s], :2].astype(int).T for s in (slice(half), slice(half, None)))
        positives.append(pos.shape[1])
        negatives.append(neg.shape[1])
        merged += len(selection.positives) > 1
        selected.update(np.unique(labels[selection.target]).tolist())
        outside += int((~selection.target[tuple(pos)]).sum())
        inner = cv2.erode(selection.target.view(np.uint8), KERNEL, iterations=3)
        inner_share.append(float(inner[tuple(pos)].mean()))
        ring = border_band(selection.target, CLICKS.border_ratio)[tuple(neg)]
        labelled = labels[tuple(neg)] > 0
        places.update(np.where(ring, "ring", np.where(labelled, "other", "elsewhere")).tolist())

    assert outside == scene["positives_outside_object"] == 0
    assert near(float(np.mean(positives)), scene["mean_pos"], scene["std_pos"])
    assert near(float(np.mean(negatives)), scene["mean_neg"], scene["std_neg"])
    assert same_histogram(np.bincount(positives, minlength=13), np.array(scene["hist_pos"]))
    assert same_histogram(np.bincount(negatives, minlength=13), np.array(scene["hist_neg"]))
    assert near_share(merged / DRAWS, scene["frac_merged"])
    for label, share in scene["frac_selected"].items():
        assert near_share(selected[int(label)] / DRAWS, share)
    count = places.total()
    assert near_share(places["ring"] / count, scene["frac_neg_in_border_ring"], count)
    assert near_share(places["other"] / count, scene["frac_neg_in_other_objects_outside_ring"], count)
    assert near_share(places["elsewhere"] / count, scene["frac_neg_elsewhere"], count)
    assert near(
        float(np.mean(inner_share)), scene["mean_fraction_of_positives_in_3px_erosion"], float(np.std(inner_share))
    )
