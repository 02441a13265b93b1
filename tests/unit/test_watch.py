"""Which process counts as hung (`pipeline.engine.watch.Signs`), with a clock of the test's own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest

from pipeline.engine import watch
from pipeline.engine.processes import kill, started_at
from pipeline.engine.watch import BEAT_SECONDS, IDLE, Sign, Signs

SILENT, STILL = 60.0, 600.0
RANK = Sign("rank 0", "training", "computing step 1", False, 1, 1, "node", "host", 10, 1)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """Signs, and processes that give one each beat."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.signs = Signs(self.clock)

    def pass_time(self, seconds: float, *processes: Sign) -> list[str]:
        """Let time pass in which only these give signs; what is overdue at the end, by who."""
        found: list[str] = []
        for _ in range(int(seconds / BEAT_SECONDS)):
            self.clock.now += BEAT_SECONDS
            for process in processes:
                self.signs.tell(process)
            found = [hung.sign.who for hung in self.signs.overdue(SILENT, STILL)]
        return found


@pytest.fixture
def watched() -> Watched:
    return Watched()


def rank(number: int, **changes: object) -> Sign:
    return replace(RANK, who=f"rank {number}", pid=10 + number, **changes)


def test_a_process_that_gives_signs_and_moves_is_left_alone(watched: Watched) -> None:
    for moves in range(300):
        assert watched.pass_time(BEAT_SECONDS, replace(RANK, moves=moves)) == []


def test_silence_is_found_after_its_time_and_not_before(watched: Watched) -> None:
    watched.signs.tell(rank(0))
    assert watched.pass_time(SILENT, rank(1)) == []
    assert watched.pass_time(BEAT_SECONDS, rank(1)) == ["rank 0"]
    watched.signs.forget(rank(0).process)
    assert watched.pass_time(BEAT_SECONDS, rank(1)) == []


def test_of_ranks_that_wait_for_one_another_only_the_one_behind_is_hung(watched: Watched) -> None:
    ahead = [rank(n, milestone=8, doing="waiting for the other ranks after step 1") for n in (0, 2)]
    assert watched.pass_time(STILL + 2 * BEAT_SECONDS, *ahead, rank(1, milestone=7)) == ["rank 1"]


def test_who_waits_for_a_silent_one_is_not_hung(watched: Watched) -> None:
    watched.signs.tell(rank(1, milestone=7))
    assert watched.pass_time(STILL + 2 * BEAT_SECONDS, rank(0, milestone=7), rank(2, milestone=7)) == ["rank 1"]


def test_idle_and_waiting_processes_may_stand_still(watched: Watched) -> None:
    alone = replace(RANK, group="", who="an actor", pid=20)
    idle = replace(alone, doing=IDLE, who="idle", pid=21)
    waiting = replace(alone, waiting=True, who="waiting", pid=22)
    assert watched.pass_time(STILL + 2 * BEAT_SECONDS, alone, idle, waiting) == ["an actor"]


@pytest.mark.parametrize("waiting", [True, False])
def test_what_takes_long_is_told_once_each_time_it_gets_longer(watched: Watched, waiting: bool) -> None:
    sign = replace(RANK, waiting=waiting, doing="waiting for the samples of step 1")
    said: list[str] = []
    for _ in range(30):
        watched.pass_time(BEAT_SECONDS, sign, replace(sign, pid=11, milestone=sign.milestone + 1, waiting=False))
        said += [hung.text for hung in watched.signs.quiet(SILENT)]
    assert len(said) == 2, "the other one of the group, which is ahead and waits for this one, is not named"
    assert (
        "rank 0 (process 10 on host) has not moved on for 65 s; last it was waiting for the samples of step 1" in said
    )
    watched.pass_time(BEAT_SECONDS, replace(sign, moves=2))
    assert watched.signs.quiet(SILENT) == []


def test_after_the_whole_machine_stood_still_nobody_is_hung(watched: Watched) -> None:
    watched.pass_time(BEAT_SECONDS, rank(0), rank(1))
    watched.clock.now += 10 * STILL
    assert watched.signs.overdue(SILENT, STILL) == []
    assert watched.pass_time(SILENT, rank(0)) == []
    assert watched.pass_time(BEAT_SECONDS, rank(0)) == ["rank 1"], "one that stays silent afterwards is found"


def test_a_later_process_of_the_same_number_is_another_one(watched: Watched) -> None:
    watched.signs.tell(rank(0, started=1))
    assert watched.pass_time(SILENT + BEAT_SECONDS, rank(0, started=2)) == ["rank 0"]
    assert [hung.sign.started for hung in watched.signs.overdue(SILENT, STILL)] == [1]


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_stopped_process_is_killed_and_another_of_its_number_is_not(sleeper: subprocess.Popen[bytes]) -> None:
    started = started_at(sleeper.pid)
    assert started > started_at(1) >= 0
    os.kill(sleeper.pid, signal.SIGSTOP)
    assert not kill(sleeper.pid, started + 1) and sleeper.poll() is None
    assert kill(sleeper.pid, started)
    assert sleeper.wait(timeout=30) == -signal.SIGKILL
    assert not kill(sleeper.pid, started), "it is gone"


@pytest.mark.parametrize(("answers", "forgotten_after"), [([True], 1), ([False, False, True], 3), ([False] * 9, 4)])
def test_what_could_not_be_killed_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, answers: list[bool], forgotten_after: int
) -> None:
    """On a busy machine the process that kills may come too late; one that is cut off is left to the engine."""
    hung, ended = watch.Hung(RANK, 65.0, answers=False), threading.Event()
    tried: list[bool] = []
    held = [hung]

    def forget(process: object) -> None:
        held.clear()
        ended.set()

    def call(function: Callable[..., object]) -> SimpleNamespace:
        return SimpleNamespace(remote=function)

    signs = SimpleNamespace(overdue=call(lambda *_: [*held]), forget=call(forget), quiet=call(lambda *_: []))
    monkeypatch.setattr(watch, "BEAT_SECONDS", 0.0)
    monkeypatch.setattr(watch.ray, "get", lambda result, timeout: result)
    monkeypatch.setattr(watch, "end", lambda hung, say: tried.append(True) or answers[len(tried) - 1])
    watch._watch(signs, 600.0, ended, print)
    assert len(tried) == forgotten_after
