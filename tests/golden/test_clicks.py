"""Next clicks of evaluation, and the regions training clicks are drawn from, against the recorded cases."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from pipeline.clicks.batched import training_errors
from pipeline.clicks.encode import Click
from pipeline.clicks.simulate import add_click, click_region, next_click_center

from . import DATA

CASES = json.loads((DATA / "clicker.json").read_text())
ARRAYS = np.load(DATA / "clicker.npz")


@pytest.mark.parametrize("case", CASES["eval"], ids=lambda c: f"{c['i']:03d} {c['note']}")
def test_next_click_at_evaluation(case: dict) -> None:
    gt, pred = ARRAYS[f"gt_{case['i']:03d}"], ARRAYS[f"pred_{case['i']:03d}"]
    clicks = [Click(*c) for c in case["clicks"]]
    assert next_click_center(gt, pred.astype(bool), clicks) == Click(*case["next"])


@pytest.mark.parametrize("case", CASES["train"], ids=lambda c: f"{c['i']:03d}")
def test_training_click(case: dict) -> None:
    i = f"{case['i']:03d}"
    prob = ARRAYS[f"train_pred_u8_{i}"].astype(np.float32) / np.float32(CASES["train_pred_scale"])
    truth = torch.from_numpy(ARRAYS[f"train_gt_{i}"])
    missed, wrong = training_errors(truth, torch.from_numpy(prob))
    region = click_region(missed.numpy(), wrong.numpy())
    if case["positive"] is None:
        assert region is None
        return
    assert region is not None
    assert np.array_equal(region.pixels, ARRAYS[f"train_region_{i}"].astype(bool))
    assert region.positive == case["positive"]
    points = ARRAYS[f"train_points_{i}"]
    after = add_click(points, Click(case["drawn"][0], case["drawn"][1], case["positive"]))
    changed = np.flatnonzero((after != points).any(axis=1))
    assert changed.tolist() == [case["row"]]
    assert after[case["row"]].tolist() == [*case["drawn"], case["order"]]
