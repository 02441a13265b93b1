"""A pool of inference actors on the cluster, which evaluations and sweeps over CFR settings send their units to."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

import ray
import torch
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError, WorkerCrashedError

from pipeline.config import Cfr, Eval
from pipeline.config.evaluation import EvaluationBase
from pipeline.data.manifest import read_group
from pipeline.data.readers import open_reader
from pipeline.data.schema import Row
from pipeline.data.shards import write_shards
from pipeline.engine.machine import usable_cpus
from pipeline.engine.preflight import check_everywhere, require
from pipeline.engine.progress import Progress
from pipeline.engine.watch import Pulse, watching
from pipeline.errors import UserError, user_error_in
from pipeline.evaluate.foreign import Foreign, Origin, PredictorInfo, find
from pipeline.evaluate.plan import DataSet, WorkUnit, open_dataset
from pipeline.evaluate.request import Checked, hold_shards
from pipeline.evaluate.results import write_table
from pipeline.evaluate.sources import SPLIT, Source
from pipeline.evaluate.units import evaluate_units
from pipeline.model.checkpoints import load_model
from pipeline.model.precision import set_float32
from pipeline.model.segmenter import ClickSegmenter

T = TypeVar("T")
RETRIES = 2  # a piece of work that kills its actor is tried three times, then the round fails
RESTARTS = 10  # for each actor; they may be lost with their machines some times
ROUNDS = 2  # rounds one after the other that bring nothing new, after which the job fails
LOST = (RayActorError, WorkerCrashedError, NodeDiedError, ObjectLostError, OutOfMemoryError)


SettingsAt = Callable[[int], Mapping[int, Cfr]]
"""The settings of an evaluation by number, at a data set's crop."""


@dataclass(frozen=True)
class Call:
    """What an actor does at a call: units of one crop, one part each.

    Attributes:
        parts: URI of each unit's part.
        settings: by number, see `results.OBJECTS`.
        strict: see `units.evaluate_units`.
    """

    units: Sequence[WorkUnit]
    parts: Mapping[str, str]
    settings: Mapping[int, Cfr]
    rules: Eval
    batch_size: int
    strict: bool


class InferenceActor:
    """Holds the model and the row group at hand."""

    def __init__(self, checkpoint: Origin, gpu: bool, actors_on_node: int, signs: Any) -> None:
        self.pulse = Pulse(signs, "an inference actor")
        self.checkpoint, self.device = checkpoint, "cuda" if gpu else "cpu"
        self.threads = max(1, usable_cpus() // actors_on_node)
        self.model: ClickSegmenter | Foreign | None = None
        self.group: tuple[tuple[str, str, int], list[Row]] | None = None

    def ready(self) -> bool:
        """Load the model. (Not in __init__: what it raises there comes as the death of the actor.)"""
        torch.set_num_threads(self.threads)
        set_float32(tf32=False)
        if isinstance(self.checkpoint, PredictorInfo):
            self.model, now = Foreign(self.checkpoint, self.pulse.move), find(self.checkpoint.uri)
        else:
            self.model, now = load_model(self.checkpoint.uri, self.device)
            self.model.register_forward_hook(self.pulse.move)
        if now.sha256 != self.checkpoint.sha256:
            raise UserError(f"{self.checkpoint.uri} was changed while it was being evaluated.")
        self.pulse.idle()
        return True

    def evaluate(self, call: Call) -> Iterator[str]:
        """Write the part of one unit after the other; gives their names."""
        assert self.model is not None, "ready() comes first"
        asked = (call.settings, call.rules, call.batch_size, self.device, self.threads, call.strict)
        try:
            for unit, part in evaluate_units(self.model, call.units, self.rows, *asked):
                write_table(call.parts[unit.name], part)
                yield unit.name
        finally:
            self.pulse.idle()

    def rows(self, unit: WorkUnit) -> list[Row]:
        """The unit's row group; units of one group follow one another, so the last one is kept."""
        print(f"evaluating {unit.name}", flush=True)  # the worker's log then names a unit that kills its actor
        self.pulse.at(f"evaluating {unit.name}")
        key = (unit.uri, unit.shard, unit.group)
        if self.group is None or self.group[0] != key:
            self.group = (key, read_group(unit.uri, unit.shard, unit.group))
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
    """List the objects of the data sets, once all machines see them; a raw folder becomes shards in the output.

    Raises:
        UserError: a machine that does not see a path, a damaged data set, too many bad rows.
    """
    files = [] if isinstance(checked.checkpoint, PredictorInfo) else [checked.checkpoint.uri]
    check_everywhere([*files, *(source.uri for source in checked.sources)], checked.out)
    datasets = [_prepared(source, checked.config) for source in checked.sources]
    hold_shards(checked.out, datasets)
    return datasets


def _prepared(source: Source, config: EvaluationBase) -> DataSet:
    if source.layout:
        split = SPLIT.get(source.layout, "")
        reader = open_reader(source.layout, source.uri, split)
        write_shards(reader, source.shards, split, name=source.name, max_bad_fraction=config.eval.max_bad_fraction)
    return open_dataset(source.name, source.shards, source.crop, config.limit)


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


class Settled(Protocol):
    """What a pool needs to know of a config: who works, and how many objects share a forward pass."""

    @property
    def eval(self) -> Eval: ...

    @property
    def batch(self) -> int: ...


class ActorPool:
    """Inference actors that stay, with their model, from one `run` to the next; a context manager ends them.

    An actor that is lost gives its units back, and another one is started in its place; it gets work once it is there,
    so that nothing waits for a machine which does not come back.
    """

    def __init__(self, config: Settled, checkpoint: Origin, actors: int) -> None:
        """`actors`: the most at once; the first `run` starts them."""
        self.config, self.checkpoint, self.most = config, checkpoint, actors
        self.idle: list[Any] = []
        self.signs: Any = None
        self._open = ExitStack()

    def __enter__(self) -> Self:
        self.signs = self._open.enter_context(watching(self.config.eval.hang_seconds))
        self._open.callback(self._end)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _end(self) -> None:
        for actor in self.idle:
            ray.kill(actor)

    def run(
        self,
        units: Sequence[WorkUnit],
        parts: Mapping[str, str],
        settings: SettingsAt,
        progress: Progress,
        strict: bool = False,
    ) -> None:
        """Evaluate units, each under all settings, and write their parts.

        Args:
            parts: URI of each unit's part by its name.
            progress: told of the objects of each unit as soon as its part is there.
            strict: see `units.evaluate_units`.

        Raises:
            One of LOST: some unit killed its actor again and again, or too many actors were lost.
        """
        config, actors = self.config, min(self.most, len(units))
        waiting, tries, lost = deque(units), Counter[str](), 0
        running: dict[Any, tuple[Any, dict[str, WorkUnit]]] = {}  # by what is promised: who makes it, of which units

        def begin() -> None:
            actor = self.idle.pop() if self.idle else self._new()
            running[actor.ready.remote()] = (actor, {})

        def send(actor: Any) -> None:
            some = next_call(waiting, tries, actors, config.batch)
            call = Call(some, parts, settings(some[0].crop), config.eval, config.batch, strict)
            promised = actor.evaluate.options(num_returns="streaming").remote(call)
            running[promised] = (actor, {unit.name: unit for unit in some})

        if actors > len(self.idle):
            print(f"starting {actors - len(self.idle)} inference actor(s), which load the model", flush=True)
        try:
            for _ in range(actors):
                begin()
            while waiting or any(left for _, left in running.values()):
                (promise, *_), _ = ray.wait(list(running), num_returns=1)
                actor, left = running.pop(promise)
                try:
                    if isinstance(promise, ray.ObjectRef):
                        ray.get(promise)
                    elif (part := next(promise, None)) is not None:
                        unit = left.pop(ray.get(part))
                        progress.update(len(unit.places), unit.dataset)
                        running[promise] = (actor, left)
                        continue
                except LOST as error:
                    lost += 1
                    tries.update(list(left))
                    waiting.extendleft(reversed(left.values()))
                    too_often = lost > RESTARTS * actors or max(tries.values(), default=0) > RETRIES
                    if too_often or user_error_in(error) is not None:
                        raise
                    begin()
                    continue
                if waiting:
                    send(actor)
                else:
                    self.idle.append(actor)
        except BaseException:
            for actor, _ in running.values():
                ray.kill(actor)
            raise
        self.idle += [actor for actor, _ in running.values()]

    def _new(self) -> Any:
        rules = self.config.eval
        nodes = max(1, sum(node["Alive"] for node in ray.nodes()))
        remote: Any = ray.remote(num_cpus=1, num_gpus=1 if rules.gpu else 0)(InferenceActor)
        return remote.remote(self.checkpoint, rules.gpu, math.ceil(self.most / nodes), self.signs)


def next_call(waiting: deque[WorkUnit], tries: Counter[str], actors: int, batch_size: int) -> list[WorkUnit]:
    """Take the units of a call: one at batch size 1, else many, as slots stand empty only at a call's end.

    Several actors take half of their share of what is left, so that they end together; at the least what fills the
    batch some times. A unit that is on its last try goes alone: what dies with it is known then.
    """
    if batch_size == 1:
        return [waiting.popleft()]
    left = sum(len(unit.places) for unit in waiting)
    most = max(left if actors == 1 else left // (2 * actors), 4 * batch_size)
    some = [waiting.popleft()]
    while waiting and tries[some[-1].name] < RETRIES and tries[waiting[0].name] < RETRIES:
        most -= len(some[-1].places)
        if most < len(waiting[0].places) or waiting[0].crop != some[0].crop:
            break
        some.append(waiting.popleft())
    return some
