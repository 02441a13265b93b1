"""Progress of long work for people: rows done, rate and time left."""

from __future__ import annotations

import sys
import time


class Progress:
    """Rows done, rate and time left: one line redrawn on a terminal, a plain line every few seconds elsewhere."""

    def __init__(self, what: str, total: int, unit: str = "rows", done: int = 0) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done = self.first = done
        self.start = time.monotonic()
        self.terminal = sys.stderr.isatty()
        self._shown = 0.0
        self._began: tuple[float, int] | None = None

    def update(self, n: int = 1, note: str = "") -> None:
        now = time.monotonic()
        self.done += n
        if self._began is None:  # rates count from the first news on: what comes before is the start of processes
            self._began = now, self.done
        if now - self._shown >= (0.2 if self.terminal else 10.0) or self.done >= self.total:
            self._shown = now
            self._show(note)

    def _show(self, note: str) -> None:
        since, first = self._began or (self.start, self.first)
        if self.done >= self.total and self.done == first:  # all of it came at once
            since, first = self.start, self.first
        seconds = time.monotonic() - since
        rate = (self.done - first) / seconds if seconds > 0 else 0.0
        left = f", {duration((self.total - self.done) / rate)} left" if rate > 0 and self.done < self.total else ""
        speed = f", {rate:.1f}/s{left}" if rate > 0 else ""
        line = f"{self.what}: {self.done}/{self.total} {self.unit}{speed}{'  ' + note if note else ''}"
        print(
            f"\r\033[K{line}" if self.terminal else line, end="" if self.terminal else "\n", file=sys.stderr, flush=True
        )

    def close(self) -> None:
        if self.terminal:
            print(file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """'1h02m', '3m20s' or '12s'."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 60}m{whole % 60:02d}s" if whole >= 60 else f"{whole}s"
