"""Files on this machine's disks under any name that a disk allows, bytes that are no UTF-8 included (`os.fsdecode`).

Used by `pipeline.storage` alone, which says what an OSError means. Links are followed; what leads nowhere, leads back
into a folder above it, or is neither file nor folder (a pipe, a socket, a device) is not listed, and never waited for.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import unquote

import pyarrow as pa

NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)  # file systems without hard links


def printable(name: str) -> str:
    """A name with its bytes that are no UTF-8 as \\udcXX, for messages and files."""
    return name.encode(errors="backslashreplace").decode()


def path_of(uri: str) -> str:
    """The absolute path of a path or a file:// URI.

    Raises:
        OSError: a file:// URI of another machine.
    """
    if not uri.lower().startswith("file://"):
        return os.path.abspath(os.path.expanduser(uri))
    host, _, path = uri[len("file://") :].partition("/")
    if host not in ("", "localhost"):
        raise OSError(f"a file:// URI of another machine ({host}); file:///PATH is one of this machine")
    return os.path.abspath("/" + unquote(path, errors="surrogateescape"))


def kind(path: str) -> str:
    """'file', 'folder', 'other' (pipes and the like), or '' when there is nothing, or a link to nothing."""
    try:
        return _kind(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return ""


def _kind(mode: int) -> str:
    return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "other"


def check_regular(path: str) -> None:
    """Opening a pipe would wait for somebody to write into it.

    Raises:
        OSError: there is nothing, a folder or something that is no file.
    """
    found = _kind(os.stat(path).st_mode)
    if found == "folder":
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if found == "other":
        raise OSError("it is a pipe, a socket or a device and no file")


def read(path: str) -> bytes:
    check_regular(path)
    with open(path, "rb") as file:
        return file.read()


def open_file(path: str) -> pa.NativeFile:
    """A file for reading at any place."""
    check_regular(path)
    return pa.OSFile(os.fsencode(path))


def write(path: str, data: bytes) -> None:
    """Whole or not at all: written beside it and renamed into place."""
    partial = _begin(path)
    try:
        _write_synced(partial, data)
        os.replace(partial, path)
    finally:
        _forget(partial)


def create(path: str, data: bytes) -> bool:
    """Write a file whole where there is none; False when there is one."""
    partial = _begin(path)
    try:
        _write_synced(partial, data)
        try:
            os.link(partial, path)  # whole at once, and refused when there is one
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            _write_synced(path, data, mode="xb")
        return True
    except FileExistsError:
        return False
    finally:
        _forget(partial)


def version(path: str) -> str | None:
    """What differs after every `write`; None when there is no file."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return f"{found.st_ino}-{found.st_mtime_ns}-{found.st_size}"


def _begin(path: str) -> str:
    """A name for the unfinished file, short: the name itself may be as long as the disk allows."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    return os.path.join(os.path.dirname(path), f".{uuid.uuid4().hex}.partial")


def _write_synced(path: str, data: bytes, mode: str = "wb") -> None:
    with open(path, mode) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _forget(partial: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(partial)


def below(folder: str, recursive: bool) -> Iterator[tuple[str, int, bool]]:
    """(path, bytes, is a folder) of what lies below a folder; an absent folder has nothing.

    Raises:
        OSError: a folder that may not be read, or a file in its place.
    """
    try:
        top = os.stat(folder)
    except FileNotFoundError:
        return
    waiting: list[tuple[str, tuple[tuple[int, int], ...]]] = [(folder, ((top.st_dev, top.st_ino),))]
    while waiting:
        at, above = waiting.pop()
        try:
            with os.scandir(at) as found:
                entries = list(found)
        except FileNotFoundError:  # removed by another process meanwhile
            continue
        for entry in entries:
            try:
                info = entry.stat()
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno != errno.ELOOP:
                    raise
                continue
            if stat.S_ISREG(info.st_mode):
                yield entry.path, info.st_size, False
            elif stat.S_ISDIR(info.st_mode):
                own = (info.st_dev, info.st_ino)
                if own in above:
                    continue
                yield entry.path, 0, True
                if recursive:
                    waiting.append((entry.path, (*above, own)))


def remove(path: str) -> None:
    """Delete a file, a link, or a folder with all below it; absent is fine."""
    with suppress(FileNotFoundError):
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)
