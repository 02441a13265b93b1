"""`--train.compile`: what is compiled computes the same, once for all click counts, and says what it needs."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch._dynamo.utils import counters

from pipeline.config import Loss
from pipeline.errors import UserError
from pipeline.model.segmenter import ClickSegmenter
from pipeline.train.icl import ClickBatch, icl_step, iter_mask_step
from tests.made import small_config

LOSS, MODEL = Loss(), small_config().model


def made_batch() -> ClickBatch:
    rng = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=rng)
    target = torch.zeros(2, 1, 64, 64, dtype=torch.int8)
    target[:, :, 16:40, 20:50] = 1
    points = torch.full((2, 4, 3), -1.0)
    points[:, 0] = torch.tensor([30.0, 30.0, 2.0])
    return ClickBatch(image, target, points, [(0, 0, 0), (0, 0, 1)])


def gradients(model: ClickSegmenter, clicks: int) -> dict[str, torch.Tensor]:
    model.zero_grad(set_to_none=True)
    torch.manual_seed(clicks)
    icl_step(model, made_batch(), LOSS, clicks, backward=torch.Tensor.backward)
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_compiled_parts_give_the_same_gradients_and_are_compiled_once() -> None:
    torch.manual_seed(0)
    plain = ClickSegmenter(MODEL).train()
    compiled = ClickSegmenter(MODEL).train()
    compiled.load_state_dict(plain.state_dict())
    compiled.compile_parts(backend="aot_eager")
    assert list(compiled.state_dict()) == list(plain.state_dict())
    torch._dynamo.reset()
    counters.clear()
    after = []
    for clicks in (1, 3, 2):
        want, have = gradients(plain, clicks), gradients(compiled, clicks)
        assert want.keys() == have.keys()
        for name, value in want.items():
            torch.testing.assert_close(have[name], value, rtol=1e-4, atol=1e-6, msg=name)
        after.append(counters["stats"]["unique_graphs"])
    assert 0 < after[0] == after[1] == after[2], "compiled anew for another number of clicks"
    iter_mask_step(compiled, made_batch(), LOSS, 2, backward=torch.Tensor.backward)
    known = counters["stats"]["unique_graphs"]
    iter_mask_step(compiled, made_batch(), LOSS, 3, backward=torch.Tensor.backward)
    assert counters["stats"]["unique_graphs"] == known
    batch = made_batch()
    with compiled.uncompiled(), torch.no_grad():  # validation: a batch of another size
        compiled(batch.image[:1], torch.zeros(1, 1, 64, 64), batch.points[:1])
    assert counters["stats"]["unique_graphs"] == known
    with torch.no_grad():
        compiled(batch.image[:1], torch.zeros(1, 1, 64, 64), batch.points[:1])
    assert counters["stats"]["unique_graphs"] > known, "a new size is compiled elsewhere"


def test_a_machine_without_a_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler"):
        ClickSegmenter(MODEL).compile_parts()
