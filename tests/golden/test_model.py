"""Forward passes of the golden network: maps, tokens, logits, also at a resized crop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.clicks.disks import disk_maps
from pipeline.model.backbone import resize_positions
from pipeline.model.checkpoints import load_model
from pipeline.model.segmenter import ClickSegmenter


@pytest.fixture(scope="module")
def model(golden: Path) -> ClickSegmenter:
    return load_model(str(golden / "tiny.pth"))[0].eval()


def inputs(data: np.lib.npyio.NpzFile) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    prev = torch.from_numpy(data["prev_mask_u8"]).float() / 255
    return torch.from_numpy(data["image_u8"]), prev, torch.from_numpy(data["points"])


def test_click_maps_are_equal(golden: Path) -> None:
    data = np.load(golden / "forward.npz")
    maps = disk_maps(torch.from_numpy(data["points"]), 448, 448)
    assert np.array_equal(maps.numpy(), data["disks"])


@torch.no_grad()
def test_forward_agrees(golden: Path, model: ClickSegmenter) -> None:
    data = np.load(golden / "forward.npz")
    image, prev, points = inputs(data)
    tokens = model.click_embed(prev, points)
    features = model.backbone((image.float() / 255 - model.mean) / model.std, tokens)
    np.testing.assert_allclose(tokens[:, ::7], data["coord_tokens"], atol=1e-4)
    np.testing.assert_allclose(features.flatten(2).transpose(1, 2), data["backbone"], atol=1e-4)
    np.testing.assert_allclose(model.head(model.neck(features)), data["lowres"], atol=1e-4)
    logits = model(image, prev, points)
    np.testing.assert_allclose(logits[:, :, ::2, ::2], data["instances"], atol=1e-4)
    np.testing.assert_allclose(logits[:, :, -1], data["instances_last_row"], atol=1e-4)
    np.testing.assert_allclose(logits[..., -1], data["instances_last_col"], atol=1e-4)


@torch.no_grad()
def test_forward_agrees_at_672(golden: Path, model: ClickSegmenter) -> None:
    data = np.load(golden / "forward_resized.npz")
    image, prev, points = inputs(data)
    positions = resize_positions(model.backbone.pos_embed, (42, 42))
    np.testing.assert_allclose(positions[:, 4::5], data["pos_embed"][:, 1:], atol=1e-6)
    features = model.backbone((image.float() / 255 - model.mean) / model.std, model.click_embed(prev, points))
    np.testing.assert_allclose(features.flatten(2).mean(1), data["backbone_mean"], atol=1e-4)
    logits = model(image, prev, points)
    np.testing.assert_allclose(logits[:, :, ::4, ::4], data["instances_sub"], atol=1e-4)
    assert float(logits.mean()) == pytest.approx(float(data["instances_mean"]), abs=1e-4)
