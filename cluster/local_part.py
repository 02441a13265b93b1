"""Run one part of a local cluster, a Ray node or a server, and leave none of its processes behind. Linux.

    python cluster/local_part.py CLUSTER_ID COMMAND [ARGUMENT ...]

`cluster/local.sh` starts it; CLUSTER_ID only makes the process known to it. SIGTERM asks the command to end and kills
what is left after some seconds; SIGUSR1 kills all of it at once, as a lost machine. When the command ends by itself,
what it leaves is killed too.

A process of Ray may outlive its parent (the agents do), be in a session of its own (the jobs are) and overwrite its
environment (the workers do), so none of these tells whose it is. Instead this process is made the one that orphans
below it fall to: everything the command ever started stays its descendant.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>
GRACE_SECONDS = 5.0
POLL_SECONDS = 0.1


def descendants() -> list[int]:
    """Ids of all processes below this one."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # ended meanwhile
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            children.setdefault(int(parent), []).append(int(folder.name))
    found = [os.getpid()]
    for pid in found:
        found += children.get(pid, [])
    return found[1:]


def reap() -> set[int]:
    """Collect the children that have ended; their ids."""
    ended = set()
    with contextlib.suppress(ChildProcessError):
        while pid := os.waitpid(-1, os.WNOHANG)[0]:
            ended.add(pid)
    return ended


def kill_all() -> None:
    """SIGKILL to everything below, until nothing is left: a process may start another meanwhile."""
    while pids := descendants():
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        reap()
        time.sleep(0.02)


def main(command: list[str]) -> None:
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    first = os.posix_spawnp(command[0], command, os.environ)
    deadline = float("inf")

    def ask(*_: object) -> None:
        nonlocal deadline
        deadline = time.monotonic() + GRACE_SECONDS
        with contextlib.suppress(ProcessLookupError):
            os.kill(first, signal.SIGTERM)

    def end(*_: object) -> None:
        nonlocal deadline
        deadline = 0.0

    signal.signal(signal.SIGTERM, ask)
    signal.signal(signal.SIGUSR1, end)
    while first not in reap() and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    kill_all()


if __name__ == "__main__":
    main(sys.argv[2:])
