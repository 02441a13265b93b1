"""What a run of the inner loop looks at: crops of the image, and the input of one forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from pipeline.clicks.encode import Click
from pipeline.evaluate import zoom


@dataclass(frozen=True)
class RunInput:
    """Input of one forward pass of one object; K = 2 with the mirror image second, else 1.

    Attributes:
        image: (K, 3, S, S) float32 RGB in [0, 1], on the session's device.
        prev_mask: (K, 1, S, S) float32 probabilities, on the session's device.
        points: (K, 2N, 3) float32, on the CPU.
    """

    image: torch.Tensor
    prev_mask: torch.Tensor
    points: torch.Tensor


class Look(NamedTuple):
    """What a run looks at besides the map of the run before it.

    Two runs of one object with equal looks and the same map before them are the same forward pass.
    """

    roi: zoom.Box
    clicks: tuple[Click, ...]
    crop: int
    flip: bool


class Photo:
    """An image on the device that its crops are made on; the objects of an image may share it.

    Attributes:
        size: (H, W).
    """

    def __init__(self, image: np.ndarray, device: torch.device | str = "cpu") -> None:
        """`image`: (H, W, 3) uint8 RGB, which is not copied on a CPU and must not change."""
        self._pixels = torch.from_numpy(np.ascontiguousarray(image)).to(device)
        self.size = (self._pixels.shape[0], self._pixels.shape[1])

    def crop(self, roi: zoom.Box, side: int) -> torch.Tensor:
        """(1, 3, side, side) float32 in [0, 1] of what a box holds."""
        cut = self._pixels[roi.row_min : roi.row_max + 1, roi.col_min : roi.col_max + 1]
        planes = cut.permute(2, 0, 1).contiguous()  # as bytes: a quarter of the memory to go through
        return zoom.resize(planes.to(torch.float32).div_(255.0), side)
