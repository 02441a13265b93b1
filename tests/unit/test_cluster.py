"""What the machines of a cluster are used for."""

from __future__ import annotations

import pytest

from pipeline.config import Train
from pipeline.engine.capacity import Node, check_workers, growth, stream_cpus, stream_tasks
from pipeline.errors import UserError

LAPTOP = [Node(4)]
GPU_BOX = [Node(16, 1)]
MIXED = [Node(4), Node(48, 4), Node(48, 4), Node(32), Node(32)]


@pytest.mark.parametrize(
    ("nodes", "train", "world", "tasks"),
    [
        (LAPTOP, Train(), 1, 3),
        (LAPTOP, Train(workers=2), 2, 1),
        (LAPTOP, Train(cpus_per_worker=0.5, workers=2), 2, 1),
        (GPU_BOX, Train(gpu=True), 1, 15),
        (MIXED, Train(gpu=True, workers=8), 8, 8),  # 68 CPUs of machines without GPUs: they alone make samples
        ([Node(2), Node(96, 8)], Train(gpu=True, workers=8), 8, 11),  # 2 CPUs aside are too few: all free ones
        (MIXED, Train(workers=4, cpus_per_worker=1), 4, 40),
    ],
)
def test_stream_tasks_follow_the_shape(nodes: list[Node], train: Train, world: int, tasks: int) -> None:
    assert stream_tasks(nodes, train, world) == tasks
    assert stream_tasks(nodes, train, world, wanted=3) == 3


def test_gpu_machines_are_left_to_training_where_others_suffice() -> None:
    assert stream_cpus(MIXED, Train(gpu=True, workers=8), 8) == 4 + 32 + 32
    assert stream_cpus(MIXED, Train(gpu=True, workers=32), 32) == 164 - 32


def test_no_cpu_left_for_the_stream() -> None:
    with pytest.raises(UserError, match=r"2 training workers .* leave no CPU of the cluster's 4"):
        stream_tasks(LAPTOP, Train(workers=2, cpus_per_worker=2), 2)


@pytest.mark.parametrize(
    ("nodes", "train", "message"),
    [
        (LAPTOP, Train(workers=4), "asks for 5 CPUs, but the cluster has 4"),
        (GPU_BOX, Train(workers=2, gpu=True), "asks for 2 GPUs, but the cluster has 1"),
        ([Node(2), Node(2), Node(2)], Train(workers=1, cpus_per_worker=3), "room for 0"),
        ([Node(2), Node(2)], Train(workers=2, cpus_per_worker=1.5), "no machine has a whole CPU left"),
        ([Node(30), Node(1, 2)], Train(workers=2, gpu=True), "1 CPU and 1 GPU on one machine.*room for 1"),
    ],
)
def test_what_can_never_be_is_refused(nodes: list[Node], train: Train, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_workers(nodes, train, train.workers)


@pytest.mark.parametrize(
    ("nodes", "train"),
    [
        ([Node(3), Node(2)], Train(workers=2, cpus_per_worker=2)),
        (LAPTOP, Train(workers=2)),
        (MIXED, Train(workers=8, gpu=True)),
        (GPU_BOX, Train(gpu=True)),
    ],
)
def test_what_fits_is_not_refused(nodes: list[Node], train: Train) -> None:
    check_workers(nodes, train, train.workers)


def test_limit_of_an_autoscaling_cluster() -> None:
    assert growth("CPU=160,GPU=2") == Node(160, 2)
    assert growth("CPU=8") == Node(8)
    check_workers([growth("CPU=160,GPU=2")], Train(workers=2, gpu=True), 2)
    for text in ("8 machines", "GPU=2", "CPU=many", "CPU=1;GPU=2"):
        with pytest.raises(UserError, match="CFR_ICL_GROWS_TO"):
            growth(text)
