"""The code of our models in MLflow ("models from code"): rows of an image and its clicks in, masks out.

MLflow runs this file where a model is loaded, with the copy of this package that lies in the model.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Mapping
from typing import Any

import cv2
import mlflow.models
import numpy as np
import pandas as pd
from mlflow.pyfunc.model import PythonModel


class ClickModel(PythonModel):
    """A row is an object: `image` (bytes of a file; over HTTP base64) or `path`, and `clicks`, each [x, y, positive].

    Answers: `mask`, a PNG (0 and 255) as base64 text, and `score`, the IoU to expect if the network's probabilities are
    right. The parameter `cfr_steps` is n of CFR-n.
    """

    def load_context(self, context: Any) -> None:
        sys.path.insert(0, context.artifacts["pipeline.zip"])
        from pipeline.predict.predictor import Predictor

        self.predictor = Predictor.load(context.artifacts["checkpoint"])

    # Without types, which MLflow would take for a schema.
    def predict(self, context, model_input, params=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        steps = int((params or {}).get("cfr_steps", 0))
        predictor = self.predictor.new(steps=steps)
        rows = [self._row(predictor, row) for row in model_input.to_dict(orient="records")]
        return pd.DataFrame(rows, columns=["mask", "score"])

    @staticmethod
    def _row(predictor: Any, row: Mapping[str, Any]) -> dict[str, Any]:
        image = row.get("image")
        image = base64.b64decode(image) if isinstance(image, str) else image
        predictor.set_image(image if isinstance(image, bytes | bytearray) else row["path"])
        clicks = np.array([list(click) for click in row["clicks"]], np.float64)
        masks, scores, _ = predictor.predict(clicks[:, :2], clicks[:, 2])
        data = cv2.imencode(".png", masks[0].astype(np.uint8) * 255, [cv2.IMWRITE_PNG_BILEVEL, 1])[1].tobytes()
        return {"mask": base64.b64encode(data).decode(), "score": float(scores[0])}


mlflow.models.set_model(ClickModel())
