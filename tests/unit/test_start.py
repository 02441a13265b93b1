"""What a new model starts from: MAE files, timm's MAE weights, complete models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from jobs.train import parse
from pipeline import config
from pipeline.errors import UserError
from pipeline.model.published import to_published
from pipeline.model.segmenter import ClickSegmenter
from pipeline.model.start import UNUSED, new_model

from pipeline.model import torchvision_ops as _torchvision_ops  # noqa: F401, isort: skip, must come before timm
import timm  # isort: skip
from tests.made import small_config, small_model, write_checkpoint

# The transformer of a published variant (the file of MAE does not say its heads), everything else small.
MODEL = config.Model(dim=160, depth=8, heads=4, neck_dims=(4, 4, 8, 8), head_dim=8, train_size=96)
GRID = 4  # of the pretrained position embedding; the model's is 6


def encoder(**options: Any) -> torch.nn.Module:
    """timm's ViT of MODEL's size: its keys are MAE's."""
    torch.manual_seed(5)
    shape = {"img_size": GRID * 16, "patch_size": 16, "embed_dim": 160, "depth": 8, "num_heads": 4, "num_classes": 0}
    vit = timm.models.vision_transformer.VisionTransformer(**{**shape, **options})
    assert vit.pos_embed is not None
    torch.nn.init.normal_(vit.pos_embed)
    return vit


def mae_file(path: Path, weights: dict[str, torch.Tensor]) -> str:
    torch.save({"model": weights}, path)
    return str(path)


def started(start: str, model: config.Model = MODEL) -> ClickSegmenter:
    torch.manual_seed(0)
    return new_model(model, start)


def check_backbone(model: ClickSegmenter, weights: dict[str, torch.Tensor]) -> None:
    """The backbone is the encoder's, positions interpolated; the rest is as without a start."""
    plain = started("").state_dict()
    for key, value in model.state_dict().items():
        name = key.removeprefix("backbone.")
        if key == "backbone.pos_embed":
            square = weights["pos_embed"][:, 1:].reshape(1, GRID, GRID, 160).permute(0, 3, 1, 2)
            wanted = F.interpolate(square, size=(6, 6), mode="bicubic", align_corners=False)
            wanted = wanted.permute(0, 2, 3, 1).reshape(1, 36, 160)
        else:
            wanted = weights[name] if key.startswith("backbone.") else plain[key]
        assert torch.equal(value, wanted), key


@pytest.mark.parametrize("finetuned", [False, True])
def test_mae_fills_the_backbone_alone(tmp_path: Path, finetuned: bool) -> None:
    weights = dict(encoder().state_dict())
    assert {"cls_token", "norm.weight", "norm.bias"} <= weights.keys()
    if finetuned:
        weights |= {"fc_norm.weight": weights.pop("norm.weight"), "fc_norm.bias": weights.pop("norm.bias")}
        weights |= {"head.weight": torch.zeros(1000, 160), "head.bias": torch.zeros(1000)}
    check_backbone(started(mae_file(tmp_path / "mae.pth", weights)), weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder_embed.weight": torch.zeros(2)}, "unknown decoder_embed.weight"),
        ({"blocks.0.attn.qkv.bias": None}, "missing blocks.0.attn.qkv.bias"),
        ({"blocks.0.attn.qkv.bias": torch.zeros(3)}, "wrong shape: blocks.0.attn.qkv.bias"),
        ({"pos_embed": torch.zeros(1, 16, 160)}, "square grid"),
        ({"pos_embed": None}, "square grid"),
        ({"cls_token": torch.zeros(1, 1, 7)}, "cls_token is"),
        ({"head.weight": torch.zeros(10, 7)}, "head.weight is"),
        ({"epoch": 3}, "no MAE file"),
    ],
)
def test_every_key_of_an_mae_file_is_accounted_for(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    weights = {k: v for k, v in {**encoder().state_dict(), **change}.items() if v is not None}
    with pytest.raises(UserError, match=message):
        new_model(MODEL, mae_file(tmp_path / "mae.pth", weights))


def test_mae_of_another_size(tmp_path: Path) -> None:
    path = mae_file(tmp_path / "mae.pth", dict(encoder(embed_dim=64).state_dict()))
    with pytest.raises(UserError, match=r"cls_token is \(1, 1, 64\), not \(1, 1, 160\)"):
        new_model(MODEL, path)
    with pytest.raises(UserError, match=r"4 attention heads, model\.heads is 8"):
        new_model(replace(MODEL, heads=8), path)
    with pytest.raises(UserError, match="no MAE encoder has patch, dim, depth"):
        new_model(replace(MODEL, dim=64), path)


def test_timm_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def create_model(name: str, pretrained: bool) -> torch.nn.Module:
        asked.append((name, pretrained))
        return encoder()

    monkeypatch.setattr(timm, "create_model", create_model)
    check_backbone(started("timm:vit_base_patch16_224.mae"), dict(encoder().state_dict()))
    assert asked == [("vit_base_patch16_224.mae", True)]
    with pytest.raises(UserError, match=r"4 attention heads, model\.heads is 8"):
        new_model(replace(MODEL, heads=8), "timm:vit_base_patch16_224.mae")


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("vit_base_patch16_224.mae", config.Model()),
        ("vit_large_patch16_224.mae", config.Model(dim=1024, depth=24, heads=16)),
        ("vit_huge_patch14_224.mae", config.Model(patch=14, dim=1280, depth=32, heads=16)),
    ],
)
def test_timms_names_and_layout(name: str, model: config.Model) -> None:
    """The real architectures behind the names, without weights: what timm would load fits our backbone."""
    with torch.device("meta"):
        theirs: Any = timm.create_model(name, pretrained=False)
        ours = ClickSegmenter(model).backbone.state_dict()
    assert theirs.blocks[0].attn.num_heads == model.heads
    shapes = {k: v.shape for k, v in theirs.state_dict().items() if k not in UNUSED}
    assert shapes.keys() == ours.keys()
    assert {k for k in ours if ours[k].shape != shapes[k]} == {"pos_embed"}
    assert shapes["pos_embed"][1] == (224 // model.patch) ** 2 + 1


def test_a_failed_download_is_the_users_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def create_model(name: str, pretrained: bool) -> torch.nn.Module:
        raise OSError("cannot reach the hub\nlong story")

    monkeypatch.setattr(timm, "create_model", create_model)
    with pytest.raises(UserError, match=r"cannot give .* cannot reach the hub\. They come from huggingface"):
        new_model(MODEL, "timm:vit_base_patch16_224.mae")


def test_an_unknown_timm_name_is_the_users_message() -> None:
    with pytest.raises(UserError, match="timm cannot give the weights of 'vit_bas'"):
        new_model(MODEL, "timm:vit_bas")


def test_a_complete_model_is_loaded_strictly(tmp_path: Path) -> None:
    ours, model = write_checkpoint(tmp_path / "ours"), small_config().model
    torch.save(to_published(small_model()), tmp_path / "x.pth")
    for start in (ours, str(tmp_path / "x.pth")):
        for a, b in zip(new_model(model, start).parameters(), small_model().parameters(), strict=True):
            assert torch.equal(a, b)
        with pytest.raises(UserError, match=r"wrong shape: backbone\.pos_embed"):
            new_model(replace(model, train_size=96), start)
        with pytest.raises(UserError, match=r"2 attention heads, model\.heads is 4"):
            new_model(replace(model, heads=4), start)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint"):
        new_model(MODEL, str(tmp_path / "absent.pth"))


def test_a_timm_name_is_no_path(tmp_path: Path) -> None:
    run = parse(["simpleclick_base_cocolvis", "--data.train", str(tmp_path), "--out", str(tmp_path / "out")])
    assert run.model.start == "timm:vit_base_patch16_224.mae"
