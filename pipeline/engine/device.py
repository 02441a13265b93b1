"""Which device the work of a job runs on: what is asked for, or GPUs where the cluster has free ones."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Literal, TypeVar

import ray

from pipeline.config import TrainConfig
from pipeline.config import io as config_io
from pipeline.config.evaluation import EvaluationBase
from pipeline.engine.machine import usable_cpus
from pipeline.errors import UserError

E = TypeVar("E", bound=EvaluationBase)
Device = Literal["auto", "cpu", "gpu"]


def free_gpus() -> int:
    return int(ray.available_resources().get("GPU", 0.0))


def takes_gpu(device: Device, gpu: bool, free: int) -> bool:
    """Whether work goes to GPUs.

    Args:
        device: what is asked for.
        gpu: the older spelling of device "gpu".
        free: GPUs of the cluster that nobody uses.

    Raises:
        UserError: both are given, and contradict each other.
    """
    if gpu and device == "cpu":
        raise UserError("device cpu and gpu are asked for at once: leave one of them out.")
    return gpu or device == "gpu" or (device == "auto" and free > 0)


def workers_for(train_workers: int, batch: int, accumulate: int, free: int) -> int:
    """Training workers that fill the GPUs: as many as divide the batch, where no number was asked for (1)."""
    if train_workers > 1:
        return train_workers
    return max((n for n in range(1, free + 1) if batch % (n * accumulate) == 0), default=1)


def training_on_device(run: TrainConfig) -> TrainConfig:
    """A training config with device and workers decided by the connected cluster; a line says what is used."""
    train, free = run.train, free_gpus()
    gpu = takes_gpu(train.device, train.gpu, free)
    workers = train.workers
    if gpu and train.device == "auto" and not train.min_workers:
        workers = workers_for(workers, train.batch, train.accumulate, free)
    unit = "GPU" if gpu else "CPU"
    print(f"device: {unit}, {workers} training worker{'s' * (workers > 1)} ({free} GPUs are free)", flush=True)
    return config_io.replace(run, **{"train.gpu": gpu, "train.workers": workers})


def evaluating_on_device(config: E) -> E:
    """An evaluation's options with the device decided by the connected cluster; a line says what is used."""
    return replace(config, eval=replace(config.eval, gpu=on_gpu(config.eval.device, config.eval.gpu)))


def on_gpu(device: Device, gpu: bool) -> bool:
    """`takes_gpu` on the connected cluster; a line says what is used."""
    free = free_gpus()
    found = takes_gpu(device, gpu, free)
    print(f"device: {'GPU' if found else 'CPU'} ({free} GPUs are free)", flush=True)
    return found


def cluster_tflops(device: str) -> tuple[float, str]:
    """TFLOP/s of float32 matrix products of all GPUs of the cluster, or of its CPUs, and what they are.

    Measured in half a second on one GPU, or on this machine's CPUs; the others are taken to be alike.

    Args:
        device: auto, cpu or gpu, as the option.
    """
    has = ray.cluster_resources()
    gpus = 0 if device == "cpu" else int(has.get("GPU", 0))
    if gpus:
        return gpus * ray.get(ray.remote(num_gpus=1)(_tflops).remote("cuda")), f"{gpus} GPU(s)"
    here = usable_cpus()
    # One machine may have more logical CPUs than cores (`connect`).
    cpus = max(here, int(has.get("CPU", 1))) if len(ray.nodes()) > 1 else here
    return _tflops("cpu") * cpus / here, f"{cpus} CPUs"


def _tflops(device: str) -> float:
    import torch

    side = 4096 if device == "cuda" else 1024
    factor = torch.ones(side, side, device=device)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < 0.5:
        (factor @ factor)[0, 0].item()  # the value is there when the product is
        count += 1
    return count * 2 * side**3 / (time.perf_counter() - start) / 1e12
