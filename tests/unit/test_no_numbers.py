"""NaN and infinity are found where they enter, with the name of the option, tensor or file."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline import config
from pipeline.config import Cfr, Eval, TrainConfig
from pipeline.config import io as config_io
from pipeline.config.options import load_json
from pipeline.data.manifest import load_manifest
from pipeline.errors import UserError
from pipeline.model.checkpoints import MODEL, STATE, describe_file, load_model
from pipeline.model.start import new_model
from pipeline.model.tensor_files import Part, decode, encode, file_name
from pipeline.report.compare import read_earlier
from pipeline.train.run_folder import CONFIG, open_folder
from pipeline.tune.setting_file import read_setting
from tests.made import rows_of_blobs, write_checkpoint, write_dataset

FLAT = config_io.flatten(TrainConfig())
NUMBERS = [n for n, v in FLAT.items() if isinstance(v, float) or (isinstance(v, tuple) and v and type(v[0]) is float)]


@given(st.sampled_from(NUMBERS), st.sampled_from([math.nan, math.inf, -math.inf]), st.data())
def test_every_option_of_a_config(name: str, wrong: float, data: st.DataObject) -> None:
    value: Any = FLAT[name]
    if isinstance(value, tuple):
        at = data.draw(st.integers(0, len(value) - 1))
        value = tuple(wrong if i == at else v for i, v in enumerate(value))
    else:
        value = wrong
    with pytest.raises(UserError, match=rf"{name} is .*(nan|inf).*no number"):
        config_io.replace(TrainConfig(), **{name: value})


def test_sections_alone_and_by_replace() -> None:
    for wrong in (math.nan, math.inf):
        with pytest.raises(UserError, match=r"cfr\.expansion"):
            Cfr(expansion=wrong)
        with pytest.raises(UserError, match=r"eval\.target_iou"):
            dataclasses.replace(Eval(), target_iou=wrong)
    assert config.Optim(lr=1e-300).lr == 1e-300


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_json_numbers(value: float) -> None:
    text = json.dumps({"a": [value]})
    if math.isfinite(value):
        assert load_json(text) == {"a": [value]}
    else:
        with pytest.raises(ValueError, match="no number"):
            load_json(text)


def test_json_that_overflows() -> None:
    with pytest.raises(ValueError, match="1e999"):
        load_json("[1e999]")


def spoilt(folder: Path, key: str, value: float) -> Path:
    write_checkpoint(folder)
    file = folder / file_name(MODEL)
    part = decode(file.read_bytes(), "x")
    part.tensors[key].view(-1)[-1] = value
    file.write_bytes(encode(Part(part.tensors)))
    state = json.loads((folder / STATE).read_text())
    state["files"] = {file.name: describe_file(file.read_bytes())}
    (folder / STATE).write_text(json.dumps(state))
    return folder


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights(tmp_path: Path, value: float) -> None:
    folder = spoilt(tmp_path / "c", "backbone.pos_embed", value)
    with pytest.raises(UserError, match=r"NaN or infinity in backbone\.pos_embed"):
        load_model(str(folder))
    model = config_io.from_dict(TrainConfig, json.loads((folder / STATE).read_text())["config"]).model
    with pytest.raises(UserError, match=r"NaN or infinity in backbone\.pos_embed"):
        new_model(model, str(folder))


def test_published_weights(tmp_path: Path) -> None:
    from pipeline.model.published import to_published

    write_checkpoint(tmp_path / "c")
    content = to_published(load_model(str(tmp_path / "c"))[0])
    content["state_dict"]["head.conv_seg.weight"].view(-1)[0] = math.nan
    torch.save(content, tmp_path / "p.pth")
    with pytest.raises(UserError, match=r"p\.pth holds NaN or infinity in head\.logit\.weight"):
        load_model(str(tmp_path / "p.pth"))


def test_files_of_numbers(tmp_path: Path) -> None:
    setting = {"format": 1, "kind": "icl", "values": {"optim.lr": math.nan}}
    (tmp_path / "best.json").write_text(json.dumps(setting))
    with pytest.raises(UserError, match=r"best\.json .*NaN"):
        read_setting(str(tmp_path / "best.json"), "icl", FLAT)
    shards = Path(write_dataset(tmp_path / "d", rows_of_blobs(2)))
    manifest = json.loads((shards / "manifest.json").read_text())
    manifest["shards"][0]["weights"][0] = math.inf
    (shards / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"manifest\.json .*Infinity"):
        load_manifest(str(shards))
    run = TrainConfig(out=str(tmp_path / "run"))
    open_folder(run)
    written = json.loads((tmp_path / "run" / CONFIG).read_text())
    written["optim"]["lr"] = math.nan
    (tmp_path / "run" / CONFIG).write_text(json.dumps(written))
    with pytest.raises(UserError, match=r"config\.json .*NaN"):
        open_folder(run)
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "summary.json").write_text('{"results": [NaN]}')
    (tmp_path / "e" / "objects.parquet").write_bytes(b"")
    with pytest.raises(UserError, match=r"summary\.json .*NaN"):
        read_earlier(str(tmp_path / "e"))
