"""One writer of an output folder: who writes there says so in a small file, and the second one is refused by name.

On a disk the file is locked (`flock`), so that the kernel frees it with its process and keeps it for one that is merely
stopped. On a store, or where a lock does not reach other machines, the writer renews its entry, and whoever finds one
that has not changed for `DEAD_SECONDS` of its own clock takes it over: no two clocks are ever compared. A writer that
was taken over ends at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

from pipeline import storage
from pipeline.engine import stop
from pipeline.engine.lease_entry import Entry, encode, entry_of, parse, watch
from pipeline.errors import Unavailable, UserError
from pipeline.storage import local_files

FILE = ".writer.json"  # in the folder that is written
BEAT_SECONDS = 10.0
SETTLE_SECONDS = 2.0  # on a store without conditional writes, until the last of several entries stands

_held: dict[str, int] = {}
_mutex = threading.Lock()


def other_names(names: list[str]) -> list[str]:
    """Names or URIs without that of a lease: what a folder holds besides."""
    return [name for name in names if name.rsplit("/", 1)[-1] != FILE]


class Busy(UserError):
    """Another one writes there."""


@contextlib.contextmanager
def held(out: str, job: str) -> Iterator[None]:
    """Be the only writer of a folder while this is open. The same process may hold a folder several times.

    Args:
        out: folder or URI.
        job: for messages, "jobs.train".

    Raises:
        Busy: another one writes there.
        UserError: nothing can be written there.
    """
    out = storage.absolute(out)
    with _mutex:
        nested = out in _held
        _held[out] = _held.get(out, 0) + 1
    lease: _Local | _Remote | None = None
    try:
        if not nested:
            kind = _Remote if storage.is_remote(out) else _Local
            lease = kind(out, entry_of(job))
            lease.take()
        yield
    finally:
        with _mutex:
            _held[out] -= 1
            if not _held[out]:
                del _held[out]
        if lease is not None:
            lease.release()


def _refuse(out: str, other: Entry) -> Busy:
    return Busy(
        f"{out} is being written by {other.text}. Wait for it, stop it, or choose another --out. (It is noted in "
        f"{FILE} there.)"
    )


class _Beating:
    """Renews an entry in a thread, and ends the process when the entry is somebody else's."""

    def __init__(self, out: str, entry: Entry) -> None:
        self.out, self.entry = out, entry
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    def begin(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(timeout=BEAT_SECONDS)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            with contextlib.suppress(Unavailable, UserError, OSError):  # a store that is away ends no work
                if not self.renew() and not self._ended.is_set():
                    lost(self.out)

    def renew(self) -> bool:
        """Write the next beat; False when the entry is not ours any more."""
        raise NotImplementedError


def lost(out: str) -> None:
    """End this process at once: what it would write now would be mixed with another's."""
    print(f"error: {out} was taken over by another writer, as this one had been silent for too long", file=sys.stderr)
    sys.stderr.flush()
    stop.exit_at_once(1)


class _Local(_Beating):
    """A locked file on a disk."""

    def __init__(self, out: str, entry: Entry) -> None:
        super().__init__(out, entry)
        self.folder = local_files.path_of(out)
        self.path = os.path.join(self.folder, FILE)
        self._file = -1
        self._made = False

    def take(self) -> None:
        try:
            self._made = not os.path.isdir(self.folder)
            os.makedirs(self.folder, exist_ok=True)
            while not self._lock():
                pass
        except OSError as error:
            text = error.strerror or str(error)
            raise UserError(f"{self.out} cannot be written: {text.lower()}. Choose another --out.") from error
        other = self._read()
        # Some network file systems keep locks to one machine: an entry of another one is looked at.
        if other is not None and other.boot != self.entry.boot and not watch(self.out, other, self._read):
            os.close(self._file)
            raise _refuse(self.out, other)
        self._write()
        self.begin()

    def _lock(self) -> bool:
        """Open and lock the file; False when it was removed meanwhile."""
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            other = self._read()
            os.close(self._file)
            raise _refuse(self.out, other or replace(self.entry, job="another job", pid=0)) from error
        except OSError:  # a file system without locks: the beats alone count
            pass
        try:
            same = os.stat(self.path).st_ino == os.fstat(self._file).st_ino
        except FileNotFoundError:
            same = False
        if not same:
            os.close(self._file)
        return same

    def _read(self) -> Entry | None:
        return parse(os.pread(self._file, 4096, 0))

    def _write(self) -> None:
        data = encode(self.entry)
        os.ftruncate(self._file, len(data))
        os.pwrite(self._file, data, 0)

    def renew(self) -> bool:
        found = self._read()
        if found is not None and found.id != self.entry.id:
            return False
        self.entry = replace(self.entry, beat=self.entry.beat + 1)
        self._write()
        return True

    def release(self) -> None:
        self.end()
        if not self._thread.ident:  # never taken
            return
        with contextlib.suppress(OSError):
            found = self._read()
            if found is None or found.id == self.entry.id:
                os.unlink(self.path)
        os.close(self._file)
        if self._made:
            with contextlib.suppress(OSError):  # of a command that wrote nothing
                os.rmdir(self.folder)


class _Remote(_Beating):
    """An object on a store."""

    def __init__(self, out: str, entry: Entry) -> None:
        super().__init__(out, entry)
        self.uri = storage.join(out, FILE)

    def take(self) -> None:
        while not self._take_once():
            pass
        self.begin()

    def _take_once(self) -> bool:
        if storage.create(self.uri, encode(self.entry)):
            return self._stands()
        version, other = storage.read_version(self.uri), self._read()
        if version is None:
            return False
        if other is not None and not self._is_dead(other):
            raise _refuse(self.out, self._read() or other)
        version = storage.read_version(self.uri)
        return version is not None and storage.replace(self.uri, encode(self.entry), version) and self._stands()

    def _is_dead(self, other: Entry) -> bool:
        lives = other.lives(self.entry)
        return watch(self.out, other, self._read) if lives is None else not lives

    def _stands(self) -> bool:
        """Whether our entry is the one that stayed, on a store where two may have written theirs at once."""
        if storage.conditional(self.uri):
            return True
        time.sleep(SETTLE_SECONDS)
        found = self._read()
        return found is not None and found.id == self.entry.id

    def _read(self) -> Entry | None:
        try:
            return parse(storage.read_bytes(self.uri))
        except UserError:
            return None

    def renew(self) -> bool:
        version, found = storage.read_version(self.uri), self._read()
        if found is not None and found.id != self.entry.id:
            return False
        entry = replace(self.entry, beat=self.entry.beat + 1)
        written = (
            storage.replace(self.uri, encode(entry), version) if version else storage.create(self.uri, encode(entry))
        )
        if written:
            self.entry = entry
        return True

    def release(self) -> None:
        self.end()
        if not self._thread.ident:
            return
        with contextlib.suppress(Unavailable, UserError):  # it dies out by itself
            found = self._read()
            if found is not None and found.id == self.entry.id:
                storage.remove(self.uri)
