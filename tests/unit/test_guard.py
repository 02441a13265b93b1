"""A loss that is no number, or explodes, ends training with the samples named and everything kept."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline import config
from pipeline.errors import UserError
from pipeline.train.guard import ENOUGH, Guard
from pipeline.train.icl import StepResult
from tests.made import small_model

BATCH = {
    "image": np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3),
    "points": np.zeros((2, 4, 3), np.float32),
    "image_id": np.array(["dog", "cat"], object),
    "chunk": np.array([7, 7]),
    "row": np.array([3, 4], np.int32),
}


def guard(folder: Path, factor: float = 100.0) -> Guard:
    return Guard(config.TrainConfig(out=str(folder), train=config.Train(explode_factor=factor)), 0, 1)


def result(*losses: float) -> StepResult:
    return StepResult(list(losses), sum(losses))


def test_what_is_no_number_is_kept_and_named(tmp_path: Path) -> None:
    model = small_model()
    with pytest.raises(UserError, match=r"became nan at step 12.*7/3 dog, 7/4 cat.*failed/step_00000012.*optim\.lr"):
        guard(tmp_path).check_loss(result(0.5, math.nan), 12, BATCH, model)
    kept = tmp_path / "failed" / "step_00000012"
    weights = load_file(kept / "model.safetensors")
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    batch = load_file(kept / "batch_rank_0.safetensors")
    assert batch.keys() == {"image", "points", "chunk", "row"}
    assert np.array_equal(batch["image"].numpy(), BATCH["image"])
    why = json.loads((kept / "why_rank_0.json").read_text())
    assert why["samples"] == ["7/3 dog", "7/4 cat"] and why["step"] == 12


def test_the_norm_is_looked_at_too(tmp_path: Path) -> None:
    watch = guard(tmp_path)
    watch.check_norm(1e30, 3, BATCH, small_model())
    with pytest.raises(UserError, match="gradients' norm became inf at step 3"):
        watch.check_norm(math.inf, 3, BATCH, small_model())


def test_an_explosion_is_told_from_noise(tmp_path: Path) -> None:
    watch, model = guard(tmp_path), small_model()
    watch.check_loss(result(0.01), 0, BATCH, model)
    watch.check_loss(result(900.0), 1, BATCH, model)  # too early to know what is usual
    for step in range(2, ENOUGH + 2):
        watch.check_loss(result(0.5 + 0.4 * math.sin(step), 0.5), step, BATCH, model)
    watch.check_loss(result(40.0), 98, BATCH, model)
    with pytest.raises(UserError, match=r"exploded to 60 \(its recent median is 0\.\d+\) at step 99"):
        watch.check_loss(result(60.0), 99, BATCH, model)


def test_it_can_be_switched_off(tmp_path: Path) -> None:
    watch, model = guard(tmp_path, factor=0.0), small_model()
    for step in range(ENOUGH + 5):
        watch.check_loss(result(0.5), step, BATCH, model)
    watch.check_loss(result(1e9), 99, BATCH, model)
