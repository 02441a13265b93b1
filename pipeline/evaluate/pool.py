"""A pool of inference actors on the cluster: what evaluations and sweeps over CFR settings have in common."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import ray
import torch
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError, WorkerCrashedError

from pipeline.config import Eval
from pipeline.data.manifest import read_group
from pipeline.data.readers import open_reader
from pipeline.data.schema import Row
from pipeline.data.shards import write_shards
from pipeline.engine.machine import usable_cpus
from pipeline.engine.preflight import check_everywhere, require
from pipeline.engine.progress import Progress
from pipeline.engine.watch import Pulse, watching
from pipeline.errors import UserError, user_error_in
from pipeline.evaluate.plan import Chunk, DataSet, open_dataset
from pipeline.evaluate.request import Checked, Request, hold_shards
from pipeline.evaluate.sources import SPLIT, Source
from pipeline.model.checkpoints import load_model
from pipeline.model.precision import set_float32

T = TypeVar("T")

RETRIES = 2  # a piece of work that kills its actor is tried three times, then the round fails
RESTARTS = 10  # for each actor; they may be lost with their machines some times
ROUNDS = 2  # rounds one after the other that bring nothing new, after which the job fails
LOST = (RayActorError, WorkerCrashedError, NodeDiedError, ObjectLostError, OutOfMemoryError)


class InferenceActor(ABC):
    """Holds the model and the row group at hand; what it does with them is its `__call__`."""

    def __init__(self, uri: str, sha256: str, gpu: bool, actors_on_node: int, signs: Any) -> None:
        self.pulse = Pulse(signs, "an inference actor")
        self.device = "cuda" if gpu else "cpu"
        self.threads = max(1, usable_cpus() // actors_on_node)
        torch.set_num_threads(self.threads)
        set_float32(tf32=False)
        self.model, info = load_model(uri, self.device)
        if info.sha256 != sha256:
            raise UserError(f"{uri} was changed while it was being evaluated.")
        self.model.register_forward_hook(self.pulse.move)
        self.group: tuple[tuple[str, str, int], list[Row]] | None = None
        self.pulse.idle()

    def ready(self) -> bool:
        """Answers once the model is there."""
        return True

    def __call__(self, work: dict[str, Any]) -> dict[str, Any]:
        try:
            return self.work(work)
        finally:
            self.pulse.idle()

    @abstractmethod
    def work(self, work: dict[str, Any]) -> dict[str, Any]:
        """Carry out one piece of work; returns {"name": ..., "objects": number}."""

    def rows(self, chunk: Chunk) -> list[Row]:
        """The chunk's row group; chunks of one group follow one another, so the last one is kept."""
        print(f"evaluating {chunk.name}", flush=True)  # the worker's log then names a chunk that kills its actor
        self.pulse.at(f"evaluating {chunk.name}")
        key = (chunk.uri, chunk.shard, chunk.group)
        if self.group is None or self.group[0] != key:
            self.group = (key, read_group(chunk.uri, chunk.shard, chunk.group))
        return self.group[1]


def actors_for(rules: Eval, what: str) -> int:
    """The number of actors, once it is certain that the cluster can hold them.

    Raises:
        UserError: it cannot.
    """
    free = ray.available_resources()
    wanted = rules.actors or (int(free.get("GPU", 0)) if rules.gpu else int(free.get("CPU", 0)) // 2) or 1
    require(wanted, wanted if rules.gpu else 0, f"{what} with {wanted} actors")
    return wanted


def prepared(checked: Checked) -> list[DataSet]:
    """List the objects of a request's data sets, once all machines see them; a raw folder becomes shards in the output.

    Raises:
        UserError: a machine that does not see a path, a damaged data set, too many bad rows.
    """
    check_everywhere([checked.checkpoint.uri, *(source.uri for source in checked.sources)], checked.out)
    datasets = [_prepared(source, checked.request) for source in checked.sources]
    hold_shards(checked.out, datasets)
    return datasets


def _prepared(source: Source, request: Request) -> DataSet:
    if source.layout:
        split = SPLIT.get(source.layout, "")
        reader = open_reader(source.layout, source.uri, split)
        write_shards(reader, source.shards, split, name=source.name, max_bad_fraction=request.rules.max_bad_fraction)
    return open_dataset(source.name, source.shards, source.crop, request.limit)


def in_rounds(missing: Callable[[], list[T]], run: Callable[[list[T]], None]) -> None:
    """Carry out work until nothing is missing, through the loss of actors and machines.

    The engine's own retries are few, as it cannot tell work that kills its actor from a machine that goes away: when
    machines are lost one after the other, a round may fail. The next one does what is missing then.

    Args:
        missing: the work whose results are not on storage.
        run: carries it out.

    Raises:
        UserError: what made an actor fail to start.
        One of LOST: `ROUNDS` rounds brought nothing new.
    """
    without_progress = 0
    left = missing()
    while left:
        try:
            run(left)
            return
        except LOST as error:
            if (mistake := user_error_in(error)) is not None:
                raise mistake from error
            before, left = len(left), missing()
            without_progress = without_progress + 1 if len(left) == before else 0
            if without_progress == ROUNDS:
                raise
            print(f"lost a process or a machine ({type(error).__name__}); the rest goes on", flush=True)


def through_actors(
    kind: type[InferenceActor],
    arguments: Sequence[Any],
    todo: Sequence[dict[str, Any]],
    checked: Checked,
    actors: int,
    progress: Progress,
) -> None:
    """Carry out work in a pool of actors.

    An actor that is lost gives its work back, and another one is started in its place; it gets work once it is there,
    so that nothing waits for a machine which does not come back.

    Args:
        kind: its `work` takes one of `todo`; its constructor takes what `InferenceActor`'s does, then `arguments`.
        actors: the most at once.
        progress: told of the objects of each call as soon as it is done.

    Raises:
        One of LOST: some work killed its actor again and again, or too many actors were lost.
    """
    rules, model = checked.request.rules, checked.checkpoint
    actors = min(actors, len(todo))
    nodes = max(1, sum(node["Alive"] for node in ray.nodes()))
    remote: Any = ray.remote(num_cpus=1, num_gpus=1 if rules.gpu else 0)(kind)
    waiting, tries, lost = deque(todo), Counter[int](), 0
    running: dict[Any, tuple[Any, dict[str, Any] | None]] = {}  # by the promise of a result: who makes it, from what

    print(f"starting {actors} inference actor(s), which load the model", flush=True)
    with watching(rules.hang_seconds) as signs:
        shape = (model.uri, model.sha256, rules.gpu, math.ceil(actors / nodes), signs)

        def begin() -> None:
            actor = remote.remote(*shape, *arguments)
            running[actor.ready.remote()] = (actor, None)

        try:
            for _ in range(actors):
                begin()
            while waiting or any(work is not None for _, work in running.values()):
                (promise, *_), _ = ray.wait(list(running), num_returns=1)
                actor, work = running.pop(promise)
                try:
                    result = ray.get(promise)
                except LOST as error:
                    lost += 1
                    if work is not None:
                        tries[id(work)] += 1
                        waiting.appendleft(work)
                    too_often = lost > RESTARTS * actors or max(tries.values(), default=0) > RETRIES
                    if too_often or user_error_in(error) is not None:
                        raise
                    begin()
                    continue
                if waiting:
                    more = waiting.popleft()
                    running[actor.__call__.remote(more)] = (actor, more)
                if work is not None:
                    progress.update(int(result["objects"]), result["name"])
        finally:
            for actor, _ in running.values():
                ray.kill(actor)
