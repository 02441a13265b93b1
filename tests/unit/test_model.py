"""The network: windows, sizes, click disks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import config
from pipeline.clicks.disks import disk_maps
from pipeline.clicks.encode import Click, encode
from pipeline.model.backbone import from_windows, global_blocks, resize_positions, to_windows, windows_per_side
from pipeline.model.segmenter import ClickSegmenter

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("size", "patch", "windows"), [(448, 16, 2), (672, 16, 3), (512, 16, 2), (224, 16, 1), (448, 14, 2), (64, 16, 1)]
)
def test_windows(size: int, patch: int, windows: int) -> None:
    assert windows_per_side(size // patch, patch) == windows


def test_a_grid_that_windows_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="another crop size"):
        windows_per_side(29, 16)


def test_global_blocks() -> None:
    assert global_blocks(12) == {5, 11}
    assert global_blocks(8) == {1, 3, 5, 7}
    assert global_blocks(32) == {7, 15, 23, 31}


def test_windows_round_trip_and_hold_neighbours() -> None:
    x = torch.arange(2 * 8 * 12 * 3.0).view(2, 96, 3)
    windows = to_windows(x, 8, 12, 2, 3)
    assert windows.shape == (12, 16, 3)
    assert torch.equal(windows[1].view(4, 4, 3), x[0].view(8, 12, 3)[:4, 4:8])
    assert torch.equal(from_windows(windows, 8, 12, 2, 3), x)


def test_resizing_to_the_same_grid_changes_nothing() -> None:
    positions = torch.randn(1, 16, 8)
    assert resize_positions(positions, (4, 4)) is positions
    assert resize_positions(positions, (6, 8)).shape == (1, 48, 8)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.builds(Click, st.floats(-20, 60, width=32), st.floats(-20, 60, width=32), st.booleans()), max_size=6)
)
def test_disks_against_brute_force(clicks: list[Click]) -> None:
    points = encode(clicks)
    maps = disk_maps(torch.from_numpy(points)[None], 33, 41)[0].numpy()
    expected = np.zeros((2, 33, 41), np.float32)
    ys, xs = np.mgrid[:33, :41].astype(np.float32)
    for row, col, positive in clicks:
        if row < 0 and col < 0:
            continue
        near = (ys - np.float32(row)) ** 2 + (xs - np.float32(col)) ** 2 <= 25
        expected[0 if positive else 1][near] = 1
    assert np.array_equal(maps, expected)


def test_checkpointed_activations_give_the_same_gradients() -> None:
    grads = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = ClickSegmenter(
            config.Model(
                patch=16,
                dim=16,
                depth=4,
                heads=2,
                neck_dims=(4, 4, 8, 8),
                head_dim=8,
                train_size=64,
                head_dropout=0.0,
                activation_checkpointing=checkpointing,
            )
        ).train()
        image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
        model(image, torch.zeros(1, 1, 64, 64), torch.from_numpy(encode([Click(9, 9, True)]))[None]).mean().backward()
        grads.append([p.grad for p in model.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_uint8_and_float_images_agree() -> None:
    torch.manual_seed(0)
    model = ClickSegmenter(
        config.Model(patch=16, dim=16, depth=4, heads=2, neck_dims=(4, 4, 8, 8), head_dim=8, train_size=64)
    )
    image = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    points = torch.from_numpy(encode([Click(3, 90, False)]))[None]
    prev = torch.zeros(1, 1, 64, 96)
    model.eval()
    assert torch.equal(model(image, prev, points), model(image.float() / 255, prev, points))
    with pytest.raises(ValueError, match="multiple of the patch"):
        model(image[..., :90], prev[..., :90], points)


def test_a_network_needs_little_of_timm_and_leaves_it_whole() -> None:
    """In a process of its own: no other models, no compiler; whoever imports timm afterwards has all of it."""
    script = """
import sys
from pipeline.model.segmenter import ClickSegmenter
from tests.made import small_config
model = ClickSegmenter(small_config().model)
assert not {"timm", "timm.models", "torchvision", "torch._dynamo"} & set(sys.modules), sorted(sys.modules)
from pipeline.model import torchvision_ops
import timm, timm.layers
from timm.models.vision_transformer import Block
theirs = Block(96, 3, mlp_ratio=4.0, qkv_bias=True).state_dict()
from pipeline.model.timm_blocks import Block
assert {k: v.shape for k, v in Block(96, 3).state_dict().items()} == {k: v.shape for k, v in theirs.items()}
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
