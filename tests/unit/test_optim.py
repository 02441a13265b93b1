"""Optimiser groups, layer-wise decay and the schedule."""

from __future__ import annotations

import pytest
import torch

from pipeline import config
from pipeline.errors import UserError
from pipeline.model.segmenter import ClickSegmenter
from pipeline.train.optim import (
    averaged,
    build_optimizer,
    layer_id,
    parameter_groups,
    rate_at,
    set_rate,
    update_average,
)

MODEL = config.Model(patch=16, dim=16, depth=4, heads=2, neck_dims=(4, 4, 8, 8), head_dim=8, train_size=64)
DECAY = config.Optim(lr=1.0, layer_decay=0.75, weight_decay=0.02)


def test_every_parameter_sits_in_exactly_one_group() -> None:
    model = ClickSegmenter(MODEL)
    grouped = [id(p) for g in parameter_groups(model, DECAY, MODEL.depth) for p in g["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "scale", "decay"),
    [
        ("click_embed.proj.weight", 0.75**5, 0.02),
        ("backbone.patch_embed.proj.weight", 0.75**5, 0.02),
        ("backbone.patch_embed.proj.bias", 0.75**5, 0.0),
        ("backbone.pos_embed", 0.75**5, 0.0),
        ("backbone.blocks.0.attn.qkv.weight", 0.75**4, 0.02),
        ("backbone.blocks.3.norm1.weight", 0.75, 0.0),
        ("neck.x4.0.weight", 1.0, 0.02),
        ("neck.x4.1.bias", 1.0, 0.02),
        ("head.logit.bias", 1.0, 0.02),
    ],
)
def test_scale_and_decay(name: str, scale: float, decay: float) -> None:
    groups = parameter_groups(ClickSegmenter(MODEL), DECAY, MODEL.depth)
    (group,) = [g for g in groups if name in g["names"]]
    assert group["lr_scale"] == pytest.approx(scale)
    assert group["weight_decay"] == decay


def test_off_means_one_rate() -> None:
    groups = parameter_groups(ClickSegmenter(MODEL), config.Optim(), MODEL.depth)
    assert [g["lr_scale"] for g in groups] == [1.0]


def test_schedule_acts_on_every_group() -> None:
    optim = config.Optim(lr=1e-3, milestones=(2, 4), layer_decay=0.5)
    assert [round(rate_at(optim, 10 * e + 9, 10, 60), 8) for e in range(6)] == [1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5]
    optimizer = build_optimizer(ClickSegmenter(MODEL), optim, MODEL.depth)
    set_rate(optimizer, rate_at(optim, 20, 10, 60))
    assert {g["lr"] / g["lr_scale"] for g in optimizer.param_groups} == {rate_at(optim, 20, 10, 60)}


def test_warm_up_rises_linearly() -> None:
    optim = config.Optim(lr=1.0, warmup_steps=4)
    assert [rate_at(optim, s, 10, 60) for s in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_cosine_falls_from_the_rate_to_factor_times_it() -> None:
    optim = config.Optim(lr=2.0, schedule="cosine", factor=0.1)
    rates = [rate_at(optim, step, 10, 101) for step in range(101)]
    assert rates == sorted(rates, reverse=True)
    assert (rates[0], rates[50], rates[100]) == pytest.approx((2.0, 1.1, 0.2))
    assert rate_at(config.Optim(schedule="cosine"), 0, 1, 1) == config.Optim().lr  # a run of one step


def test_a_cosine_has_no_milestones() -> None:
    with pytest.raises(UserError, match="milestones"):
        config.Optim(schedule="cosine", milestones=(1,))


def test_the_running_mean_of_weights() -> None:
    model = ClickSegmenter(MODEL)
    bias = model.get_parameter("head.logit.bias")
    optimizer = build_optimizer(model, config.Optim(), MODEL.depth)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # Adam begins its own state first
    seen = []
    for step in range(1, 5):
        with torch.no_grad():
            bias.fill_(float(step))
        update_average(optimizer, 0.4, step)
        seen.append(float(step))
    mean = seen[0]
    for step, value in enumerate(seen[1:], 2):
        decay = min(0.4, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * value
    with averaged(optimizer):
        assert float(bias.detach()) == pytest.approx(mean)
    assert float(bias.detach()) == 4.0


def test_without_a_mean_nothing_changes_places() -> None:
    model = ClickSegmenter(MODEL)
    optimizer = build_optimizer(model, config.Optim(), MODEL.depth)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with averaged(optimizer):
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_layer_ids() -> None:
    assert [layer_id(n, 12) for n in ("backbone.pos_embed", "backbone.blocks.11.mlp.fc1.bias", "neck.x1.0.bias")] == [
        0,
        12,
        13,
    ]
