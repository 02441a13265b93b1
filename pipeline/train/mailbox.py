"""Mailbox between the training workers and the driver: news one way, the request to stop the other way.

Tracking and progress stay out of the training processes.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

LOOK_SECONDS = 0.5  # between two looks at whether the driver wants the run to stop
DRIVER_SECONDS = 60.0  # that a checkpoint waits for the driver to write down what it was told


@dataclass(frozen=True)
class Event:
    """News for the driver.

    Attributes:
        kind: metrics, pictures, save (write down what was told so far), checkpoint or phase (what begins, in words).
    """

    kind: str
    step: int
    payload: Any = None


class Mailbox:
    """Holds the events until the driver takes them. Runs as an actor."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._put = self._acknowledged = 0
        self._stopping = False

    def put(self, event: Event) -> int:
        """Add an event. Returns its number; `acknowledged` reaches it when the driver has dealt with the event."""
        self._events.append(event)
        self._put += 1
        return self._put

    def drain(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def acknowledge(self, count: int) -> None:
        """The driver has dealt with `count` more events."""
        self._acknowledged += count

    def acknowledged(self) -> int:
        return self._acknowledged

    def stop(self) -> None:
        """Ask the workers to save and end."""
        self._stopping = True

    def stopping(self) -> bool:
        return self._stopping


class Post:
    """A rank's side of the mailbox: rank 0 tells the driver, and looks beside training whether it is to stop.

    Attributes:
        stop: the driver wants the run to save and stop; False on other ranks, which rank 0 tells.
    """

    def __init__(self, mailbox: Any, rank: int) -> None:
        self._mailbox, self._rank = mailbox, rank
        self.stop, self._ended = False, threading.Event()
        if rank == 0:
            threading.Thread(target=self._look, name="stop-requests", daemon=True).start()

    def send(self, event: Event) -> None:
        """Tell the driver; only rank 0 does."""
        if self._rank == 0:
            self._mailbox.put.remote(event)

    def written_down(self, step: int) -> None:
        """Have the driver write down the metrics before a checkpoint counts: a restart from there tells none."""
        number = ray.get(self._mailbox.put.remote(Event("save", step)))
        deadline = time.monotonic() + DRIVER_SECONDS
        while ray.get(self._mailbox.acknowledged.remote()) < number and time.monotonic() < deadline:
            time.sleep(0.05)

    def checkpoint(self, step: int, uri: str) -> None:
        """Tell the driver of a checkpoint that counts."""
        ray.get(self._mailbox.put.remote(Event("checkpoint", step, uri)))

    def close(self) -> None:
        self._ended.set()

    def _look(self) -> None:
        while not (self.stop or self._ended.wait(LOOK_SECONDS)):
            try:
                self.stop = bool(ray.get(self._mailbox.stopping.remote()))
            except RayError:  # the driver is gone, and this process soon will be
                return
