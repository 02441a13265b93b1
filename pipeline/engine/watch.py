"""Processes that hang without dying: each gives signs of life, and the driver ends one that stops giving them.

The engine notices a process that dies. One that is stopped (SIGSTOP, a machine out of memory), waits for a dead network
mount or is cut off is waited for: without end by tasks and actors, for an hour by a collective call. Here every watched
process has a `Pulse`, whose thread tells `Signs`, an actor beside the driver, what the process does; `watching` looks
there and kills what is silent or stands still, after which the engine starts it again as after any loss.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.engine.processes import kill, started_at

BEAT_SECONDS = 5.0  # between two signs of a process, and between two looks at them
QUIET_SECONDS = 30.0  # with the same thing being done, after which it is told what that is
SILENT_SECONDS = 60.0  # without a sign, after which a process counts as stopped or cut off
STILL_SECONDS = 600.0  # default: with signs, but the same thing being done
TRIES = 4  # of killing one process
KILL_SECONDS = 30.0  # that killing may take; then the process's machine does not answer either

IDLE = ""


@dataclass(frozen=True)
class Sign:
    """What a process does at the moment.

    Attributes:
        who: for messages: "rank 1 of training".
        group: processes that wait for one another; "": it waits for nobody.
        doing: for messages: "computing step 7"; IDLE: nothing, and may go on doing so.
        waiting: for what others make, so that standing still is told and not ended.
        milestone: number of things begun, comparable inside the group.
        moves: grows with whatever is done.
        node: the engine's id of its machine.
        started: `started_at`, which tells it from a later process of the same number.
    """

    who: str
    group: str
    doing: str
    waiting: bool
    milestone: int
    moves: int
    node: str
    host: str
    pid: int
    started: int

    @property
    def process(self) -> tuple[str, int, int]:
        return self.node, self.pid, self.started


@dataclass(frozen=True)
class Hung:
    """A process that gives no sign, or (`answers`) has done the same thing for so many seconds."""

    sign: Sign
    seconds: float
    answers: bool

    @property
    def text(self) -> str:
        s = self.sign
        seen = "has not moved on" if self.answers else "has given no sign of life"
        return f"{s.who} (process {s.pid} on {s.host}) {seen} for {self.seconds:.0f} s; last it was {s.doing or 'idle'}"


@dataclass
class _Heard:
    sign: Sign
    at: float
    moved: float
    told: float = 0.0


class Signs:
    """The last sign of every process. An actor; its clock is the only one that counts."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._heard: dict[tuple[str, int, int], _Heard] = {}
        self._looked = clock()

    def tell(self, sign: Sign) -> None:
        now, last = self._clock(), self._heard.get(sign.process)
        moved = now if last is None or last.sign.moves != sign.moves else last.moved
        self._heard[sign.process] = _Heard(sign, now, moved, last.told if last and moved == last.moved else 0.0)

    def forget(self, process: tuple[str, int, int]) -> None:
        self._heard.pop(process, None)

    def overdue(self, silent: float, still: float) -> list[Hung]:
        """Processes without a sign for `silent` seconds, and those that have done one thing for `still` seconds.

        Of a group only who is behind counts: the others wait for it. When this actor itself was stopped (Ctrl-Z, a
        machine put to sleep), the signs it missed say nothing.
        """
        now = self._clock()
        away, self._looked = now - self._looked > 4 * BEAT_SECONDS, now
        if away:
            for heard in self._heard.values():
                heard.at = heard.moved = now
        mute = [h for h in self._heard.values() if now - h.at > silent]
        if mute:  # whoever waits for them stands still without fault
            return [Hung(h.sign, now - h.at, answers=False) for h in mute]
        late = [h for h in self._heard.values() if h.sign.doing and not h.sign.waiting and now - h.moved > still]
        return [Hung(h.sign, now - h.moved, answers=True) for h in late if h.sign.milestone <= self._behind(h.sign)]

    def quiet(self, seconds: float) -> list[Hung]:
        """Processes that do, or wait for, one thing for so many seconds more since this was last said of them.

        Of a group only who is behind; none of those that give no sign, which `overdue` finds.
        """
        now = self._clock()
        found = [h for h in self._heard.values() if h.sign.doing and now - max(h.moved, h.told) > seconds]
        found = [h for h in found if now - h.at <= 2 * BEAT_SECONDS]
        found = [h for h in found if h.sign.waiting or h.sign.milestone <= self._behind(h.sign)]
        for heard in found:
            heard.told = now
        return [Hung(h.sign, now - h.moved, answers=True) for h in found]

    def _behind(self, sign: Sign) -> int:
        """The lowest milestone of those that wait for one another with this one."""
        if not sign.group:
            return sign.milestone
        return min(h.sign.milestone for h in self._heard.values() if h.sign.group == sign.group)


class Pulse:
    """The signs of life of this process, given by a thread of its own."""

    def __init__(self, signs: Any, who: str, group: str = "") -> None:
        """Args: signs: what `watching` gave; None: nobody watches."""
        self._signs, self._who, self._group = signs, who, group
        self._doing, self._waiting, self._milestone, self._moves = "starting", False, 0, 0
        self._ended = threading.Event()
        if signs is not None:
            threading.Thread(target=self._beat, name="pulse", daemon=True).start()

    def at(self, doing: str, waiting: bool = False) -> None:
        """Say what is begun now."""
        self._doing, self._waiting = doing, waiting
        self._milestone += 1
        self._moves += 1

    def idle(self) -> None:
        self.at(IDLE)

    def move(self, *_: object) -> None:
        """It goes on; takes and ignores what a hook is called with."""
        self._moves += 1

    def close(self) -> None:
        self._ended.set()

    def _beat(self) -> None:
        node, host, pid = ray.get_runtime_context().get_node_id(), socket.gethostname(), os.getpid()
        started = started_at(pid)
        while True:
            sign = Sign(
                *(self._who, self._group, self._doing, self._waiting, self._milestone, self._moves),
                *(node, host, pid, started),
            )
            try:
                ray.get(self._signs.tell.remote(sign), timeout=SILENT_SECONDS)
            except GetTimeoutError:
                continue
            except RayError:  # nobody watches any more
                return
            if self._ended.wait(BEAT_SECONDS):
                return


_pulse: tuple[Any, Pulse] | None = None


def pulse_of_process(signs: Any, who: str) -> Pulse:
    """The pulse of this process; for tasks, as many of them pass through one process."""
    global _pulse
    watcher = None if signs is None else signs._actor_id
    if _pulse is None or _pulse[0] != watcher:
        if _pulse is not None:
            _pulse[1].close()
        _pulse = (watcher, Pulse(signs, who))
    return _pulse[1]


@contextlib.contextmanager
def watching(still: float, say: Callable[[str], None] | None = None) -> Iterator[Any]:
    """Watch processes while this is open; it gives the handle that their `Pulse` needs.

    Args:
        still: seconds after which a process that does not move on is killed; 0: nothing is watched (None is given).
        say: takes the message of each; default: a line on stderr.
    """
    if not still:
        yield None
        return
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    kind: Any = ray.remote(Signs)
    signs = kind.options(num_cpus=0, scheduling_strategy=here).remote()
    ended = threading.Event()
    tell = say or (lambda text: print(text, file=sys.stderr, flush=True))
    thread = threading.Thread(target=_watch, args=(signs, still, ended, tell), name="watch", daemon=True)
    thread.start()
    try:
        yield signs
    finally:
        ended.set()
        thread.join(timeout=KILL_SECONDS)
        ray.kill(signs)


def _watch(signs: Any, still: float, ended: threading.Event, say: Callable[[str], None]) -> None:
    silent = min(SILENT_SECONDS, still)
    tries = Counter[tuple[str, int, int]]()
    while not ended.wait(BEAT_SECONDS):
        try:
            for hung in ray.get(signs.overdue.remote(silent, still), timeout=KILL_SECONDS):
                tries[hung.sign.process] += 1
                gone = end(hung, say)
                if gone or tries[hung.sign.process] == TRIES:
                    ray.get(signs.forget.remote(hung.sign.process), timeout=KILL_SECONDS)
            for hung in ray.get(signs.quiet.remote(QUIET_SECONDS), timeout=KILL_SECONDS):
                say(hung.text)
        except GetTimeoutError:
            continue
        except RayError:  # the engine is going down
            return


def end(hung: Hung, say: Callable[[str], None]) -> bool:
    """Kill a process on whatever machine it is; one that is gone already is passed over in silence.

    Returns:
        False when its machine did not answer: it is cut off, and the engine will give it up, or too busy.
    """
    there = NodeAffinitySchedulingStrategy(hung.sign.node, soft=False)
    task: Any = ray.remote(kill)
    try:
        asked = task.options(num_cpus=0, max_retries=0, scheduling_strategy=there)
        killed = ray.get(asked.remote(hung.sign.pid, hung.sign.started), timeout=KILL_SECONDS)
    except RayError:
        say(f"{hung.text}. Its machine does not answer either.")
        return False
    if killed:
        say(f"{hung.text}. It was killed, and is started again.")
    return True
