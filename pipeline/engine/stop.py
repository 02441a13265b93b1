"""Signals that end a job: Ctrl-C, SIGTERM, a closed terminal (SIGHUP). The first one saves, the second stops.

Only the job's own process acts on them; the engine's processes are in groups of their own (`connect`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn, TypeVar

from pipeline.engine import processes

T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LOOK_SECONDS = 0.2  # between two looks of the main thread, which alone hears signals, at work in another one

_calls: list[Callable[[], None]] = []
_heard: list[int] = []
_engine: dict[tuple[int, int], None] = {}  # processes below this one, as `processes.descendants` gives them


def listen() -> None:
    """Hear the signals; again after an engine has set handlers of its own. Under `nohup` a closed terminal is none."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, _on_signal)


def code() -> int:
    """Exit code of a stopped job, as shells count it: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP."""
    return 128 + (_heard[0] if _heard else signal.SIGTERM)


def heard() -> bool:
    """Whether this process has been asked to stop."""
    return bool(_heard)


def note_engine() -> None:
    """Remember the processes below this one: as soon as one of them ends, its children are nobody's."""
    _engine.update(dict.fromkeys(processes.descendants(os.getpid())))


def kill_engine() -> None:
    """End what is left of them: one that has just been started would look for the others for a minute."""
    for process in _engine:
        processes.kill(*process)


def exit_at_once(status: int) -> NoReturn:
    """End this process and those below it, and save nothing."""
    note_engine()
    kill_engine()
    os._exit(status)


def _on_signal(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGHUP:
        _leave_terminal()
        if number in _heard:  # the kernel and the shell both tell of one closed terminal
            return
    _heard.append(number)
    if len(_heard) > 1:
        _say("stopped at once")
        exit_at_once(code())
    note_engine()
    if _calls:
        _say("stopping: saving what is done (a second signal stops at once)")
        _calls.pop()()
        return
    _say("stopping (a second signal stops at once)")
    raise SystemExit(code())


def _leave_terminal() -> None:
    """Print to nowhere what went to a terminal that is gone, where each print would fail; logs in files stay."""
    for stream in (1, 2):
        try:
            os.write(stream, b"")
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)


def _say(text: str) -> None:
    """A line on stderr, also in the middle of another print; after a progress line it begins a new one."""
    with contextlib.suppress(OSError):
        os.write(2, f"{chr(10) * os.isatty(2)}{text}\n".encode())


@contextlib.contextmanager
def stoppable(stop: Callable[[], None]) -> Iterator[None]:
    """While this is open, the first signal calls `stop` instead of ending the job."""
    _calls.append(stop)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            _calls.remove(stop)


def beside(work: Callable[[], T]) -> T:
    """Do work in another thread while this one hears signals: for engines that would handle them in their own way."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="work", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(LOOK_SECONDS)
    if errors:
        raise errors[0]
    return results[0]


def quit_early(number: int, frame: FrameType | None) -> None:
    """Handler while modules are still being imported."""
    _say("stopped before anything was begun")
    os._exit(128 + number)


def hear_early() -> None:
    """Hear Ctrl-C during the imports of `python -m jobs.NAME` (else it is a traceback)."""
    if sys.argv[:1] == ["-m"] and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, quit_early)
