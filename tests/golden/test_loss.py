"""Normalized focal loss and the iterative click loss: values and gradients."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import config
from pipeline.model.checkpoints import load_model
from pipeline.model.published import our_name
from pipeline.train import icl
from pipeline.train.loss import normalized_focal_loss

from . import DATA


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / max(float(np.linalg.norm(b)), 1e-12))


def test_nfl_values_and_gradients(device: str) -> None:
    data = np.load(DATA / "loss.npz")
    logits = torch.from_numpy(data["logits"]).to(device).requires_grad_()
    loss = normalized_focal_loss(logits, torch.from_numpy(data["labels"]).to(device))
    loss.mean().backward()
    np.testing.assert_allclose(loss.detach().cpu(), data["per_sample"], rtol=1e-6, atol=1e-6)
    assert logits.grad is not None
    for ours, theirs in zip(logits.grad.cpu().numpy(), data["grad"], strict=True):
        assert relative(ours, theirs) < 1e-4


def test_icl_losses_and_parameter_gradients(golden: Path, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = np.load(golden / "loss.npz")
    expected = json.loads((golden / "loss.json").read_text())
    model, _ = load_model(str(golden / "tiny.pth"), device)
    points = [torch.from_numpy(p).to(device) for p in data["icl_points"]]
    batch = icl.ClickBatch(
        torch.from_numpy(data["icl_images_u8"]).to(device),
        torch.from_numpy(data["icl_gt_u8"]).to(device, torch.int8),
        points[0],
        [(0,), (1,)],
    )
    # The recorded clicks stand in for the random ones.
    monkeypatch.setattr(icl, "begin_training_clicks", lambda *args: lambda: points[args[5]])
    result = icl.icl_step(model, batch, config.Loss(weights=(1.0, 2.0, 3.0)), 3, backward=torch.Tensor.backward)
    np.testing.assert_allclose(result.losses, data["icl_step_losses"], rtol=1e-5)
    assert result.total == pytest.approx(float(data["icl_total"]), rel=1e-5)
    assert result.prob is not None
    logits = torch.logit(result.prob.double())[:, :, ::8, ::8].float().cpu().numpy()
    np.testing.assert_allclose(logits, data["icl_step_logits_sub"][2], atol=2e-3)

    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert all(g is not None for g in gradients.values())
    for key, norm in expected["grad_l2"].items():
        ours = gradients[our_name(key) or ""]
        assert ours is not None
        assert float(ours.norm()) == pytest.approx(norm, rel=1e-4, abs=1e-7), key
    for key in (k for k in data.files if k.startswith("icl_grad/")):
        ours = gradients[our_name(key.removeprefix("icl_grad/")) or ""]
        assert ours is not None
        assert relative(ours.cpu().numpy(), data[key]) < 1e-4, key
    used = {our_name(k) for k in expected["grad_l2"]}
    assert used == set(gradients), "every parameter that the original trains is trained here, and no other"
