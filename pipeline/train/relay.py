"""Mailbox between the training workers and the driver: news one way, the wish to stop the other way.

Tracking and progress stay out of the training processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Event:
    """News for the driver.

    Attributes:
        kind: metrics, pictures, save (write down what was told so far), checkpoint or phase (what begins, in words).
    """

    kind: str
    step: int
    payload: Any = None


class Relay:
    """Holds the events until the driver takes them. Runs as an actor."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._put = self._handled = 0
        self._stopping = False

    def put(self, event: Event) -> int:
        """Add an event. Returns its number; `handled` reaches it when the driver has dealt with the event."""
        self._events.append(event)
        self._put += 1
        return self._put

    def take(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def dealt_with(self, count: int) -> None:
        """The driver has dealt with `count` more events."""
        self._handled += count

    def handled(self) -> int:
        return self._handled

    def stop(self) -> None:
        """Ask the workers to save and end."""
        self._stopping = True

    def stopping(self) -> bool:
        return self._stopping
