"""`jobs.evaluate --predictor` with the package that its interface comes from; `make test-segment-anything`."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import Eval
from pipeline.config.evaluation import EvaluateConfig
from pipeline.evaluate.job import evaluate
from pipeline.evaluate.metrics import iou
from pipeline.evaluate.request import check
from pipeline.evaluate.views import view
from tests.made import rows_of_blobs, write_dataset
from tests.segment_anything.sam import tiny

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif("SEGMENT_ANYTHING" not in os.environ, reason="`make test-segment-anything` runs it"),
]


def test_it_is_evaluated_as_it_answers(tmp_path: Path, ray_session: None) -> None:
    """The IoUs of the job are those of the package called by hand with the same clicks."""
    write_dataset(tmp_path / "blobs", rows_of_blobs(1))
    given = {"data": (f"blobs={tmp_path / 'blobs'}",), "out": str(tmp_path / "out")}
    rules = Eval(max_clicks=3, actors=1)
    made = evaluate(check(EvaluateConfig(**given, eval=rules, predictor="tests.segment_anything.sam:tiny")), dict)
    assert made.objects.num_rows
    predictor = tiny()
    for row in made.objects.to_pylist():
        seen = view(row, made.units, made.parts)
        predictor.set_image(seen.image)
        logits, ious = None, []
        for count in range(1, len(row["clicks"]) + 1):
            coords = np.array([[c["col"], c["row"]] for c in row["clicks"][:count]], np.float64)
            labels = np.array([int(c["positive"]) for c in row["clicks"][:count]])
            masks, _, logits = predictor.predict(coords, labels, mask_input=logits, multimask_output=False)
            ious.append(iou(seen.truth, masks[0]))
        assert np.allclose(ious, row["iou"])
