"""Which device work goes to, by what is asked for and what is free."""

from __future__ import annotations

import dataclasses

import pytest

from pipeline import config
from pipeline.config.evaluation import GPU_BATCH, EvaluateConfig
from pipeline.engine import device
from pipeline.engine.device import (
    evaluating_on_device,
    takes_gpu,
    training_on_device,
    workers_for,
)
from pipeline.errors import UserError


@pytest.mark.parametrize(
    ("asked", "gpu", "free", "taken"),
    [
        ("auto", False, 0, False),
        ("auto", False, 2, True),
        ("cpu", False, 2, False),
        ("gpu", False, 0, True),  # the cluster may grow, or refuses by name
        ("auto", True, 0, True),
        ("gpu", True, 1, True),
    ],
)
def test_what_is_taken(asked: device.Device, gpu: bool, free: int, taken: bool) -> None:
    assert takes_gpu(asked, gpu, free) is taken


def test_a_contradiction_is_refused() -> None:
    with pytest.raises(UserError, match="at once"):
        takes_gpu("cpu", True, 1)


@pytest.mark.parametrize(
    ("workers", "batch", "accumulate", "free", "expected"),
    [(1, 32, 1, 0, 1), (1, 32, 1, 4, 4), (1, 32, 1, 3, 2), (1, 30, 1, 8, 6), (2, 32, 1, 8, 2), (1, 32, 4, 16, 8)],
)
def test_workers_fill_the_gpus(workers: int, batch: int, accumulate: int, free: int, expected: int) -> None:
    assert workers_for(workers, batch, accumulate, free) == expected


def test_configs_are_decided_and_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(device, "free_gpus", lambda: 2)
    run = training_on_device(config.TrainConfig())
    assert run.train.gpu and run.train.workers == 2
    assert "device: GPU, 2 training workers (2 GPUs are free)" in capsys.readouterr().out
    asked = EvaluateConfig(checkpoint="c", data=("a=b",), out="o")
    on_gpu = evaluating_on_device(asked)
    assert on_gpu.eval.gpu and on_gpu.batch == GPU_BATCH
    on_cpu = evaluating_on_device(dataclasses.replace(asked, eval=config.Eval(device="cpu")))
    assert not on_cpu.eval.gpu and on_cpu.batch == 1
    for name in ("gpu", "cpu"):
        given = dataclasses.replace(asked, batch_size=8, eval=config.Eval(device=name))
        assert evaluating_on_device(given).batch == 8
    monkeypatch.setattr(device, "free_gpus", lambda: 0)
    run = training_on_device(config.TrainConfig())
    assert not run.train.gpu and run.train.workers == 1
