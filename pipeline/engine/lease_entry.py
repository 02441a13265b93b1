"""What the writer of a folder says of itself, and whether it still lives."""

from __future__ import annotations

import getpass
import json
import os
import socket
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime

from pipeline.engine.processes import started_at

DEAD_SECONDS = 60.0  # without another beat, after which a writer that cannot be seen counts as dead
LOOK_SECONDS = 2.0


@dataclass(frozen=True)
class Entry:
    """Who writes.

    Attributes:
        id: of this holding of the lease.
        boot: of the machine; the same one on another machine would be a wonder.
        since: local time of the holder, for people only.
        space: of process numbers, which containers of one machine have for themselves.
        started: when the process was, which tells it from a later one of its number.
        beat: counts up while the holder lives.
    """

    id: str
    job: str
    host: str
    boot: str
    pid: int
    user: str
    since: str
    space: str = ""
    started: int = 0
    beat: int = 0

    def lives(self, me: Entry) -> bool | None:
        """Whether its process is there; None where this process cannot see it."""
        if (self.boot, self.space) != (me.boot, me.space) or not self.space:
            return None
        return started_at(self.pid) == self.started != 0

    @property
    def text(self) -> str:
        return f"{self.job} of {self.user} on {self.host} (process {self.pid}, since {self.since})"


def entry_of(job: str) -> Entry:
    """The entry of this process."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        user = str(os.getuid())
    boot = _boot() or socket.gethostname()
    now = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    pid = os.getpid()
    return Entry(uuid.uuid4().hex, job, socket.gethostname(), boot, pid, user, now, space, started_at(pid))


def _boot() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


def parse(data: bytes) -> Entry | None:
    """The entry of a file; None of one that is empty or something else."""
    try:
        return Entry(**json.loads(data))
    except (ValueError, TypeError):
        return None


def encode(entry: Entry) -> bytes:
    return json.dumps(asdict(entry)).encode()


def watch(
    out: str,
    other: Entry,
    read: Callable[[], Entry | None],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Whether the holder of an entry is dead: nothing of it changed for `DEAD_SECONDS` of this process's clock."""
    text = f"{out} was last written by {other.text}; looking for up to {DEAD_SECONDS:.0f} s whether it still lives"
    print(text, file=sys.stderr, flush=True)
    start = clock()
    while clock() - start < DEAD_SECONDS:
        sleep(LOOK_SECONDS)
        now = read()
        if now is None:
            return True
        if (now.id, now.beat) != (other.id, other.beat):
            return False
    return True
