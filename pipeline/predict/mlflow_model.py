"""A checkpoint as an MLflow model: code, safetensors and pinned requirements in one folder, nothing pickled."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import tempfile
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipeline import storage
from pipeline.model.checkpoints import load_model, write_weights
from pipeline.predict.fetched import CHECKPOINT, PACKAGE_FILE

CODE = Path(__file__).with_name("clicks_model.py")
PACKAGE = Path(__file__).parents[1]
# What the predictor imports; pandas comes with MLflow.
REQUIREMENTS = (
    "numpy",
    "opencv-python-headless",
    "pillow",
    "pyarrow",
    "pycocotools",
    "safetensors",
    "timm",
    "torch",
    "torchvision",
)


def requirements() -> list[str]:
    """Pinned as they are here, without the tag of a local build; by name alone what is here under another name."""
    found = []
    for name in REQUIREMENTS:
        try:
            found.append(f"{name}=={version(name).partition('+')[0]}")
        except PackageNotFoundError:  # another build of OpenCV, say
            found.append(name)
    return found


def write_mlflow_model(checkpoint: str, out: str) -> None:
    """Write a checkpoint of ours as an MLflow model.

    Args:
        checkpoint: URI of a checkpoint.
        out: folder or URI; what it holds is replaced.
    """
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types.schema import AnyType, ColSpec, DataType, ParamSchema, ParamSpec, Schema

    inputs = Schema(
        [
            ColSpec(DataType.binary, "image", required=False),
            ColSpec(DataType.string, "path", required=False),
            ColSpec(AnyType(), "clicks"),  # lists of whole numbers or of fractions
        ]
    )
    outputs = Schema([ColSpec(DataType.string, "mask"), ColSpec(DataType.double, "score")])
    params = ParamSchema([ParamSpec("cfr_steps", DataType.long, 0)])
    model, info = load_model(checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        write_weights(model, info, f"{folder}/{CHECKPOINT}")
        _zip_package(Path(folder, PACKAGE_FILE))
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):  # advice about type hints and input examples, and progress bars
                mlflow.pyfunc.save_model(
                    f"{folder}/model",
                    python_model=str(CODE),
                    artifacts={name: f"{folder}/{name}" for name in (CHECKPOINT, PACKAGE_FILE)},
                    signature=ModelSignature(inputs, outputs, params),
                    input_example=_example(),
                    pip_requirements=requirements(),
                )
        except BaseException:
            print(said.getvalue(), file=sys.stderr)
            raise
        files = [path for path in sorted(Path(folder, "model").rglob("*")) if path.is_file()]
        storage.remove(out)
        for path in files:
            storage.write_bytes(storage.join(out, str(path.relative_to(f"{folder}/model"))), path.read_bytes())


def _example() -> Any:
    """A row of the input: a grey picture, and a click on it."""
    import pandas as pd

    ok, data = cv2.imencode(".png", np.full((32, 32, 3), 128, np.uint8))
    assert ok
    return pd.DataFrame([{"image": data.tobytes(), "clicks": [[16, 16, 1]]}])


def _zip_package(path: Path) -> None:
    """The code of this package as one file that Python imports from: a store takes a request for each file."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for source in sorted(PACKAGE.rglob("*.py")):
            archive.write(source, source.relative_to(PACKAGE.parent))
