"""Checkpoints written beside training: copied at a step, written by a thread, and counted once all files are there.

With DDP worker 0 writes everything; with FSDP every worker writes its share and worker 0 publishes when the workers
have agreed that all are done. All methods must be called by all workers at the same steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch.distributed as dist

from pipeline import config
from pipeline.train.parallel import is_cut
from pipeline.train.state import Snapshot, TrainState, prune, publish, take_snapshot, write_parts


class Checkpointer:
    """Writes a run's checkpoints, one after the other.

    Attributes:
        busy: this worker's files of the checkpoint on its way are not all written.
        written: seconds that the last write took on this worker.
    """

    def __init__(
        self,
        run: config.TrainConfig,
        rank: int,
        world: int,
        restored: int | None = None,
        before: Callable[[int], None] = lambda step: None,
        after: Callable[[int, str], None] = lambda step, uri: None,
    ) -> None:
        """Args: step of the checkpoint that the run goes on from; functions that worker 0's thread calls before a
        checkpoint counts (with its step), and after (step, URI).
        """
        self._run, self._rank, self._world = run, rank, world
        self._before, self._after = before, after
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._snapshot: Snapshot | None = None  # on its way: files not yet known to be complete everywhere
        self._writing: Future[dict[str, Any]] | None = None
        self._publishing: Future[None] | None = None
        self._last = restored
        self.written = 0.0

    def begin(self, state: TrainState) -> None:
        """Take a checkpoint of this step, unless the last one was; waits for the one before it.

        Raises:
            UserError, StorageUnavailable: the one before it could not be written.
        """
        self.finish()
        if state.step == self._last:
            return
        self._last = state.step
        writers = self._world if is_cut(state.model) else 1
        snapshot = take_snapshot(state, self._run, writers, writes=self._rank < writers)
        self._snapshot = snapshot
        if self._rank < writers:
            self._writing = self._thread.submit(self._write, snapshot)
        if writers == 1:  # nobody else to wait for
            self._snapshot = None

    @property
    def busy(self) -> bool:
        return self._writing is not None and not self._writing.done()

    @property
    def waits_for_others(self) -> bool:
        """Whether the workers must agree (`busy` nowhere) and call `publish_together` for the checkpoint to count."""
        return self._snapshot is not None

    def publish_together(self) -> None:
        """All workers have written their files: let the checkpoint count."""
        snapshot, self._snapshot = self._snapshot, None
        assert snapshot is not None
        assert self._writing is not None
        files: list[Any] = [None] * self._world
        dist.all_gather_object(files, self._writing.result())
        if self._rank == 0:
            merged = {name: about for part in files for name, about in part.items()}
            self._publishing = self._thread.submit(self._publish, snapshot, merged)

    def check(self) -> None:
        """Raise what a finished write failed with."""
        for future in (self._writing, self._publishing):
            if future is not None and future.done():
                future.result()

    def finish(self) -> None:
        """Wait until the checkpoint on its way counts."""
        if self._writing is not None:
            self._writing.result()
        if self.waits_for_others:
            self.publish_together()
        if self._publishing is not None:
            self._publishing.result()

    def _write(self, snapshot: Snapshot) -> dict[str, Any]:
        start = time.monotonic()
        files = write_parts(snapshot, self._rank)
        self.written = time.monotonic() - start
        if snapshot.described["writers"] == 1:
            self._publish(snapshot, files)
        return files

    def _publish(self, snapshot: Snapshot, files: dict[str, Any]) -> None:
        self._before(snapshot.step)
        publish(snapshot, files)
        prune(self._run.out, self._run.train.keep)
        self._after(snapshot.step, snapshot.uri)
