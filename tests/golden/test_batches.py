"""Objects that share forward passes are clicked as they are one at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.config import Cfr, Eval
from pipeline.evaluate.batch import evaluate_objects
from pipeline.evaluate.metrics import IOU_LEVELS, summarize
from pipeline.evaluate.shared import ObjectResult
from tests.golden.test_eval import evaluation, model, target

pytestmark = pytest.mark.slow
CLICKS = 4


def clicked(golden: Path, images: list[str], batch_size: int) -> dict[str, ObjectResult]:
    targets = (target(golden, image) for image in images)
    rules = Eval(max_clicks=CLICKS)
    return {r.key: r for r in evaluate_objects(model(golden), targets, Cfr(), rules, batch_size)}


def test_batch_8_against_batch_1(golden: Path) -> None:
    recorded = {r["image"]: r for s in evaluation(golden)["settings"] if s["name"] == "cf0" for r in s["results"]}
    images = list(recorded)
    assert len(images) > 8
    alone, together = clicked(golden, images, 1), clicked(golden, images, 8)
    assert set(alone) == set(together) == set(images)
    for image, expected in recorded.items():
        stable = min(CLICKS, *expected["stable_clicks"].values())
        one, other = alone[image], together[image]
        assert one.clicks[:stable] == other.clicks[:stable], image
        assert [list(click) for click in other.clicks[:stable]] == expected["clicks"][:stable], image
        np.testing.assert_allclose(one.ious[:stable], other.ious[:stable], atol=1e-3, err_msg=image)
    own, other = (summarize([r.ious for r in found.values()], CLICKS, 0.95)["noc"] for found in (alone, together))
    for level in IOU_LEVELS:
        assert abs(own[str(level)] - other[str(level)]) <= 0.02, level
