"""How far the engine goes: null samples for 1 to 32 ranks on one machine, fed in three ways at one total rate.

    python -m benchmarks.engine [--ranks 1 2 4 8 16 32] [--ways own split feeder] [--seconds 15]

A null sample costs nothing to make: its task sleeps and returns a block of one batch. Ranks are processes that take a
batch, then wait as a training step would; all ranks together take RATE batches a second, however many they are.

own: each rank has a streaming executor of its own (what training does). split: one executor, the engine's
streaming_split. feeder: one executor in a process of its own, which deals block i to rank i mod ranks.

Cores are the CPU seconds a second of all processes of the engine, ranks and tasks among them: while the ranks take
nothing and all that is made ahead is made, and while they work.
`slow`: in a second run rank 0 takes four times as long; of the batches that the other ranks asked for, those they got.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import ray
import ray.data

from benchmarks.stream import commit, processor
from pipeline.engine.processes import descendants
from pipeline.stream.stream import SchedulerThrottle

RATE = 8.0  # batches a second that all ranks take together
BATCH = 32
SIDE = 128  # pixels; a batch is 1.6 MB
TASK_SECONDS = 0.25
TASKS = 8  # that run at once, over all ranks: four times what the rate needs
LOGICAL_CPUS = 64  # sleeping tasks need no core
SLOWER = 4


def busy() -> float:
    """CPU seconds that the engine's processes that still live have used."""
    ticks = 0
    for process, _ in descendants(os.getpid()):
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def null_block(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A block of one batch for one row of input."""
    time.sleep(TASK_SECONDS)
    return {"image": np.zeros((BATCH, SIDE, SIDE, 3), np.uint8)}


def blocks(count: int, tasks: int) -> ray.data.Dataset:
    """A dataset of `count` null blocks, made in order by `tasks` tasks at once, as the stream does."""
    dataset = ray.data.from_items(list(range(count)), override_num_blocks=count)
    context: Any = dataset.context
    context.enable_progress_bars = context.print_on_execution_start = False
    context.custom_execution_callback_classes = [SchedulerThrottle]
    limits = ray.data.ExecutionResources.for_limits(cpu=tasks)
    context.execution_options = ray.data.ExecutionOptions(preserve_order=True, resource_limits=limits)
    return dataset.map_batches(cast(Any, null_block), batch_size=None, batch_format="numpy")


class Feeder:
    """One executor whose blocks go to `ranks` ranks in turn, two ahead for each."""

    def __init__(self, count: int, ranks: int) -> None:
        self._queues: list[queue.Queue[np.ndarray | None]] = [queue.Queue(2) for _ in range(ranks)]
        threading.Thread(target=self._deal, args=(count,), daemon=True).start()

    def _deal(self, count: int) -> None:
        for i, block in enumerate(_plain(blocks(count, TASKS))):
            self._queues[i % len(self._queues)].put(block["image"])
        for waiting in self._queues:
            waiting.put(None)

    def next(self, rank: int) -> np.ndarray | None:
        return self._queues[rank].get()


def _plain(dataset: Any) -> Iterator[dict[str, np.ndarray]]:
    return iter(dataset.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=2))


class Rank:
    """Takes batches at its pace and keeps the seconds it waited for each."""

    def prepare(self, source: Any, rank: int, count: int, tasks: int, period: float) -> None:
        """Args: an iterator of split, a Feeder, or None (own); blocks in all; tasks at once; seconds of a step."""
        self._period = period
        if source is None:
            self._batches = _plain(blocks(count, tasks))
        elif isinstance(source, ray.data.DataIterator):
            self._batches = _plain(source)
        else:
            self._batches = iter(lambda: ray.get(source.next.remote(rank)), None)

    def first(self) -> float:
        """Seconds until the first batch."""
        start = time.monotonic()
        next(self._batches)
        return time.monotonic() - start

    def take(self, seconds: float) -> list[float]:
        """Take batches for `seconds`; returns the waits."""
        waits: list[float] = []
        begin = due = time.monotonic()
        while time.monotonic() - begin < seconds:
            start = time.monotonic()
            if next(self._batches, None) is None:
                break
            waits.append(time.monotonic() - start)
            due = max(due + self._period, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))
        return waits


def remote(kind: type) -> Any:
    """A class of actors that take none of the logical CPUs."""
    return ray.remote(num_cpus=0)(kind)


def run(way: str, ranks: int, seconds: float, slow: bool) -> tuple[float, float, float, float, float, float]:
    """(cores at rest, at work, median wait ms, p99 wait ms, seconds to the first batch of all, share ranks > 0 got)."""
    count = int(RATE * (seconds + 30) * 4) // ranks + 16
    actors = [remote(Rank).remote() for _ in range(ranks)]
    sources: list[Any] = [None] * ranks
    if way == "split":
        sources = list(blocks(count * ranks, TASKS).streaming_split(ranks, equal=False))
    elif way == "feeder":
        sources = [remote(Feeder).options(max_concurrency=ranks + 1).remote(count * ranks, ranks)] * ranks
    periods = [ranks / RATE * (SLOWER if slow and rank == 0 else 1) for rank in range(ranks)]
    tasks = max(1, TASKS // ranks)
    ready = [a.prepare.remote(sources[i], i, count, tasks, periods[i]) for i, a in enumerate(actors)]
    ray.get(ready)
    first = max(ray.get([a.first.remote() for a in actors]))
    time.sleep(5)  # all that is made ahead is made; processes have started
    used, start = busy(), time.monotonic()
    time.sleep(seconds / 3)
    rest = (busy() - used) / (time.monotonic() - start)
    used, start = busy(), time.monotonic()
    waits = ray.get([a.take.remote(seconds) for a in actors])
    work = (busy() - used) / (time.monotonic() - start)
    for actor in [*actors, *(sources[:1] if way == "feeder" else [])]:
        ray.kill(actor)
    every = np.array([wait for found in waits for wait in found])
    asked = seconds / periods[-1]
    got = np.mean([len(found) / asked for found in waits[1:]]) if ranks > 1 else 1.0
    p50, p99 = np.percentile(every, (50, 99))
    return rest, work, 1e3 * p50, 1e3 * p99, first, float(min(1.0, got))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--ways", nargs="+", default=["own", "split", "feeder"], choices=["own", "split", "feeder"])
    parser.add_argument("--seconds", type=float, default=15.0)
    options = parser.parse_args()
    print(f"{processor()}, {os.cpu_count()} cores; Python {platform.python_version()}, Ray {ray.__version__}; ", end="")
    print(f"commit {commit()}\n{RATE:g} batches of {BATCH} samples a second in all\n")
    print("| way | ranks | cores at rest | at work | wait p50, ms | p99 | first batch, s | slow: others got |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    for way in options.ways:
        for ranks in options.ranks:
            found = []
            for slow in (False, True)[: 2 if ranks > 1 else 1]:
                ray.init(
                    num_cpus=LOGICAL_CPUS, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
                )
                try:
                    found.append(run(way, ranks, options.seconds, slow))
                finally:
                    ray.shutdown()
            rest, work, p50, p99, first, _ = found[0]
            others = f"{found[1][-1]:.0%}" if ranks > 1 else "-"
            print(
                f"| {way} | {ranks} | {rest:.2f} | {work:.2f} | {p50:.1f} | {p99:.1f} | {first:.1f} | {others} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
