"""One way to open local paths and s3:// and gs:// URIs.

s3:// goes through boto3 (`storage.s3`), gs:// through `pyarrow.fs`; credentials and endpoints come from the ordinary
environment (AWS_*, profiles, GOOGLE_*). Every function raises `UserError` for what the user can mend (no such
file or bucket, no right to it, a full disk) and `StorageUnavailable` when the store does not answer after all retries.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import timedelta
from functools import lru_cache
from typing import Any, NoReturn, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from pipeline.errors import StorageUnavailable, UserError
from pipeline.storage import local_files, s3, s3_conditions
from pipeline.storage.local_files import printable
from pipeline.storage.s3_files import S3Files

T = TypeVar("T")
V = TypeVar("V")

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
GS_PATIENCE = timedelta(seconds=90)  # of one request, retries included
AT_ONCE = 16  # requests of `map_parallel` on their way


def scheme_of(uri: str) -> str:
    """'s3', 'gs', ... or '' for a local path, which may hold "://" further on."""
    found = SCHEME.match(uri)
    return found[1].lower() if found else ""


def is_remote(uri: str) -> bool:
    """Whether every machine sees the same thing there."""
    return scheme_of(uri) not in ("", "file")


def absolute(uri: str) -> str:
    """The URI in a form that does not depend on the working folder."""
    return uri.rstrip("/") if scheme_of(uri) else _path(uri)


def join(uri: str, *parts: str) -> str:
    return "/".join([uri.rstrip("/"), *(p.strip("/") for p in parts)])


@lru_cache(maxsize=16)
def _arrow(scheme: str, bucket: str) -> pafs.FileSystem:
    if scheme in ("", "file"):
        return pafs.LocalFileSystem()
    if scheme == "gs":
        return pafs.GcsFileSystem(retry_time_limit=GS_PATIENCE)
    if scheme == "s3":
        s3.client(bucket)  # complains in seconds, before an engine starts
        return pafs.PyFileSystem(S3Files())
    raise UserError(f"{scheme}:// is not a kind of storage we know; use a local path, s3:// or gs://.")


def arrow_filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """A pyarrow file system for a URI and the path inside it: for engines that want one; our own code does not."""
    path = _path(uri)
    if printable(path) != path:
        raise UserError(f"{printable(path)} cannot be used: the engine needs a path that is UTF-8. Rename the folder.")
    scheme = scheme_of(uri)
    return _arrow(scheme, path.split("/", 1)[0] if is_remote(uri) else ""), path


def _path(uri: str) -> str:
    if is_remote(uri):
        return uri.split("://", 1)[1]
    return _call(uri, "used", lambda: local_files.path_of(uri))


def _fail(error: Exception, uri: str, done: str) -> NoReturn:
    """What an error of pyarrow or the operating system means."""
    text = " ".join(str(getattr(error, "strerror", None) or error).split())
    uri = printable(uri)
    if isinstance(error, FileNotFoundError) and done != "written":
        raise UserError(f"There is no file {uri}.") from error
    denied = isinstance(error, PermissionError) or any(w in text for w in ("PERMISSION_DENIED", "UNAUTHENTICATED"))
    if not is_remote(uri) or denied or "NOT_FOUND" in text:
        raise UserError(f"{uri} cannot be {done}: {text}.") from error
    raise StorageUnavailable(f"{uri} cannot be {done}: {text}") from error


def _call(uri: str, done: str, call: Callable[[], T]) -> T:
    try:
        return call()
    except (OSError, pa.ArrowException) as error:
        _fail(error, uri, done)


def _on_s3(uri: str) -> bool:
    return scheme_of(uri) == "s3"


def _kind(uri: str) -> str:
    """'file', 'folder', 'other' or '' for nothing, of what is not on S3."""
    if is_remote(uri):
        kinds = {pafs.FileType.NotFound: "", pafs.FileType.File: "file", pafs.FileType.Directory: "folder"}
        return kinds.get(_info(uri).type, "other")
    return _call(uri, "reached", lambda: local_files.kind(_path(uri)))


def _info(uri: str) -> pafs.FileInfo:
    fs, path = arrow_filesystem(uri)
    return _call(uri, "reached", lambda: fs.get_file_info(path))


def exists(uri: str) -> bool:
    """Whether there is a file or a folder (on object storage: anything below it)."""
    if _on_s3(uri):
        return s3.size(_path(uri)) is not None or is_folder(uri)
    return bool(_kind(uri))


def is_folder(uri: str) -> bool:
    if _on_s3(uri):
        return s3.is_folder(_path(uri))
    return _kind(uri) == "folder"


def size_of(uri: str) -> int:
    """Bytes of a file; UserError when there is none."""
    if _on_s3(uri):
        size = s3.size(_path(uri))
    elif is_remote(uri):
        info = _info(uri)
        size = info.size if info.type == pafs.FileType.File else None
    else:
        size = _call(uri, "read", lambda: os.path.getsize(_path(uri))) if _kind(uri) == "file" else None
    if size is None:
        raise UserError(f"There is no file {printable(uri)}.")
    return size


def read_bytes(uri: str) -> bytes:
    """A whole file; on S3 a large one in parallel parts.

    Raises:
        UserError: there is no such file, or it may not be read.
    """
    if _on_s3(uri):
        try:
            return s3.read(_path(uri))
        except s3.Absent as error:
            raise UserError(f"There is no file {uri}.") from error
    if not is_remote(uri):
        return _call(uri, "read", lambda: local_files.read(_path(uri)))
    fs, path = arrow_filesystem(uri)

    def read() -> bytes:
        with fs.open_input_stream(path, compression=None) as stream:
            return stream.read()

    return _call(uri, "read", read)


def open_file(uri: str, size: int | None = None) -> AbstractContextManager[Any]:
    """A file for reading at any place (what Parquet does), by ranges on object storage.

    Args:
        size: of the file, where it is known: saves asking for it.
    """
    if _on_s3(uri):
        try:
            return pa.PythonFile(s3.ObjectFile(_path(uri), size), mode="r")
        except s3.Absent as error:
            raise UserError(f"There is no file {uri}.") from error
    if not is_remote(uri):
        return _call(uri, "read", lambda: local_files.open_file(_path(uri)))
    fs, path = arrow_filesystem(uri)
    return _call(uri, "read", lambda: fs.open_input_file(path))


def write_bytes(uri: str, data: bytes) -> None:
    """Write a file whole or not at all: an object store publishes at the end, a local file is renamed into place."""
    if _on_s3(uri):
        s3.write(_path(uri), data)
        return
    if not is_remote(uri):
        _call(uri, "written", lambda: local_files.write(_path(uri), data))
        return
    fs, path = arrow_filesystem(uri)
    # One write and then close: a failed write leaves the upload unfinished, and nothing is published.
    stream = _call(uri, "written", lambda: fs.open_output_stream(path, compression=None))
    _call(uri, "written", lambda: (stream.write(data), stream.close()))


def create(uri: str, data: bytes) -> bool:
    """Write a file whole where there is none. False: there is one already, and it stays.

    Of several that try at once exactly one gets True, where `conditional(uri)`; elsewhere it is looked at first and
    then written, and two at the same moment may both get True: the caller has to look again.
    """
    if _on_s3(uri) and s3_conditions.conditional(_path(uri).rpartition("/")[0]):
        return s3_conditions.create(_path(uri), data)
    if is_remote(uri):
        absent = not exists(uri)
        if absent:
            write_bytes(uri, data)
        return absent
    return _call(uri, "written", lambda: local_files.create(_path(uri), data))


def replace(uri: str, data: bytes, version: str) -> bool:
    """Write a file in place of just that `version`. False: it is another one by now, or gone.

    Exact where `conditional(uri)` on S3; elsewhere there is a gap between look and write (a file lock closes it).
    """
    if _on_s3(uri) and s3_conditions.conditional(_path(uri).rpartition("/")[0]):
        return s3_conditions.replace(_path(uri), data, version)
    same = read_version(uri) == version
    if same:
        write_bytes(uri, data)
    return same


def conditional(uri: str) -> bool:
    """Whether `create` is exact there: local disks and the S3 stores that know conditional writes (tried once)."""
    return s3_conditions.conditional(_path(uri).rpartition("/")[0]) if _on_s3(uri) else not is_remote(uri)


def read_version(uri: str) -> str | None:
    """What differs after every `write_bytes` of a file; None when there is no file."""
    if _on_s3(uri):
        return s3_conditions.current(_path(uri))
    if is_remote(uri):
        info = _info(uri)
        return f"{info.mtime_ns}-{info.size}" if info.type == pafs.FileType.File else None
    return _call(uri, "read", lambda: local_files.version(_path(uri)))


def _below(uri: str, recursive: bool) -> Iterator[tuple[str, int, bool]]:
    """(URI, bytes, is a folder) of what lies below a folder; an absent folder has nothing."""
    if _on_s3(uri):
        bucket = s3.split(_path(uri))[0]
        for entry in s3.entries(_path(uri), recursive):
            yield f"s3://{bucket}/{entry.key}", entry.size, entry.folder
        return
    if not is_remote(uri):
        yield from _call(uri, "listed", lambda: list(local_files.below(_path(uri), recursive)))
        return
    fs, path = arrow_filesystem(uri)
    selector = pafs.FileSelector(path, allow_not_found=True, recursive=recursive)
    for info in _call(uri, "listed", lambda: fs.get_file_info(selector)):
        if info.type != pafs.FileType.NotFound:
            yield f"{scheme_of(uri)}://{info.path}", info.size or 0, info.type == pafs.FileType.Directory


def file_sizes(uri: str, suffix: str = "", recursive: bool = False) -> dict[str, int]:
    """Bytes of the files below a folder by URI, sorted; an absent folder has none."""
    return dict(sorted((n, size) for n, size, folder in _below(uri, recursive) if not folder and n.endswith(suffix)))


def list_files(uri: str, suffix: str = "", recursive: bool = True) -> list[str]:
    """URIs of the files below a folder, sorted; an absent folder has none."""
    return list(file_sizes(uri, suffix, recursive))


def list_folders(uri: str) -> list[str]:
    """URIs of the folders directly below a folder, sorted."""
    return sorted(name for name, _, folder in _below(uri, recursive=False) if folder)


def remove(uri: str) -> None:
    """Delete a file or a folder with all below it; absent is fine."""
    if _on_s3(uri):
        s3.delete(_path(uri))
        return
    if not is_remote(uri):
        _call(uri, "deleted", lambda: local_files.remove(_path(uri)))
        return
    fs, path = arrow_filesystem(uri)
    kind = _kind(uri)
    if kind == "folder":
        _call(uri, "deleted", lambda: fs.delete_dir(path))
    elif kind == "file":
        _call(uri, "deleted", lambda: fs.delete_file(path))


def map_parallel(function: Callable[[V], T], values: Iterable[V]) -> Generator[T]:
    """`function` of each value, in order, `AT_ONCE` ahead: for requests that wait for a store, not for the CPU."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        ahead: deque[Future[T]] = deque()
        for value in values:
            ahead.append(pool.submit(function, value))
            if len(ahead) == AT_ONCE:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
