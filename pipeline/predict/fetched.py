"""Models that lie in MLflow: brought here, and the checkpoint in them found."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import UserError, describe
from pipeline.model.checkpoints import STATE

SCHEMES = ("models:/", "runs:/")
CHECKPOINT, PACKAGE_FILE = "checkpoint", "pipeline.zip"  # of our models in MLflow, the artifacts: weights and code


def fetched(checkpoint: str) -> str:
    """The checkpoint of an MLflow URI, downloaded; any other URI as it is.

    Raises:
        UserError: no such model, or one that is not of this project.
    """
    if not checkpoint.startswith(SCHEMES):
        return checkpoint
    from mlflow.artifacts import download_artifacts  # takes seconds, and a checkpoint on a disk needs none of it
    from mlflow.exceptions import MlflowException

    try:
        folder = Path(download_artifacts(checkpoint))
    except (MlflowException, OSError) as error:
        raise UserError(
            f"MLflow has no {checkpoint} ({describe(error)}). MLFLOW_TRACKING_URI says where it looks."
        ) from error
    found = sorted(folder.glob(f"**/{STATE}"))
    if not found:
        raise UserError(f"{checkpoint} is no model of this project: it holds no {STATE}.")
    return str(found[0].parent)
