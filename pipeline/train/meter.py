"""Means between two log lines of the training loop, over all ranks; the wait for data of each rank."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist

from pipeline import config
from pipeline.train.icl import StepResult

T = TypeVar("T")


class Meter:
    """Sums losses, samples and the time spent waiting for data; `flush` gives the means and starts again."""

    def __init__(self, run: config.TrainConfig, device: torch.device, world: int) -> None:
        self.run, self.device, self.world = run, device, world
        self.clicks = len(run.loss.weights) if run.loss.mode == "icl" else 1
        self.restart()

    def restart(self) -> None:
        self.sums = torch.zeros(2 * self.clicks + 2, dtype=torch.float64)
        self.start, self.waited = time.monotonic(), 0.0

    def wait(self, get: Callable[[], T]) -> T:
        begin = time.monotonic()
        got = get()
        self.waited += time.monotonic() - begin
        return got

    def add(self, result: StepResult) -> None:
        for i, value in enumerate(result.losses):
            self.sums[2 * i : 2 * i + 2] += torch.tensor([value, 1.0])
        self.sums[-2:] += torch.tensor([result.total, 1.0])

    def flush(self) -> dict[str, float]:
        """Means since the last flush; every rank must call.

        Returns:
            train/loss and train/loss_click_I; time/samples_per_s of all ranks together; time/data_wait_share, the share
            of the time spent waiting for data: the mean and, of several ranks, _max and _rank_R of each.
        """
        seconds = time.monotonic() - self.start
        mine = torch.cat([self.sums, torch.tensor([self.waited / seconds], dtype=torch.float64)])
        rows = [mine]
        if self.world > 1:
            mine = mine.to(self.device)
            rows = [torch.empty_like(mine) for _ in range(self.world)]
            dist.all_gather(rows, mine)
        every = torch.stack(rows).cpu()
        values, shares = every[:, :-1].sum(0).tolist(), every[:, -1].tolist()
        metrics = {"train/loss": values[-2] / values[-1]}
        for i in range(self.clicks):
            if values[2 * i + 1]:
                metrics[f"train/loss_click_{i + 1}"] = values[2 * i] / values[2 * i + 1]
        metrics["time/samples_per_s"] = values[-1] * self.run.train.micro_batch(self.world) / seconds
        metrics["time/data_wait_share"] = sum(shares) / self.world
        if self.world > 1:
            metrics["time/data_wait_share_max"] = max(shares)
            metrics |= {f"time/data_wait_share_rank_{rank}": value for rank, value in enumerate(shares)}
        self.restart()
        return metrics
