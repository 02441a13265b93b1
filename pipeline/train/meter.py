"""Means between two log lines of the training loop, over all ranks."""

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
        waited = torch.tensor([self.waited], dtype=torch.float64)
        sums = torch.cat([self.sums, waited])
        if self.world > 1:
            sums = sums.to(self.device)
            dist.all_reduce(sums)
        values = sums.tolist()
        seconds = time.monotonic() - self.start
        metrics = {"train/loss": values[-3] / values[-2]}
        for i in range(self.clicks):
            if values[2 * i + 1]:
                metrics[f"train/loss_click_{i + 1}"] = values[2 * i] / values[2 * i + 1]
        metrics["time/samples_per_s"] = values[-2] * self.run.train.micro_batch / seconds
        metrics["time/data_wait_share"] = values[-1] / self.world / seconds
        self.restart()
        return metrics
