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


@pytest.fixture
def model(golden: Path, device: str) -> ClickSegmenter:
    return load_model(str(golden / "tiny.pth"), device)[0].eval()


def inputs(data: np.lib.npyio.NpzFile, device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    prev = torch.from_numpy(data["prev_mask_u8"]).float() / 255
    image, points = torch.from_numpy(data["image_u8"]), torch.from_numpy(data["points"])
    return image.to(device), prev.to(device), points.to(device)


def close(found: torch.Tensor, expected: np.ndarray, atol: float = 1e-4) -> None:
    np.testing.assert_allclose(found.cpu(), expected, atol=atol)


def test_click_maps_are_equal(golden: Path, device: str) -> None:
    data = np.load(golden / "forward.npz")
    maps = disk_maps(torch.from_numpy(data["points"]).to(device), 448, 448)
    assert np.array_equal(maps.cpu().numpy(), data["disks"])


@torch.no_grad()
def test_forward_agrees(golden: Path, model: ClickSegmenter, device: str) -> None:
    data = np.load(golden / "forward.npz")
    image, prev, points = inputs(data, device)
    tokens = model.click_embed(prev, points)
    features = model.backbone((image.float() / 255 - model.mean) / model.std, tokens)
    close(tokens[:, ::7], data["coord_tokens"])
    close(features.flatten(2).transpose(1, 2), data["backbone"])
    close(model.head(model.neck(features)), data["lowres"])
    logits = model(image, prev, points)
    close(logits[:, :, ::2, ::2], data["instances"])
    close(logits[:, :, -1], data["instances_last_row"])
    close(logits[..., -1], data["instances_last_col"])


@torch.no_grad()
def test_forward_agrees_at_672(golden: Path, model: ClickSegmenter, device: str) -> None:
    data = np.load(golden / "forward_resized.npz")
    image, prev, points = inputs(data, device)
    positions = resize_positions(model.backbone.pos_embed, (42, 42))
    close(positions[:, 4::5], data["pos_embed"][:, 1:], atol=1e-6)
    features = model.backbone((image.float() / 255 - model.mean) / model.std, model.click_embed(prev, points))
    close(features.flatten(2).mean(1), data["backbone_mean"])
    logits = model(image, prev, points)
    close(logits[:, :, ::4, ::4], data["instances_sub"])
    assert float(logits.mean()) == pytest.approx(float(data["instances_mean"]), abs=1e-4)
