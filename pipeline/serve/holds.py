"""Who has which image open, so that others see it: told every some seconds, and forgotten when it is told no more."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

HOLD_SECONDS = 30.0
MAX_WHO = 80  # characters kept of what a client calls itself


class Holds:
    """Clients by image, in the order of their coming."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._held: dict[str, dict[str, tuple[str, float]]] = {}

    def hold(self, name: str, client: str, who: str) -> str | None:
        """Take note that a client has an image open.

        Returns:
            What another client that has it open calls itself; None without one.
        """
        with self._lock:
            clients = self._held.setdefault(name, {})
            clients[client] = (who[:MAX_WHO] or "somebody", self._clock())
        return self.holder(name, client)

    def holder(self, name: str, client: str = "") -> str | None:
        """What the first of the clients but `client` that have an image open calls itself; None without one."""
        with self._lock:
            since = self._clock() - HOLD_SECONDS
            clients = {key: held for key, held in self._held.get(name, {}).items() if held[1] > since}
            if not clients:
                self._held.pop(name, None)
                return None
            self._held[name] = clients
            return next((who for key, (who, _) in clients.items() if key != client), None)
