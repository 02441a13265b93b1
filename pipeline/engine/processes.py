"""Processes of this machine: who descends from whom, and the end of one that is not mistaken for a later one."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path


def started_at(pid: int) -> int:
    """When a process of this machine was started, in clock ticks since boot; 0 when nothing tells."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(text.rpartition(")")[2].split()[19])


def descendants(pid: int) -> list[tuple[int, int]]:
    """Processes that descend from one of this machine, parents before children: number, and `started_at`."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # ended meanwhile
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            children.setdefault(int(parent), []).append(int(folder.name))
    found = [pid]
    for ancestor in found:
        found += children.get(ancestor, [])
    return [(child, started_at(child)) for child in found[1:]]


def kill(pid: int, started: int) -> bool:
    """SIGKILL to a process of this machine; whether it was there."""
    if not started or started_at(pid) != started:
        return False
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
