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

    def update(self, n: int = 1, note: str = "") -> None:
        self.done += n
        now = time.monotonic()
        if now - self._shown >= (0.2 if self.terminal else 10.0) or self.done >= self.total:
            self._shown = now
            self._show(note)

    def _show(self, note: str) -> None:
        seconds = time.monotonic() - self.start
        rate = (self.done - self.first) / seconds if seconds > 0 else 0.0
        left = f", {duration((self.total - self.done) / rate)} left" if rate > 0 and self.done < self.total else ""
        line = f"{self.what}: {self.done}/{self.total} {self.unit}, {rate:.1f}/s{left}{'  ' + note if note else ''}"
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
