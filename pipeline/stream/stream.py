"""Training batches from prepared shards: chunk plan -> decode -> augment -> SUEM -> clicks, in Ray Data tasks.

`samples.make_chunk` is the whole sample function without Ray; `batches` runs it in parallel, one task per slice of a
chunk, and hands out its samples in the order of the plan.
"""

from __future__ import annotations

import itertools
import logging
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import cv2
import numpy as np
import ray
import ray.data
from ray.data import ExecutionOptions, ExecutionResources
from ray.exceptions import RayTaskError
from ray.util.annotations import RayDeprecationWarning

from pipeline.config import TrainConfig
from pipeline.data.manifest import Manifest, read_group
from pipeline.engine.capacity import stream_tasks
from pipeline.engine.preflight import nodes
from pipeline.engine.watch import pulse_of_process
from pipeline.errors import UserError
from pipeline.stream import order
from pipeline.stream.samples import Batch, make_chunk

SEGMENT = 512  # Slices of one Ray dataset; short enough to start fast, long enough that starting costs nothing
PREFETCH = 2  # Blocks fetched ahead of the training step
TASK_RETRIES = 2  # Ray's default retries a task whose worker dies for ever
TURN_SECONDS = 0.02  # At least, from one turn of the engine's scheduling loop to the next
SETTLED = 2000  # Samples after which the share of bad ones is judged by samples too, not only by distinct images


@dataclass(frozen=True)
class Task:
    """What one Ray task makes: a slice of a chunk, and where its rows lie."""

    shard: str
    group: int
    slice: order.Slice


class SchedulerThrottle:
    """Called by the engine after each turn of its scheduling loop, which runs in the training process.

    While training is slower than the stream the loop has nothing to wait for, and turns as fast as it can: nearly a
    core of each training worker, and its interpreter lock (seen with Ray 2.60; benchmarks/results.md). A turn that
    waited for tasks is not followed by a pause.
    """

    def __init__(self) -> None:
        self._last = 0.0

    def before_execution_starts(self, executor: object) -> None: ...

    def on_execution_step(self, executor: object) -> None:
        time.sleep(max(0.0, self._last + TURN_SECONDS - time.monotonic()))
        self._last = time.monotonic()

    def after_execution_succeeds(self, executor: object) -> None: ...

    def after_execution_fails(self, executor: object, error: Exception) -> None: ...


def make_block(batch: Batch, tasks: Sequence[Task], config: TrainConfig, signs: Any) -> Batch:
    """The Ray Data map function: `batch["item"]` holds the number of one task."""
    cv2.setNumThreads(1)  # The engine runs one task per CPU; OpenCV's own threads would only fight for them
    task = tasks[int(batch["item"][0])]
    pulse = pulse_of_process(signs, "an augmentation worker")
    pulse.at(f"reading row group {task.group} of {task.shard}")
    try:
        rows = read_group(config.data.train, task.shard, task.group)
        pulse.at(f"making samples {task.slice.start} to {task.slice.stop} of chunk {task.slice.chunk}")
        return make_chunk(rows, config, task.slice.chunk, task.slice.start, task.slice.stop)
    finally:
        pulse.idle()


def _blocks(tasks: Sequence[Task], config: TrainConfig, world: int, signs: Any) -> Iterator[Batch]:
    """The blocks of some tasks, in their order."""
    # from_items and not range: range would run all its read tasks, one per block, before the first map task.
    tasks_at_once = stream_tasks(nodes(), config.train, world, config.data.workers)
    dataset = ray.data.from_items(list(range(len(tasks))), override_num_blocks=len(tasks))
    context = dataset.context
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True
    context.custom_execution_callback_classes = [cast(Any, SchedulerThrottle)]  # its base class is internal
    store = ray.cluster_resources().get("object_store_memory", 0.0) / (2 * world)
    context.execution_options = ExecutionOptions(
        preserve_order=True,
        resource_limits=ExecutionResources.for_limits(cpu=tasks_at_once, object_store_memory=store or None),
    )
    with warnings.catch_warnings():
        # "Use named parameters instead": this Ray has none for retries.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        blocks = dataset.map_batches(
            cast(Any, make_block),  # Ray's type of a map function has no further arguments
            batch_size=None,
            batch_format="numpy",
            fn_kwargs={"tasks": tasks, "config": config, "signs": signs},
            max_retries=TASK_RETRIES,
        )
    try:
        made = blocks.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=PREFETCH)
        yield from cast(Iterable[Batch], made)
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise


def rebatch(blocks: Iterable[Batch], size: int, count: int) -> Iterator[Batch]:
    """`count` batches of `size` samples from blocks of any sizes, in order; views where a batch lies in one block."""
    pending: list[Batch] = []
    have = 0
    for block in blocks:
        length = len(block["image"])
        at = 0
        while at < length and count:
            take = min(size - have, length - at)
            pending.append({name: column[at : at + take] for name, column in block.items()})
            at, have = at + take, have + take
            if have == size:
                whole = len(pending) == 1
                yield pending[0] if whole else {k: np.concatenate([p[k] for p in pending]) for k in block}
                pending, have, count = [], 0, count - 1
        if not count:
            return


class BadImages:
    """Counts the images that could not be decoded, and stops the job when they are too many."""

    def __init__(self, rows: int, fraction: float) -> None:
        """Args: rows of the data set, largest share of bad ones."""
        self._rows, self._fraction = rows, fraction
        self._names: set[str] = set()
        self._bad = self._seen = 0

    def add(self, batch: Batch) -> None:
        """Count a batch.

        Raises:
            UserError: more than `fraction` of the data set's images, or of many samples seen, are bad.
        """
        names = [str(name) for name in batch["bad"] if name]
        self._names.update(names)
        self._bad += len(names)
        self._seen += len(batch["bad"])
        many_images = len(self._names) > self._fraction * self._rows
        many_samples = self._seen >= SETTLED and self._bad > self._fraction * self._seen
        if names and (many_images or many_samples):
            listed = ", ".join(sorted(self._names)[:10])
            raise UserError(
                f"{len(self._names)} images of the training set cannot be decoded (data.max_bad_fraction is "
                f"{self._fraction:g} of {self._rows}): {listed}{', ...' if len(self._names) > 10 else ''}"
            )


def batches(
    config: TrainConfig,
    manifest: Manifest,
    position: order.Position,
    rank: int,
    world: int,
    steps: int,
    signs: Any = None,
) -> Iterator[Batch]:
    """The training batches of rank `rank` of `world`, from a position on; runs in a training worker or any driver.

    Args:
        config: `data.train` is an absolute URI.
        manifest: of `data.train`.
        position: what all ranks have consumed; `order.advance` gives the next one.
        steps: optimizer steps.
        signs: who watches the tasks, see `watch.watching`; None: nobody.

    Yields:
        steps * train.accumulate batches of train.micro_batch(world) samples with the columns of `make_chunk`. Arrays
        may be read-only views into the object store.

    Raises:
        UserError: too many images do not decode; a corrupt shard; no CPU left for the stream.
    """
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    plan = order.Plan([s.row_groups for s in manifest.shards], [s.weights for s in manifest.shards], config.seed)
    count, size = steps * config.train.accumulate, config.train.micro_batch(world)
    slices = order.rank_slices(position, rank, world, config.data.chunk)
    counted = BadImages(manifest.rows, config.data.max_bad_fraction)
    for batch in rebatch(_segments(plan, manifest, slices, count * size, config, world, signs), size, count):
        counted.add(batch)
        yield batch


def _segments(
    plan: order.Plan,
    manifest: Manifest,
    slices: Iterator[order.Slice],
    samples: int,
    config: TrainConfig,
    world: int,
    signs: Any,
) -> Iterator[Batch]:
    """Blocks that hold `samples` samples, from one Ray dataset after another."""

    def task(part: order.Slice) -> Task:
        chunk = plan[part.chunk]
        return Task(manifest.shards[chunk.shard].path, chunk.group, part)

    while samples > 0:
        tasks: list[Task] = []
        for part in itertools.islice(slices, SEGMENT):
            needed = replace(part, stop=min(part.stop, part.start + samples))
            tasks.append(task(needed))
            samples -= len(needed)
            if samples == 0:
                break
        yield from _blocks(tasks, config, world, signs)
