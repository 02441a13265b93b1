"""Checkpoints: ours round trip, damaged and malicious files are refused without running anything."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import config
from pipeline.errors import StorageUnavailable, UserError
from pipeline.model.checkpoints import find_checkpoint, load_model, load_weights
from pipeline.model.pickle_reader import read_torch_pickle
from pipeline.model.segmenter import ClickSegmenter
from pipeline.stream.order import Position
from pipeline.train.optim import averaged, build_optimizer, update_average
from pipeline.train.state import (
    TrainState,
    complete_checkpoints,
    publish,
    restore,
    step_of,
    take_snapshot,
    write_parts,
)
from tests.made import save_checkpoint

MODEL = config.Model(patch=16, dim=16, depth=4, heads=2, neck_dims=(4, 4, 8, 8), head_dim=8, train_size=64)


def state(step: int = 0) -> TrainState:
    torch.manual_seed(step)
    model = ClickSegmenter(MODEL)
    optimizer = build_optimizer(model, config.Optim(), MODEL.depth)
    return TrainState(model, optimizer, step, Position(3, 5, 2))


def one_step(s: TrainState) -> None:
    logits = s.model(torch.rand(1, 3, 64, 64), torch.zeros(1, 1, 64, 64), torch.tensor([[[5.0, 5, 0], [-1, -1, -1]]]))
    logits.square().mean().backward()
    s.optimizer.step()


def test_whole_state_comes_back(tmp_path: Path) -> None:
    run = config.TrainConfig(out=str(tmp_path), model=MODEL)
    before = state(7)
    one_step(before)
    before.best = (3.5, 7)
    uri = save_checkpoint(before, run, keep=2)
    after = state(1)
    restore(after, uri)
    assert (after.step, after.position, after.best) == (7, Position(3, 5, 2), (3.5, 7))
    for a, b in zip(before.model.parameters(), after.model.parameters(), strict=True):
        assert torch.equal(a, b)
        for key, value in before.optimizer.state[a].items():
            assert torch.equal(value, after.optimizer.state[b][key])
    model, info = load_model(str(tmp_path))
    assert info.step == 7
    assert info.model == MODEL
    assert not model.training


def test_the_mean_is_the_model_and_the_weights_come_back(tmp_path: Path) -> None:
    run = config.TrainConfig(out=str(tmp_path), model=MODEL, optim=config.Optim(average=0.9))
    before = state(7)
    for step in (1, 2, 3):
        one_step(before)
        update_average(before.optimizer, 0.9, step)
    weights = {name: value.clone() for name, value in before.model.state_dict().items()}
    with averaged(before.optimizer):
        mean = {name: value.clone() for name, value in before.model.state_dict().items()}
        uri = save_checkpoint(before, run, keep=2)
    assert any(not torch.equal(value, mean[name]) for name, value in weights.items())
    loaded = load_model(uri)[0].state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in mean.items())
    after = state(1)
    restore(after, uri)
    assert all(torch.equal(value, weights[name]) for name, value in after.model.state_dict().items())
    with averaged(after.optimizer):
        assert all(torch.equal(value, mean[name]) for name, value in after.model.state_dict().items())


def test_first_best_and_last_are_kept(tmp_path: Path) -> None:
    run = config.TrainConfig(out=str(tmp_path), model=MODEL)
    s = state(0)
    for step in range(0, 60, 10):
        s.step = step
        s.best = (1.0, 20) if step >= 20 else None
        save_checkpoint(s, run, keep=2)
    assert [step_of(c) for c in complete_checkpoints(str(tmp_path))] == [0, 20, 40, 50]


def test_a_half_written_checkpoint_is_not_picked_up(tmp_path: Path) -> None:
    run = config.TrainConfig(out=str(tmp_path), model=MODEL)
    save_checkpoint(state(4), run, keep=2)
    half = save_checkpoint(state(9), run, keep=2)
    (Path(half) / "state.json").unlink()
    assert find_checkpoint(str(tmp_path)).endswith("step_00000004")
    save_checkpoint(state(12), run, keep=2)
    assert not Path(half).exists()  # nobody will finish it


def test_a_checkpoint_whose_files_are_gone_does_not_count(tmp_path: Path) -> None:
    run = config.TrainConfig(out=str(tmp_path), model=MODEL)
    snapshot = take_snapshot(state(4), run, writers=1, writes=True)
    files = write_parts(snapshot, 0)
    (Path(snapshot.uri) / "model.safetensors").unlink()
    with pytest.raises(StorageUnavailable, match=r"model\.safetensors was written, and is not there"):
        publish(snapshot, files)
    assert not complete_checkpoints(str(tmp_path))


def test_a_damaged_file_is_seen_by_its_checksum(tmp_path: Path) -> None:
    uri = save_checkpoint(state(4), config.TrainConfig(out=str(tmp_path), model=MODEL), keep=2)
    path = Path(uri) / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1  # inside a weight: the file itself stays readable
    path.write_bytes(bytes(data))
    for read in (lambda: load_model(uri), lambda: restore(state(1), uri)):
        with pytest.raises(UserError, match=r"model\.safetensors is damaged: .*another checkpoint"):
            read()


def test_keys_that_do_not_fit_are_named() -> None:
    model = ClickSegmenter(MODEL)
    weights = model.state_dict()
    weights.pop("head.logit.bias")
    weights["extra.thing"] = torch.zeros(1)
    weights["backbone.pos_embed"] = torch.zeros(1, 2, 3)
    with pytest.raises(
        UserError, match=r"missing head.logit.bias; unknown extra.thing; wrong shape: backbone.pos_embed"
    ):
        load_weights(model, weights, "x")


def torch_file(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


class Payload:
    """Unpickling this with the ordinary reader creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [2, 4])
def test_code_in_a_pickle_does_not_run(tmp_path: Path, protocol: int) -> None:
    mark = tmp_path / "ran"
    buffer = io.BytesIO()
    torch.save({"state_dict": Payload(mark)}, buffer, pickle_protocol=protocol)
    with pytest.raises(UserError, match="refused"):
        read_torch_pickle(buffer.getvalue(), "evil.pth")
    assert not mark.exists()
    torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)
    assert mark.exists()  # the payload was a live one


def test_unknown_classes_are_inert() -> None:
    content = read_torch_pickle(torch_file({"config": Position(1, 2, 3), "t": torch.arange(6.0).view(2, 3).T}), "x")
    assert type(content["config"]) is not Position
    assert torch.equal(content["t"], torch.arange(6.0).view(2, 3).T)


def test_dotted_names_do_not_reach_into_admitted_modules(tmp_path: Path) -> None:
    script = b"\x80\x04\x8c\x05torch\x8c\x0ahub.os.sep\x93."  # STACK_GLOBAL torch, hub.os.sep
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/data.pkl", script)
    inert = read_torch_pickle(buffer.getvalue(), "x")
    assert isinstance(inert, type)
    with pytest.raises(pickle.UnpicklingError):
        inert()


@pytest.mark.parametrize("damage", ["cut", "flip", "text", "no pickle"])
def test_damaged_files_are_a_users_mistake(damage: str, tmp_path: Path) -> None:
    data = bytearray(torch_file({"state_dict": {"w": torch.ones(1000)}}))
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "flip":
        at = data.index(b"\x00\x00\x80?" * 8)
        data[at + 2] ^= 1
    elif damage == "text":
        data = bytearray(b"hello")
    else:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("readme", "x")
        data = bytearray(buffer.getvalue())
    (tmp_path / "x.pth").write_bytes(data)
    with pytest.raises(UserError):
        load_model(str(tmp_path / "x.pth"))


def test_not_a_checkpoint(tmp_path: Path) -> None:
    for uri in (tmp_path / "absent", tmp_path):
        with pytest.raises(UserError, match="no checkpoint"):
            load_model(str(uri))
