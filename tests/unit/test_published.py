"""The published layout: import and export key by key, unknown and misshapen keys, the number of heads."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs import export_checkpoint, import_checkpoint
from pipeline import config
from pipeline.config import io as config_io
from pipeline.errors import UserError
from pipeline.evaluate.sources import default_crop
from pipeline.model.checkpoints import CheckpointInfo, find_checkpoint, load_model, read_unused
from pipeline.model.pickle_reader import read_torch_pickle
from pipeline.model.published import from_published, our_name, published_name, to_published, unused_shapes
from pipeline.model.segmenter import ClickSegmenter
from pipeline.report.claims import Identity, identify
from tests.made import small_config, small_model, write_checkpoint

SMALL = small_config().model


def write(path: Path, content: Any) -> str:
    torch.save(content, path)
    return str(path)


@pytest.fixture
def content() -> dict[str, Any]:
    """A small model in the published layout."""
    return to_published(small_model())


def test_the_golden_file_comes_back_key_by_key(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    original = read_torch_pickle((golden / "tiny.pth").read_bytes(), "tiny.pth")
    import_checkpoint.job([str(golden / "tiny.pth"), str(tmp_path / "tiny")])
    printed = capsys.readouterr().out
    for fact in ("patch 16, dim 64, depth 12, heads 2", "head 32, crop 448", "head.up_conv2.3.weight", "sha256"):
        assert fact in printed
    export_checkpoint.job([str(tmp_path / "tiny"), str(tmp_path / "back.pth")])
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert back["state_dict"].keys() == original["state_dict"].keys()
    for key, tensor in original["state_dict"].items():
        assert torch.equal(back["state_dict"][key], tensor), key
        assert back["state_dict"][key].dtype == tensor.dtype
    described = json.loads((golden / "config.json").read_text())
    assert sum(t.numel() for t in back["state_dict"].values()) == described["params_total"]
    assert back["config"]["class"] == described["checkpoint_class"]
    said = {name: [p["type"], p["specified"]] for name, p in back["config"]["params"].items()}
    assert said == described["checkpoint_params"]
    theirs = copy.deepcopy(original["config"]["params"])
    del theirs["head_params"]["value"]["loss_decode"]  # an object of the original's own; its default does
    assert {n: p["value"] for n, p in back["config"]["params"].items()} == {n: p["value"] for n, p in theirs.items()}


def test_an_imported_checkpoint_is_a_checkpoint(golden: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "tiny")
    import_checkpoint.job([str(golden / "tiny.pth"), out])
    assert find_checkpoint(out) == out
    model, info = load_model(out)
    direct, published = load_model(str(golden / "tiny.pth"))
    assert info.model == published.model
    assert (info.format, info.config, info.step) == ("published", None, None)  # evaluated as a published file is
    for a, b in zip(model.parameters(), direct.parameters(), strict=True):
        assert torch.equal(a, b)
    state = json.loads((tmp_path / "tiny" / "state.json").read_text())
    assert state["config"]["recipe"] == "imported"
    assert state["imported"] == {"file": "tiny.pth", "sha256": published.sha256}
    assert default_crop("davis", info) == 672


def test_an_imported_model_is_known_by_its_folders_name() -> None:
    huge = config_io.to_dict(config.Model(patch=14, dim=1280, depth=32, heads=16))
    named = {"format": "published", "uri": "/checkpoints/cocolvis_icl_vit_huge/", "model": huge}
    assert identify(named) == Identity("ICL", "ViT-H", "C+L")


def test_import_and_export_overwrite_nothing(golden: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    for out in (tmp_path / "full", tmp_path / "full" / "file"):
        with pytest.raises(UserError, match="exists already"):
            import_checkpoint.job([str(golden / "tiny.pth"), str(out)])
    with pytest.raises(UserError, match="exists already"):
        export_checkpoint.job([str(golden / "tiny.pth"), str(tmp_path / "full" / "file")])
    with pytest.raises(UserError, match="no file"):
        import_checkpoint.job([str(tmp_path / "absent.pth"), str(tmp_path / "out")])


def test_our_own_model_comes_back_from_the_published_layout(tmp_path: Path) -> None:
    ours = write_checkpoint(tmp_path / "ours")
    export_checkpoint.job([ours, str(tmp_path / "out.pth")])
    again, info = load_model(str(tmp_path / "out.pth"))
    assert info.model == SMALL
    for a, b in zip(small_model().parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not read_unused(ours)
    unused = read_unused(str(tmp_path / "out.pth"))
    assert {k: tuple(v.shape) for k, v in unused.items()} == unused_shapes(SMALL)
    assert {k for k, v in unused.items() if v.any()} == {
        "backbone.fc_norm.weight",
        *(f"head.up_conv{i}.{j}.weight" for i in (1, 2) for j in (1, 3)),
    }


def test_names_go_both_ways() -> None:
    for name in ClickSegmenter(SMALL).state_dict():
        assert our_name(published_name(name)) == name


def test_known_unused_keys_are_exact() -> None:
    assert our_name("backbone.head.weight") is None
    assert our_name("head.up_conv2.3.bias") is None
    for other in (
        "backbone.head.0.weight",
        "backbone.head_dist.weight",
        "head.up_conv1.4.weight",
        "backbone.cls_token2",
    ):
        assert our_name(other) is not None


@pytest.mark.parametrize(
    ("key", "shape", "message"),
    [
        ("backbone.head.extra", (3,), "unknown backbone.head.extra"),
        ("backbone.norm.weight", (32,), "unknown backbone.norm.weight"),
        ("head.up_conv3.0.weight", (3,), "unknown head.up_conv3.0.weight"),
        ("neck.down_4.0.bias", (5,), r"wrong shape: neck.x4.0.bias is \(5,\), not"),
        ("head.up_conv1.0.bias", (3,), r"head.up_conv1.0.bias is \(3,\), not \(8,\)"),
        ("backbone.fc_norm.weight", (1, 32), r"fc_norm.weight is \(1, 32\), not \(32,\)"),
    ],
)
def test_extra_and_misshapen_keys_are_named(
    content: dict[str, Any], tmp_path: Path, key: str, shape: tuple[int, ...], message: str
) -> None:
    content["state_dict"][key] = torch.zeros(shape)
    with pytest.raises(UserError, match=message):
        load_model(write(tmp_path / "x.pth", content))


def test_a_missing_key_is_named(content: dict[str, Any], tmp_path: Path) -> None:
    del content["state_dict"]["backbone.blocks.1.mlp.fc1.bias"]
    with pytest.raises(UserError, match=r"missing backbone.blocks.1.mlp.fc1.bias"):
        load_model(write(tmp_path / "x.pth", content))


def test_a_file_without_unused_keys_loads(content: dict[str, Any], tmp_path: Path) -> None:
    del content["state_dict"]["backbone.head.weight"], content["state_dict"]["head.up_conv1.0.weight"]
    path = write(tmp_path / "x.pth", content)
    load_model(path)
    export_checkpoint.job([path, str(tmp_path / "full.pth")])
    assert "backbone.head.weight" in torch.load(tmp_path / "full.pth", weights_only=True)["state_dict"]


def test_a_file_that_asks_for_a_huge_network_takes_no_memory(content: dict[str, Any], tmp_path: Path) -> None:
    wide = 1_000_000
    for key in unused_shapes(SMALL).keys() - {"backbone.pos_embed"}:
        del content["state_dict"][key]
    content["state_dict"]["backbone.patch_embed.proj.weight"] = torch.zeros(wide, 1, 1, 1)
    content["state_dict"]["backbone.pos_embed"] = torch.zeros(1, 17, wide)
    content["config"] = {"params": {"backbone_params": {"value": {"num_heads": 2}}}}
    with pytest.raises(UserError, match="wrong shape"):
        load_model(write(tmp_path / "x.pth", content))


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        (None, "does not say its number of attention heads"),
        (3, "cannot be divided"),
        (0, "cannot be divided"),
        (True, "cannot be divided"),
        ("2", "cannot be divided"),
    ],
)
def test_heads_are_never_guessed(content: dict[str, Any], tmp_path: Path, heads: Any, message: str) -> None:
    content["config"]["params"]["backbone_params"]["value"]["num_heads"] = heads
    with pytest.raises(UserError, match=message):
        load_model(write(tmp_path / "x.pth", content))


@pytest.mark.parametrize("described", [None, {}, {"params": None}, {"params": {"backbone_params": 3}}])
def test_a_file_without_a_config_is_a_published_variant_or_refused(
    content: dict[str, Any], tmp_path: Path, described: Any
) -> None:
    content["config"] = described
    with pytest.raises(UserError, match="does not say its number of attention heads"):
        load_model(write(tmp_path / "x.pth", content))
    xtiny = config.Model(dim=160, depth=8, heads=4, neck_dims=(4, 4, 8, 8), head_dim=8, train_size=32)
    named = to_published(ClickSegmenter(xtiny))
    named["config"] = described
    assert from_published(named, "x").model.heads == 4


def test_heads_that_contradict_the_published_variant() -> None:
    xtiny = config.Model(dim=160, depth=8, heads=4, neck_dims=(4, 4, 8, 8), head_dim=8, train_size=32)
    named = to_published(ClickSegmenter(xtiny))
    named["config"]["params"]["backbone_params"]["value"]["num_heads"] = 8
    with pytest.raises(UserError, match="says 8 attention heads; ViT-xtiny"):
        from_published(named, "x")


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [
        ("backbone_params", "depth", 12),
        ("backbone_params", "patch_size", (14, 14)),
        ("head_params", "upsample", "x4"),
        ("head_params", "channels", 256),
        ("neck_params", "out_dims", [1, 2, 3, 4]),
    ],
)
def test_a_config_that_contradicts_the_tensors(content: dict[str, Any], group: str, name: str, value: Any) -> None:
    content["config"]["params"][group]["value"][name] = value
    with pytest.raises(UserError, match=f"contradicts itself.*{group}.{name}"):
        from_published(content, "x")


def test_click_radius_and_dropout_are_read(content: dict[str, Any]) -> None:
    content["config"]["params"]["norm_radius"]["value"] = 3
    content["config"]["params"]["head_params"]["value"]["dropout_ratio"] = 0.25
    model = from_published(content, "x").model
    assert (model.click_radius, model.head_dropout) == (3, 0.25)


def test_default_crop_of_ours_is_its_training_crop() -> None:
    info = CheckpointInfo("x", "cfr-icl", "", SMALL, 1, small_config())
    assert default_crop("davis", info) == 64
