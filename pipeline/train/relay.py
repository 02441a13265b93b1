"""Mailbox between rank 0 and the driver: tracking and progress stay out of the training process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Event:
    """News from rank 0 to the driver: kind is metrics, pictures, checkpoint or fatal."""

    kind: str
    step: int
    payload: Any


class Relay:
    """Holds the events until the driver takes them; remembers the first fatal one. Runs as an actor."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._fatal = ""

    def put(self, event: Event) -> None:
        if event.kind == "fatal":
            self._fatal = self._fatal or event.payload
        self._events.append(event)

    def take(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def fatal(self) -> str:
        return self._fatal
