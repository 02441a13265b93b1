"""The write-ahead log of a tracked run: what was to be logged is kept here until the tracking store has it.

A spool folder belongs to one run:

    run.json                 who the run is (key, MLflow run id, name, parameters, tags)
    lanes/<time>-<id>/       one per process that logs (the driver, rank 0, ...), held by a file lock
        records.jsonl        metrics, parameters, tags, status; records.sent: bytes of it that the store has
        files.jsonl, files/  pictures and other artifacts; files.sent

A lane whose process has died is taken over by whoever opens the spool next, so that nothing is lost.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

COMPACT_BYTES = 4_000_000  # a journal longer than this is emptied as soon as all of it was sent


def write_atomically(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    part.write_text(text)
    os.replace(part, path)


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path` (made when absent), waiting for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@dataclass
class Identity:
    """Who a run is, whether or not the store knows it yet.

    Attributes:
        key: our own id, a tag of the MLflow run: finds a run whose creation was answered too late.
        run_id: MLflow's id once the run exists.
        uri: tracking URI, credentials masked.
    """

    key: str
    uri: str
    experiment: str
    name: str
    run_id: str | None = None
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


class Journal:
    """Append-only JSON lines with the position up to which they were sent."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sent_path = path.with_suffix(".sent")
        self._lock = threading.Lock()
        self._sent = int(self._sent_path.read_text()) if self._sent_path.exists() else 0

    def append(self, record: dict[str, Any]) -> None:
        """Add a record; it survives the death of this process.

        Raises:
            OSError: it cannot be written (a full disk); the journal is as it was.
        """
        line = json.dumps(record).encode() + b"\n"
        with self._lock, self._path.open("ab", buffering=0) as handle:
            size = handle.seek(0, os.SEEK_END)
            if handle.write(line) != len(line):  # a nearly full disk takes a part of the line
                handle.truncate(size)
                raise OSError(f"cannot write to {self._path}")

    def unsent(self, limit: int) -> list[tuple[dict[str, Any], int]]:
        """At most `limit` unsent records, oldest first, each with the position after it."""
        if not self._path.exists():
            return []
        found: list[tuple[dict[str, Any], int]] = []
        with self._path.open("rb") as handle:
            position = handle.seek(self._sent)
            for line in handle:
                if not line.endswith(b"\n") or len(found) == limit:  # the last line may be half written
                    break
                position += len(line)
                found.append((json.loads(line), position))
        return found

    @property
    def pending(self) -> bool:
        return bool(self.unsent(1))

    def mark(self, position: int) -> None:
        """Everything before `position` was sent."""
        with self._lock:
            if position >= COMPACT_BYTES and position == self._path.stat().st_size:
                # The order matters: a crash in between repeats records, which the store recognises, and loses none.
                write_atomically(self._sent_path, "0")
                os.truncate(self._path, 0)
                position = 0
            else:
                write_atomically(self._sent_path, str(position))
            self._sent = position


class Lane:
    """The records of one process; constructing one takes its lock.

    Raises:
        BlockingIOError: a living process holds it.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._handle = (folder / "lock").open("a")
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._handle.close()
            raise
        self.records = Journal(folder / "records.jsonl")
        self.files = Journal(folder / "files.jsonl")

    @property
    def pending(self) -> bool:
        return self.records.pending or self.files.pending

    def file_path(self, name: str) -> Path:
        """A fresh path in this lane for an artifact called `name` (no folders)."""
        folder = self.folder / "files" / uuid.uuid4().hex[:12]
        folder.mkdir(parents=True)
        return folder / name

    def release(self) -> None:
        """Give the lane up; its folder goes when nothing is left in it to send."""
        if not self.pending:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._handle.close()


class Spool:
    """A spool folder: the run's identity and its lanes."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._run = self.folder / "run.json"

    def creating(self) -> contextlib.AbstractContextManager[None]:
        """Held while the run is looked up or created in the store, so that two processes never create it twice."""
        return file_lock(self.folder / "create.lock")

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Held while `identity` is changed: for a moment, never during a request."""
        return file_lock(self.folder / "run.lock")

    def identity(self) -> Identity | None:
        """The run this folder belongs to, or None for a new folder."""
        return Identity(**json.loads(self._run.read_text())) if self._run.exists() else None

    def save(self, identity: Identity) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._run, json.dumps(asdict(identity), indent=1))

    def new_lane(self) -> Lane:
        while True:
            # One that looks for orphans may be quicker to lock it than we are.
            with contextlib.suppress(BlockingIOError):
                return Lane(self.folder / "lanes" / f"{time.time_ns()}-{uuid.uuid4().hex[:6]}")

    def orphans(self) -> list[Lane]:
        """Lanes that a process left behind, oldest first, locked for us."""
        found = []
        for folder in sorted((self.folder / "lanes").glob("*")):
            with contextlib.suppress(BlockingIOError):  # still held by its own process
                found.append(Lane(folder))
        return found
