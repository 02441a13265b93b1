"""What a model is called in titles, tables and legends."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.report.naming import model_name, two_names
from pipeline.weights import FOLDER


def ours(uri: str, recipe: str | None = "tiny", step: int | None = 300) -> dict[str, Any]:
    return {"uri": uri, "format": "cfr-icl", "sha256": "ab" * 32, "recipe": recipe, "step": step}


@pytest.mark.parametrize(
    ("checkpoint", "name"),
    [
        (ours("/runs/first/checkpoints/step_00000300"), "first (tiny), step 300"),
        (ours("s3://bucket/runs/first/checkpoints/step_00000300/"), "first (tiny), step 300"),
        (ours("/runs/train-tiny/checkpoints/step_00000300"), "train-tiny, step 300"),
        (ours("/runs/icl-huge/checkpoints/step_00000300", "cfr_icl_huge"), "icl-huge (cfr_icl_huge), step 300"),
        (ours("/models/step_00000300"), "models (tiny), step 300"),
        (ours("/step_00000300"), "tiny, step 300"),
        (ours("s3://step_00000300", None), "s3://step_00000300, step 300"),
        (ours("/runs/search/trials/0007/run-0/checkpoints/step_00000300"), "search trial 7 (tiny), step 300"),
        (ours(str(FOLDER / "small"), "small", 2800), "small"),
        (ours("/another/machine/site-packages/pipeline/weights/small", "small", 2800), "small"),
        (ours("/mine/small", "small", 2800), "small, step 2800"),
        ({"uri": "/w/cocolvis_icl_vit_huge.pth", "format": "published"}, "cocolvis_icl_vit_huge.pth"),
        ({"uri": "/imported/sbd_vit_huge", "format": "published", "step": 0}, "sbd_vit_huge"),
        ({"uri": "my.module:factory", "format": "predictor"}, "my.module:factory"),
        ({"uri": "/runs/old/checkpoints/step_00000005", "sha256": "0"}, "old"),
    ],
)
def test_names(checkpoint: dict[str, Any], name: str) -> None:
    assert model_name(checkpoint) == name


def test_two_models_are_never_called_the_same() -> None:
    first, second = ours("/a/run/checkpoints/step_00000300"), ours("/b/run/checkpoints/step_00000300")
    assert two_names(first, ours("/a/run/checkpoints/step_00000400", step=400)) == (
        "run (tiny), step 300",
        "run (tiny), step 400",
    )
    assert two_names(first, {**second, "sha256": "cd" * 32}) == (
        "run (tiny), step 300 abababab",
        "run (tiny), step 300 cdcdcdcd",
    )
    assert two_names(first, second) == ("run (tiny), step 300 (here)", "run (tiny), step 300 (earlier)")
