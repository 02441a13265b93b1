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
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

from pipeline.errors import UserError

COMPACT_BYTES = 4_000_000  # a journal longer than this is emptied as soon as all of it was sent
DAMAGED = {"type": "damaged"}  # in the place of a line that a power cut has spoilt


def write_atomically(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        part.write_text(text)
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def _is_there(path: Path, handle: TextIO) -> bool:
    """Whether an open file still is the one at `path`: who got the lock of a removed file holds nothing."""
    try:
        return path.stat().st_ino == os.fstat(handle.fileno()).st_ino
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path` (made when absent), waiting for it."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = path.open("a")
        except FileNotFoundError:  # the folder was removed in this moment
            continue
        except FileExistsError:  # it was there for mkdir, and gone for its look whether it is a folder
            if path.parent.exists() and not path.parent.is_dir():
                raise
            continue
        with handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if _is_there(path, handle):
                yield
                return


@dataclass
class Identity:
    """Who a run is, whether or not the store knows it yet.

    Attributes:
        key: our own id, a tag of the MLflow run: finds a run whose creation was answered too late.
        run_id: MLflow's id once the run exists.
        uri: tracking URI, credentials masked.
        began: milliseconds since 1970; the run's start, also when it is made in the store long afterwards.
        home: URI of the file that keeps this identity beside a remote output; "": the spool folder keeps it.
    """

    key: str
    uri: str
    experiment: str
    name: str
    run_id: str | None = None
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    began: int | None = None
    home: str = ""

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> Identity:
        """Inverse of `to_json`; ValueError or TypeError for another file."""
        return cls(**json.loads(text))


class Journal:
    """Append-only JSON lines with the position up to which they were sent."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sent_path = path.with_suffix(".sent")
        self._lock = threading.Lock()
        sent = self._sent_path.read_text() if self._sent_path.exists() else ""
        self._sent = int(sent) if sent.isdigit() else 0  # no number after a power cut: the store recognises repeats

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
                try:
                    record = json.loads(line)
                except ValueError:
                    record = None
                found.append((record if isinstance(record, dict) else DAMAGED, position))
        return found

    def says(self, kind: str) -> bool:
        """Whether a record of this type is in it, sent or not."""
        return self._path.exists() and f'"type": "{kind}"'.encode() in self._path.read_bytes()

    @property
    def pending(self) -> bool:
        return bool(self.unsent(1))

    def mark(self, position: int) -> None:
        """Everything before `position` was sent.

        On a full disk this is not noted for later processes, which is no failure: the store recognises what it is sent
        again.
        """
        with self._lock, contextlib.suppress(OSError):
            self._sent = position
            if position >= COMPACT_BYTES and position == self._path.stat().st_size:
                # The order matters: a crash in between repeats records, which the store recognises, and loses none.
                write_atomically(self._sent_path, "0")
                os.truncate(self._path, 0)
                self._sent = 0
            else:
                write_atomically(self._sent_path, str(position))


class Lane:
    """The records of one process; constructing one takes its lock.

    Raises:
        BlockingIOError: a living process holds it.
        FileNotFoundError: it is gone: all of it was sent.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        lock = folder / "lock"
        self._handle = lock.open("a")
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_there(lock, self._handle):
                raise FileNotFoundError(lock)
        except OSError:
            self._handle.close()
            raise
        self.records = Journal(folder / "records.jsonl")
        self.files = Journal(folder / "files.jsonl")

    @property
    def pending(self) -> bool:
        return self.records.pending or self.files.pending

    @property
    def closed(self) -> bool:
        """Whether its process said how the run ended."""
        return self.records.says("status")

    def file_folder(self) -> Path:
        """A folder in this lane, not made yet, for one artifact."""
        return self.folder / "files" / uuid.uuid4().hex[:12]

    def release(self) -> None:
        """Give the lane up; its folder goes when nothing is left in it to send."""
        if not self.pending:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._handle.close()


@dataclass(frozen=True)
class Waiting:
    """What a spool has not sent: records of processes that have ended, and of `processes` that still run."""

    ended: int
    running: int
    processes: int


class Spool:
    """A spool folder: the run's identity and its lanes."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._run = self.folder / "run.json"

    def creating(self) -> contextlib.AbstractContextManager[None]:
        """Held while the run is looked up or created in the store, so that two processes never create it twice."""
        return file_lock(self.folder / "create.lock")

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Held while `identity` is changed or the folder removed: for a moment, never during a request."""
        return file_lock(self.folder / "run.lock")

    def identity(self) -> Identity | None:
        """The run this folder belongs to, or None for a new folder.

        Raises:
            UserError: its run.json is of something else.
        """
        try:
            return Identity.from_json(self._run.read_text())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, TypeError) as error:
            raise UserError(f"{self._run} does not say which tracked run it belongs to: {error}.") from error

    def save(self, identity: Identity) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._run, identity.to_json())

    def new_lane(self) -> Lane:
        while True:
            folder = self.folder / "lanes" / f"{time.time_ns()}-{uuid.uuid4().hex[:6]}"
            folder.mkdir(parents=True)
            # One that looks for orphans may be quicker to lock it, and even to remove it, than we are.
            with contextlib.suppress(BlockingIOError, FileNotFoundError):
                return Lane(folder)

    def orphans(self) -> list[Lane]:
        """Lanes that a process left behind, oldest first, locked for us."""
        found = []
        for folder in self._lanes():
            with contextlib.suppress(BlockingIOError, FileNotFoundError):  # held by its own process, or just sent
                found.append(Lane(folder))
        return found

    def waiting(self) -> Waiting:
        """What is left to send; nothing is taken."""
        counts: dict[bool, list[int]] = {True: [], False: []}
        for folder in self._lanes():
            journals = [Journal(folder / name) for name in ("records.jsonl", "files.jsonl")]
            counts[_in_use(folder)].append(sum(len(journal.unsent(sys.maxsize)) for journal in journals))
        return Waiting(sum(counts[False]), sum(counts[True]), len(counts[True]))

    def discard(self) -> None:
        """Remove the folder when no process uses it, all was sent, and the run's identity is kept elsewhere."""
        with contextlib.suppress(OSError), self.lock():  # what cannot be removed now, the next one removes
            identity = self.identity()
            if not self._lanes() and (identity is None or identity.home):
                shutil.rmtree(self.folder)

    def _lanes(self) -> list[Path]:
        return sorted((self.folder / "lanes").glob("*"))


def _in_use(lane: Path) -> bool:
    """Whether a living process holds a lane."""
    try:
        with (lane / "lock").open() as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
