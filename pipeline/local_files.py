"""Files and folders of this machine's disks, by path. Used by `pipeline.storage` alone; errors are those of Python."""

from __future__ import annotations

import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Found:
    """What lies below a folder.

    Attributes:
        version: of a file, changes with its content (time of change, or the store's tag).
    """

    uri: str
    size: int
    folder: bool = False
    version: str = ""


def below(top: str, recursive: bool) -> Iterator[Found]:
    """Files and folders of a disk, through links; broken links, pipes and the like do not count.

    Names that are no UTF-8 come as Python has them (`errors.readable` makes a text of them).
    """
    if not os.path.isdir(top):
        return
    waiting, seen = [top], set[tuple[int, int]]()
    while waiting:
        folder = waiting.pop()
        about = os.stat(folder)
        if (about.st_dev, about.st_ino) in seen:  # a link that leads in a circle
            continue
        seen.add((about.st_dev, about.st_ino))
        entries = list(os.scandir(folder))
        for entry in entries:
            try:
                status = entry.stat()
            except OSError:  # a broken link, or deleted meanwhile
                continue
            if stat.S_ISDIR(status.st_mode):
                yield Found(entry.path, 0, folder=True)
                if recursive:
                    waiting.append(entry.path)
            elif stat.S_ISREG(status.st_mode):
                yield Found(entry.path, status.st_size, version=str(status.st_mtime_ns))


def read(path: str) -> bytes:
    if os.path.exists(path) and not os.path.isfile(path):
        raise IsADirectoryError("it is no file")  # a pipe would be waited for without end
    with open(path, "rb") as file:
        return file.read()


def write(path: str, data: bytes) -> None:
    """Write a file whole or not at all: it is renamed into place."""
    partial = _beside(path, data)
    try:
        os.replace(partial, path)
    except OSError:
        os.unlink(partial)
        raise


def create(path: str, data: bytes) -> bool:
    """Write a file only if there is none; whether it was written."""
    partial = _beside(path, data)
    try:
        os.link(partial, path)  # unlike a rename, this fails where there is one
    except FileExistsError:
        return False
    finally:
        os.unlink(partial)
    return True


def _beside(path: str, data: bytes) -> str:
    """Write the data to a new file in the folder of `path`; its name."""
    partial = f"{path}.{uuid.uuid4().hex}.partial"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        if os.path.exists(partial):
            os.unlink(partial)
        raise
    return partial


def remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)
