"""Workers that share a step: DDP and FSDP give the result of one process, and checkpoints pass between all of them."""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes
from torch.nn.parallel import DistributedDataParallel

from pipeline import config
from pipeline.errors import UserError
from pipeline.model.checkpoints import load_model
from pipeline.model.segmenter import ClickSegmenter
from pipeline.stream.order import Position
from pipeline.train import icl, parallel
from pipeline.train.checkpointer import Checkpointer
from pipeline.train.meter import Meter
from pipeline.train.optim import averaged, build_optimizer, update_average
from pipeline.train.state import TrainState, complete_checkpoints, optimizer_tensors, restore, step_of

MODEL = config.Model(
    patch=16, dim=16, depth=4, heads=2, neck_dims=(4, 4, 8, 8), head_dim=8, head_dropout=0.0, train_size=64
)
SAMPLES = 6


def batch(start: int, stop: int) -> icl.ClickBatch:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (SAMPLES, 3, 64, 64), dtype=np.uint8)
    target = np.zeros((SAMPLES, 1, 64, 64), np.int8)
    for i in range(SAMPLES):
        target[i, 0, 5 + 3 * i : 30 + 3 * i, 10:50] = 1
    points = np.full((SAMPLES, 8, 3), -1, np.float32)
    points[:, 0] = (25, 30, 0)
    arrays = [torch.from_numpy(a[start:stop]) for a in (image, target, points)]
    return icl.ClickBatch(arrays[0], arrays[1], arrays[2], [(0, 0, i) for i in range(start, stop)])


def run_config(out: str, mode: Any) -> config.TrainConfig:
    return config.TrainConfig(out=out, model=MODEL, train=config.Train(batch=SAMPLES, parallel=mode))


def begin(run: config.TrainConfig, world: int) -> tuple[TrainState, torch.nn.Module]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = ClickSegmenter(MODEL).train()
    wrapped = parallel.parallelize(model, run.train, torch.device("cpu"), world)
    return TrainState(model, build_optimizer(model, config.Optim(lr=1e-3), 4), 0, Position(0, 0, world)), wrapped


def train_step(state: TrainState, wrapped: torch.nn.Module, rank: int, world: int) -> float:
    """One ICL step of three clicks over all samples, shared among the workers; returns the gradients' norm."""
    share = SAMPLES // world
    mine = batch(rank * share, (rank + 1) * share)
    state.optimizer.zero_grad(set_to_none=True)
    icl.icl_step(wrapped, mine, config.Loss(), 3, backward=torch.Tensor.backward, no_sync=parallel.no_sync(wrapped))
    norm = parallel.clip_gradients(state.model, 1.0)
    state.optimizer.step()
    state.step += 1
    update_average(state.optimizer, 0.5, state.step)
    return norm


def whole(state: TrainState) -> dict[str, torch.Tensor]:
    """Weights, moments and running means, gathered."""
    tensors = {**state.model.state_dict(), **optimizer_tensors(state.optimizer)}
    return {name: parallel._whole(tensor).detach().clone() for name, tensor in tensors.items()}


def together(task: Callable[..., None], world: int, *args: Any) -> None:
    """Run `task(rank, world, *args)` in `world` processes with a gloo group."""
    with tempfile.TemporaryDirectory() as folder:
        start_processes(_in_group, (task, world, folder, args), nprocs=world, start_method="spawn")


def _in_group(rank: int, task: Callable[..., None], world: int, meet: str, args: tuple[Any, ...]) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{meet}/rendezvous", rank=rank, world_size=world)
    task(rank, world, *args)
    dist.destroy_process_group()


def two_steps(rank: int, world: int, folder: str, mode: str) -> None:
    """A step, a checkpoint, another step; rank 0 leaves what it has then."""
    run = run_config(f"{folder}/{mode}", mode)
    state, wrapped = begin(run, world)
    norm = train_step(state, wrapped, rank, world)
    checkpoints = Checkpointer(run, rank, world)
    with averaged(state.optimizer):
        checkpoints.begin(state)
    train_step(state, wrapped, rank, world)  # beside the writing
    (busy,) = parallel.agree([checkpoints.busy], world, torch.device("cpu"))
    if checkpoints.waits_for_others and not busy:
        checkpoints.publish_together()
    checkpoints.finish()
    evaluated = parallel.whole_model(state.model)
    found = {"norm": norm, "state": whole(state), "weights": evaluated.state_dict()}
    if rank == 0:
        torch.save(found, f"{folder}/{mode}.pt")


def go_on(rank: int, world: int, folder: str, mode: str, source: str) -> None:
    """The second step, from the checkpoint that others wrote after the first."""
    run = run_config(f"{folder}/{source}", mode)
    state, wrapped = begin(run, world)
    (latest,) = complete_checkpoints(run.out)
    restore(state, latest)
    assert (state.step, state.position) == (1, Position(0, 0, 2))
    train_step(state, wrapped, rank, world)
    found = whole(state)
    if rank == 0:
        torch.save(found, f"{folder}/{mode}-{world}-from-{source}.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two steps by two workers, with DDP and with FSDP."""
    made = str(tmp_path_factory.mktemp("parallel"))
    for mode in ("ddp", "fsdp"):
        Path(made, mode).mkdir()
        together(_two_steps_ddp if mode == "ddp" else _two_steps_fsdp, 2, made)
    return made


def _two_steps_ddp(rank: int, world: int, folder: str) -> None:
    two_steps(rank, world, folder, "ddp")


def _two_steps_fsdp(rank: int, world: int, folder: str) -> None:
    two_steps(rank, world, folder, "fsdp")


def alone() -> tuple[float, TrainState]:
    state, wrapped = begin(run_config("", "ddp"), 1)
    norm = train_step(state, wrapped, 0, 1)
    train_step(state, wrapped, 0, 1)
    return norm, state


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=2e-3, atol=2e-5, msg=name)


@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_two_workers_give_the_result_of_one_process(folder: str, mode: str) -> None:
    found = torch.load(f"{folder}/{mode}.pt", weights_only=True)
    norm, state = alone()
    assert found["norm"] == pytest.approx(norm, rel=1e-4)
    assert_close(found["state"], whole(state))
    assert_close(found["weights"], state.model.state_dict())


def test_ddp_exchanges_gradients_in_the_last_backward_only(folder: str) -> None:
    model = ClickSegmenter(MODEL)
    assert parallel.no_sync(model) is nullcontext
    assert not isinstance(parallel.parallelize(model, config.Train(), torch.device("cpu"), 1), DistributedDataParallel)


def _fsdp_on(rank: int, world: int, folder: str, source: str) -> None:
    go_on(rank, world, folder, "fsdp", source)


@pytest.mark.parametrize(("source", "world"), [("fsdp", 3), ("fsdp", 2), ("ddp", 3)])
def test_fsdp_goes_on_from_any_checkpoint(folder: str, source: str, world: int) -> None:
    together(_fsdp_on, world, folder, source)
    found = torch.load(f"{folder}/fsdp-{world}-from-{source}.pt", weights_only=True)
    assert_close(found, torch.load(f"{folder}/{source}.pt", weights_only=True)["state"])


def test_one_process_goes_on_from_shares(folder: str) -> None:
    (uri,) = complete_checkpoints(f"{folder}/fsdp")
    names = sorted(path.name for path in Path(uri).iterdir())
    assert names == [
        *(f"{kind}-0000{i}-of-00002.safetensors" for kind in ("model", "optimizer") for i in (1, 2)),
        "state.json",
    ]
    go_on(0, 1, folder, "ddp", "fsdp")
    found = torch.load(f"{folder}/ddp-1-from-fsdp.pt", weights_only=True)
    assert_close(found, torch.load(f"{folder}/fsdp.pt", weights_only=True)["state"])
    model, info = load_model(f"{folder}/fsdp")  # what evaluation does
    assert (info.step, model.training) == (1, False)


def test_damaged_share_is_named(folder: str, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(f"{folder}/fsdp/checkpoints", tmp_path / "checkpoints")
    (uri,) = complete_checkpoints(str(tmp_path))
    share = Path(uri) / "model-00002-of-00002.safetensors"
    share.write_bytes(share.read_bytes()[:-4] + b"bad!")
    with pytest.raises(UserError, match=r"model-00002-of-00002\.safetensors is damaged"):
        load_model(str(tmp_path))


def _one_after_the_other(rank: int, world: int, folder: str) -> None:
    """Worker 0 is slow to let a checkpoint count: the other one has written its share of the next by then."""
    run = run_config(folder, "fsdp")
    run = dataclasses.replace(run, train=dataclasses.replace(run.train, keep=1))
    state, _ = begin(run, world)
    checkpoints = Checkpointer(run, rank, world, before=lambda step: time.sleep(2.0 if step == 1 else 0.0))
    for state.step in (1, 2):
        checkpoints.begin(state)
    checkpoints.finish()


def test_no_share_of_the_next_checkpoint_is_lost_while_one_is_published(tmp_path: Path) -> None:
    together(_one_after_the_other, 2, str(tmp_path))
    (uri,) = complete_checkpoints(str(tmp_path))
    assert step_of(uri) == 2
    assert len(list(Path(uri).glob("*-of-00002.safetensors"))) == 4
    load_model(str(tmp_path))


def _meter(rank: int, world: int, folder: str) -> None:
    meter = Meter(config.TrainConfig(train=config.Train(batch=4, workers=2)), torch.device("cpu"), world)
    meter.start -= 10.0  # ten seconds passed, of which rank 1 waited five
    meter.wait(lambda: time.sleep(0))
    meter.waited = 5.0 * rank
    meter.add(icl.StepResult([2.0 + rank, 1.0], 3.0 + rank))
    torch.save(meter.flush(), f"{folder}/meter-{rank}.pt")


def test_wait_for_data_is_told_for_each_worker(tmp_path: Path) -> None:
    together(_meter, 2, str(tmp_path))
    for rank in (0, 1):
        found = torch.load(tmp_path / f"meter-{rank}.pt", weights_only=True)
        assert found["train/loss"] == 3.5 and found["train/loss_click_1"] == 2.5
        assert found["time/data_wait_share_rank_0"] == 0.0
        assert found["time/data_wait_share_rank_1"] == pytest.approx(0.5, rel=0.02)
        assert found["time/data_wait_share_max"] == found["time/data_wait_share_rank_1"]
        assert found["time/data_wait_share"] == pytest.approx(found["time/data_wait_share_rank_1"] / 2)
        assert found["time/samples_per_s"] == pytest.approx(0.4, rel=0.02)


def test_a_checkpoint_that_cannot_be_written_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline import storage

    run = run_config(str(tmp_path), "ddp")
    state, _ = begin(run, 1)
    told: list[Any] = []
    checkpoints = Checkpointer(run, 0, 1, before=told.append, after=lambda step, uri: told.append(uri))
    checkpoints.begin(state)
    checkpoints.finish()
    (first,) = complete_checkpoints(str(tmp_path))
    assert told == [0, first] and checkpoints.written > 0
    real = storage.write_bytes

    def full(uri: str, data: bytes) -> None:
        if "optimizer" in uri:
            raise UserError("No space left on device")
        real(uri, data)

    monkeypatch.setattr(storage, "write_bytes", full)
    state.step = 5
    checkpoints.begin(state)
    with pytest.raises(UserError, match="No space left"):
        checkpoints.finish()
    with pytest.raises(UserError, match="No space left"):
        checkpoints.check()
    assert [step_of(uri) for uri in complete_checkpoints(str(tmp_path))] == [0]
    assert told == [0, first]
