"""ICL in data parallel: only the last backward of a step exchanges gradients, and the result is that of one process."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes
from torch.nn.parallel import DistributedDataParallel

from pipeline import config
from pipeline.model.segmenter import ClickSegmenter
from pipeline.train import icl

MODEL = config.Model(
    patch=16, dim=16, depth=4, heads=2, neck_dims=(4, 4, 8, 8), head_dim=8, head_dropout=0.0, train_size=64
)


def batch(start: int, stop: int) -> icl.ClickBatch:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (4, 3, 64, 64), dtype=np.uint8)
    target = np.zeros((4, 1, 64, 64), np.int8)
    for i in range(4):
        target[i, 0, 5 + 5 * i : 30 + 5 * i, 10:50] = 1
    points = np.full((4, 8, 3), -1, np.float32)
    points[:, 0] = (25, 30, 0)
    arrays = [torch.from_numpy(a[start:stop]) for a in (image, target, points)]
    return icl.ClickBatch(arrays[0], arrays[1], arrays[2], [(0, 0, i) for i in range(start, stop)])


def gradients(wrap: bool, start: int, stop: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = ClickSegmenter(MODEL).train()
    net = DistributedDataParallel(model) if wrap else model
    no_sync = net.no_sync if isinstance(net, DistributedDataParallel) else nullcontext
    icl.icl_step(net, batch(start, stop), config.Loss(), 3, backward=torch.Tensor.backward, no_sync=no_sync)
    return [p.grad for p in model.parameters() if p.grad is not None]


def rank_main(rank: int, folder: str) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.save(gradients(True, 2 * rank, 2 * rank + 2), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_give_the_gradients_of_one_process(tmp_path: Path) -> None:
    start_processes(rank_main, (str(tmp_path),), nprocs=2, start_method="spawn")
    ranks = [torch.load(tmp_path / f"{r}.pt", weights_only=True) for r in range(2)]
    for a, b, whole in zip(*ranks, gradients(False, 0, 4), strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, whole, rtol=1e-3, atol=1e-6)
