"""The number formats a network computes in: float32 as it is, with TF32 matrix products, or bfloat16 by autocast."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch


def set_float32(tf32: bool) -> None:
    """Whether matrix products and convolutions of float32 tensors may round their inputs to TF32 in this process.

    TF32 has float32's range and 10 bits of mantissa instead of 23; NVIDIA GPUs have it from Ampere on, and it changes
    nothing elsewhere. torch's own default is neither: TF32 in convolutions, float32 in matrix products.
    """
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32


def forward_precision(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """The context of forward passes in training; precision: `config.Train.precision`. `set_float32` does the rest."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
