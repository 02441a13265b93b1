"""Click steps of training: gradients, detachment, reproducible clicks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipeline import config
from pipeline.clicks.batched import training_errors
from pipeline.config import io as config_io
from pipeline.model.segmenter import ClickSegmenter
from pipeline.train import icl
from pipeline.train.loss import normalized_focal_loss

SMALL = config.Model(patch=16, dim=16, depth=4, heads=2, neck_dims=(4, 4, 8, 8), head_dim=8, train_size=64)


@pytest.fixture
def batch() -> icl.ClickBatch:
    rng = np.random.default_rng(0)
    target = np.zeros((2, 1, 64, 64), np.int8)
    target[0, 0, 10:40, 20:50] = 1
    target[1, 0, 30:60, 5:30] = 1
    target[1, 0, :5] = -1
    points = np.full((2, 8, 3), -1, np.float32)
    points[0, 0], points[1, 0] = (20, 30, 0), (40, 10, 0)
    image = rng.integers(0, 256, (2, 3, 64, 64), dtype=np.uint8)
    return icl.ClickBatch(
        torch.from_numpy(image), torch.from_numpy(target), torch.from_numpy(points), [(0, 0, 0), (0, 0, 1)]
    )


def model() -> ClickSegmenter:
    torch.manual_seed(0)
    return ClickSegmenter(SMALL).train()


def gradients(net: nn.Module) -> list[torch.Tensor]:
    return [p.grad.clone() for p in net.parameters() if p.grad is not None]


def test_backward_per_step_gives_the_gradient_of_the_sum(batch: icl.ClickBatch) -> None:
    loss = config.Loss(weights=(1.0, 2.0, 3.0))
    one = model()
    torch.manual_seed(1)
    result = icl.icl_step(one, batch, loss, 3, backward=torch.Tensor.backward)
    assert len(result.losses) == 3

    other, parts = model(), []
    torch.manual_seed(1)
    icl.icl_step(other, batch, loss, 3, backward=parts.append)
    torch.stack(parts).sum().backward()
    assert float(torch.stack(parts).sum().detach()) == pytest.approx(result.total, rel=1e-6)
    for a, b in zip(gradients(one), gradients(other), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_every_parameter_is_trained(batch: icl.ClickBatch) -> None:
    net = model()
    icl.icl_step(net, batch, config.Loss(), 2, backward=torch.Tensor.backward)
    assert all(p.grad is not None for p in net.parameters())


def test_clicks_depend_on_keys_only(batch: icl.ClickBatch) -> None:
    prob = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(3))
    both = icl.begin_training_clicks(batch.target, prob, batch.points, batch.keys, config.Loss(), 1)()
    last = batch.target[1:], prob[1:], batch.points[1:], batch.keys[1:]
    assert torch.equal(both[1:], icl.begin_training_clicks(*last, config.Loss(), 1)())
    assert not torch.equal(both, batch.points)
    for number, (old, new) in enumerate(zip(batch.points, both, strict=True)):
        (row,) = (old != new).any(dim=1).nonzero().flatten().tolist()
        at = number, 0, *new[row, :2].long().tolist()
        missed, wrong = training_errors(batch.target[at], prob[at])
        assert (missed if row < len(new) // 2 else wrong).item()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_clicks_are_drawn_while_the_device_goes_backward(
    batch: icl.ClickBatch, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong is taken before backward runs, and the clicks are asked for after it: the same ones."""
    said: list[str] = []
    begin = icl.begin_training_clicks

    def begun(*args: Any) -> Callable[[], torch.Tensor]:
        said.append("errors")
        draw = begin(*args)

        def drawn() -> torch.Tensor:
            said.append("clicks")
            return draw()

        return drawn

    def backward(loss: torch.Tensor) -> None:
        said.append("backward")
        loss.backward()

    monkeypatch.setattr(icl, "begin_training_clicks", begun)
    image, target, points = (tensor.to(device) for tensor in (batch.image, batch.target, batch.points))
    moved = icl.ClickBatch(image, target, points, batch.keys)
    result = icl.icl_step(model().to(device), moved, config.Loss(), 3, backward=backward)
    assert said == ["errors", "backward", "clicks"] * 2 + ["backward"]
    assert result.points is not None
    assert ((result.points[..., 2] >= 1).sum(dim=1) == 2).all()


def test_plain_iterative_runs_free_passes_in_eval_mode(batch: icl.ClickBatch) -> None:
    modes: list[tuple[bool, bool]] = []

    class Spy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model()

        def forward(self, *args: torch.Tensor) -> torch.Tensor:
            modes.append((self.training, torch.is_grad_enabled()))
            return self.inner(*args)

    net = Spy().train()
    result = icl.iter_mask_step(
        net, batch, config.Loss(mode="iter_mask", click_rows="from_end"), 2, backward=torch.Tensor.backward
    )
    assert modes == [(False, False), (False, False), (True, True)]
    assert net.training
    assert len(result.losses) == 1
    assert result.points is not None
    orders = result.points[..., 2].max(dim=1).values
    assert (orders >= 1).all()


def test_previous_mask_is_dropped_per_sample() -> None:
    prob = torch.ones(64, 1, 2, 2)
    keys = [(0, 0, i) for i in range(64)]
    assert torch.equal(icl.drop_previous(prob, keys, 0.0, 1), prob)
    assert icl.drop_previous(prob, keys, 1.0, 1).sum() == 0
    kept = icl.drop_previous(prob, keys, 0.5, 1)[:, 0, 0, 0]
    assert 10 < kept.sum() < 54
    assert torch.equal(kept, icl.drop_previous(prob, keys, 0.5, 1)[:, 0, 0, 0])


def test_number_of_clicks_is_uniform_and_repeatable() -> None:
    icl_loss = config.Loss()
    counts = np.bincount([icl.draw_steps(icl_loss, 7, s) for s in range(3000)], minlength=4)
    assert counts[0] == 0
    assert (abs(counts[1:] - 1000) < 130).all()
    assert icl.draw_steps(icl_loss, 7, 5) == icl.draw_steps(icl_loss, 7, 5)
    plain = config_io.replace(config.TrainConfig(), **{"loss.mode": "iter_mask", "loss.passes": [1, 3]}).loss
    assert {icl.draw_steps(plain, 0, s) for s in range(50)} == {1, 2, 3}


def test_nfl_against_a_numpy_version() -> None:
    rng = np.random.default_rng(5)
    logits, y = rng.normal(size=(3, 1, 9, 7)), rng.integers(-1, 2, (3, 1, 9, 7))
    p = 1 / (1 + np.exp(-logits))
    expected = []
    for pi, yi in zip(p, y, strict=True):
        valid = yi != -1
        pt = 1 - abs(yi[valid] - pi[valid])
        beta = (1 - pt) ** 2
        expected.append((0.5 * beta * (valid.sum() / beta.sum()) * -np.log(pt)).mean())
    loss = normalized_focal_loss(torch.from_numpy(logits).float(), torch.from_numpy(y))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_nfl_is_float32_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        loss = normalized_focal_loss(torch.randn(1, 1, 4, 4).bfloat16(), torch.ones(1, 1, 4, 4))
    assert loss.dtype == torch.float32
