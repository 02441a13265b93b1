"""The click segmenter: image, previous mask and clicks to a logit map (SimpleClick's plain ViT)."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import nn

from pipeline import config
from pipeline.errors import UserError
from pipeline.model.backbone import Backbone, windows_per_side
from pipeline.model.click_embed import ClickEmbed
from pipeline.model.head import MlpHead
from pipeline.model.neck import SimplePyramid

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def check_crop(model: config.Model, size: int, option: str) -> None:
    """Whether the network takes inputs of `size` x `size` pixels.

    Raises:
        UserError: naming the option that says otherwise.
    """
    if size % model.patch:
        raise UserError(f"{option} {size} is not a multiple of the network's patch ({model.patch}).")
    try:
        windows_per_side(size // model.patch, model.patch)
    except ValueError as error:
        raise UserError(f"{option} {size} does not fit the network: {error}.") from error


class ClickSegmenter(nn.Module):
    """Click-based segmentation network."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: config.Model) -> None:
        super().__init__()
        self.config = model
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        self.click_embed = ClickEmbed(model.patch, model.dim, model.click_radius)
        self.backbone = Backbone(
            model.patch, model.dim, model.depth, model.heads, model.train_size, model.activation_checkpointing
        )
        self.neck = SimplePyramid(model.dim, model.neck_dims)
        self.head = MlpHead(model.neck_dims, model.head_dim, model.head_dropout)

    def compile_parts(self, backend: str = "inductor") -> None:
        """Compile blocks, neck and head in place: their kernels are fused, names and weights stay as they are.

        Part by part, as all blocks share what is compiled for one. Shapes are taken as fixed: another batch or crop
        size is compiled anew.

        Args:
            backend: of torch.compile.

        Raises:
            UserError: this machine has no C++ compiler.
        """
        if backend == "inductor" and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "gcc", "clang++"))):
            raise UserError(
                "--train.compile needs a C++ compiler (g++ or clang++) on every machine that trains, and there is none "
                f"on {platform.node()}. Install one, or train without --train.compile."
            )
        from pipeline.model import torchvision_ops as _torchvision_ops  # noqa: F401, must come before timm

        importlib.import_module("timm.layers")  # the compiler looks for timm's modules by their names
        for part in (*self.backbone.blocks, self.neck, self.head):
            part.compile(dynamic=False, backend=backend)

    @staticmethod
    def uncompiled() -> AbstractContextManager[object]:
        """Inside, nothing is compiled: for batches of every size, each of which would be compiled anew."""
        return torch.compiler.set_stance("force_eager")

    def forward(self, image: torch.Tensor, prev_mask: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """Predict a mask.

        Args:
            image: (B, 3, H, W) RGB, uint8, or float in [0, 1]; H and W multiples of the patch.
            prev_mask: (B, 1, H, W) float32 probabilities of the previous prediction, zeros at first.
            points: (B, 2N, 3) float32 clicks (`clicks.encode`) in pixels of this input.

        Returns:
            (B, 1, H, W) float32 logits.

        Raises:
            ValueError: the input size does not fit the patch.
        """
        height, width = image.shape[-2:]
        patch = self.config.patch
        if height % patch or width % patch:
            raise ValueError(f"an input of {height}x{width} is not a multiple of the patch ({patch})")
        image = image.float() / 255 if image.dtype == torch.uint8 else image
        image = (image - self.mean) / self.std
        features = self.backbone(image, self.click_embed(prev_mask, points))
        low = self.head(self.neck(features))
        return F.interpolate(low.float(), size=(height, width), mode="bilinear", align_corners=True)
