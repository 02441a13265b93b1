"""Checkpoint files from elsewhere: wrappers and prefixes are taken off, other kinds of files are named."""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from pipeline.errors import UserError
from pipeline.model.checkpoints import find_checkpoint, load_model
from pipeline.model.foreign import PREFIXES, WRAPPERS, kind_of, plain, without_prefixes
from pipeline.model.published import to_published
from pipeline.model.start import new_model
from tests.made import small_config, small_model, write_checkpoint

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 388000000\n"
PLAIN = {f"backbone.blocks.{i}.weight": torch.full((2,), float(i)) for i in range(3)}


@given(st.lists(st.sampled_from(PREFIXES), max_size=4), st.sampled_from((*WRAPPERS, "")))
def test_any_prefixes_in_any_wrapper(prefixes: list[str], wrapper: str) -> None:
    state = {"".join(prefixes) + key: value for key, value in PLAIN.items()}
    found = plain({wrapper: state, "config": {"a": 1}, "epoch": 3} if wrapper else state, "x")
    assert found["state_dict"].keys() == PLAIN.keys()
    assert found["config"] == ({"a": 1} if wrapper else None)


def test_a_wrapper_in_a_wrapper() -> None:
    found = plain({"model": {"state_dict": PLAIN, "step": 3}, "config": {"b": 2}}, "x")
    assert (found["state_dict"].keys(), found["config"]) == (PLAIN.keys(), {"b": 2})


def test_smoothed_weights_only_where_there_are_no_others(capsys: pytest.CaptureFixture[str]) -> None:
    other = {key: value + 1 for key, value in PLAIN.items()}
    found = plain({"model_ema": other, "model": PLAIN}, "x.pth")
    assert torch.equal(found["state_dict"]["backbone.blocks.0.weight"], PLAIN["backbone.blocks.0.weight"])
    assert "x.pth holds model, model_ema: model is used" in capsys.readouterr().out
    assert torch.equal(plain({"model_ema": other}, "x")["state_dict"]["backbone.blocks.0.weight"], torch.ones(2))


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_before_some_keys_only(prefix: str) -> None:
    state = {f"{prefix}{key}" if "blocks.1" in key else key: value for key, value in PLAIN.items()}
    with pytest.raises(UserError, match=rf"1 of 3 keys begin with '{prefix}' \({prefix}backbone.*do not \(backbone"):
        without_prefixes(state, "x")


@pytest.mark.parametrize("content", [{}, [], {"state_dict": {}}, {"state_dict": {"a": 3}}, {"epoch": 3}, None])
def test_no_tensors(content: Any) -> None:
    with pytest.raises(UserError, match="holds no 'state_dict' of tensors"):
        plain(content, "x")


@pytest.mark.parametrize(
    "change",
    [
        lambda c: {"state_dict": {f"module.{k}": v for k, v in c["state_dict"].items()}, "config": c["config"]},
        lambda c: {"model": {f"_orig_mod.module.{k}": v for k, v in c["state_dict"].items()}, "config": c["config"]},
        lambda c: {"model_state_dict": c["state_dict"], "config": c["config"], "epoch": 54},
    ],
)
def test_a_click_model_is_evaluated_and_started_from(tmp_path: Path, change: Any) -> None:
    model = small_model()
    torch.save(change(to_published(model)), tmp_path / "p.pth")
    for loaded in (load_model(str(tmp_path / "p.pth"))[0], new_model(small_config().model, str(tmp_path / "p.pth"))):
        for key, value in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], value), key


def archives() -> dict[str, bytes]:
    tar, zipped, saved = io.BytesIO(), io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as file:
        file.addfile(tarfile.TarInfo("weights.pth"), io.BytesIO())
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("inner/weights.pth", b"x")
    torch.save(PLAIN, saved)
    return {"tar": tar.getvalue(), "zip": zipped.getvalue(), "pth": saved.getvalue(), "safe": save(PLAIN)}


MADE = archives()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (LFS, r"is a Git LFS pointer to 388000000 bytes.*git lfs pull"),
        (b"\n<!DOCTYPE html><html>Sign in</html>", "is a web page"),
        (b"<HTML><body>Quota exceeded", "is a web page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "object store's error"),
        (b'{"message": "Not Found"}', r"is a JSON text: .*Not Found"),
        (bytes(5000), "zeros only"),
        (gzip.compress(b"x"), r"compressed \(gzip\)"),
        (MADE["tar"], "is a tar archive"),
        (MADE["zip"], r"other files \(inner/weights.pth\)"),
        (MADE["pth"][:-100], rf"cut off: the zip file ends after {len(MADE['pth']) - 100} bytes"),
        (MADE["safe"], "is a safetensors file alone"),
        (MADE["safe"][:-3], rf"cut off: {len(MADE['safe']) - 3} of {len(MADE['safe'])} bytes"),
    ],
    ids=range(13),
)
def test_other_files_are_named(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "weights.pth").write_bytes(data)
    with pytest.raises(UserError, match=rf"weights\.pth is no checkpoint: it .*{message}"):
        load_model(str(tmp_path / "weights.pth"))
    with pytest.raises(UserError, match=message):
        new_model(small_config().model, str(tmp_path / "weights.pth"))


def test_what_torch_saves_is_no_other_kind() -> None:
    assert kind_of(MADE["pth"]) == ""
    old = io.BytesIO()
    torch.save(PLAIN, old, _use_new_zipfile_serialization=False)
    assert kind_of(old.getvalue()) == ""


def test_a_pointer_in_our_folder(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "c")
    (tmp_path / "c" / "model.safetensors").write_bytes(LFS)
    with pytest.raises(UserError, match=r"model\.safetensors is no checkpoint: it is a Git LFS pointer"):
        load_model(str(tmp_path / "c"))


def test_folders_without_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "config.json").write_text(json.dumps({}))
    with pytest.raises(UserError, match="has saved no checkpoint yet"):
        find_checkpoint(str(tmp_path / "new"))
    for name in ("a", "b"):
        write_checkpoint(tmp_path / "runs" / name / "checkpoints" / "step_00000001")
    with pytest.raises(UserError, match="several runs; name one: a, b"):
        find_checkpoint(str(tmp_path / "runs"))
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "x.pth").write_bytes(b"")
    with pytest.raises(UserError, match=r"It holds x\.pth: name the file"):
        find_checkpoint(str(tmp_path / "files"))


@pytest.mark.parametrize(("kept", "said"), [(3000, r" \(its tensors alone take 4256\)"), (100, "")])
def test_a_cut_file_is_told_with_both_sizes(kept: int, said: str) -> None:
    """Tensors that share their data count once; a file cut inside its description has one known size."""
    buffer, numbers = io.BytesIO(), torch.zeros(1000)
    torch.save({"a": torch.arange(64.0), "b": numbers, "c": numbers[:10]}, buffer)
    assert re.search(
        rf"cut off: the zip file ends after {kept} bytes{said}, without", kind_of(buffer.getvalue()[:kept])
    )
