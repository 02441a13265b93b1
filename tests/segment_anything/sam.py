"""A predictor of the `segment-anything` package, with random weights and a small encoder."""

from __future__ import annotations

from typing import Any

import torch

from pipeline.model import torchvision_ops as _torchvision_ops  # noqa: F401, the package imports torchvision


def tiny() -> Any:
    """A `SamPredictor`: everything but the encoder's size is as in the published models."""
    from segment_anything.build_sam import _build_sam  # pyright: ignore[reportMissingImports]
    from segment_anything.predictor import SamPredictor  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    return SamPredictor(_build_sam(32, 1, 2, [0]))
