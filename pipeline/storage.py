"""One way to open local paths and s3:// and gs:// URIs.

s3:// goes through boto3 (`pipeline.s3`), the rest through `pyarrow.fs`; credentials and endpoints come from the
ordinary environment (AWS_*, profiles, GOOGLE_*). Every function raises `UserError` for what the user can mend (no such
file or bucket, no right to it, a full disk) and `StorageUnavailable` when the store does not answer after all retries.
"""

from __future__ import annotations

import errno
import os
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import timedelta
from functools import lru_cache
from typing import Any, NoReturn, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from pipeline import s3
from pipeline.errors import StorageUnavailable, UserError

T = TypeVar("T")
V = TypeVar("V")

SCHEMES = ("s3", "gs", "file")
GS_PATIENCE = timedelta(seconds=90)  # of one request, retries included
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)  # file systems without hard links
AT_ONCE = 16  # requests of `map_parallel` on their way


def scheme_of(uri: str) -> str:
    """'s3', 'gs', ... or '' for a local path."""
    return uri.split("://", 1)[0] if "://" in uri else ""


def is_remote(uri: str) -> bool:
    """Whether every machine sees the same thing there."""
    return scheme_of(uri) not in ("", "file")


def absolute(uri: str) -> str:
    """The URI in a form that does not depend on the working folder."""
    return uri.rstrip("/") if scheme_of(uri) else os.path.abspath(os.path.expanduser(uri))


def join(uri: str, *parts: str) -> str:
    return "/".join([uri.rstrip("/"), *(p.strip("/") for p in parts)])


@lru_cache(maxsize=16)
def _arrow(scheme: str, bucket: str) -> pafs.FileSystem:
    if scheme in ("", "file"):
        return pafs.LocalFileSystem()
    if scheme == "gs":
        return pafs.GcsFileSystem(retry_time_limit=GS_PATIENCE)
    if scheme == "s3":
        s3.client(bucket)  # complains in seconds where arrow's retries would take a minute
        endpoint, region = s3.endpoint_and_region()
        # No credentials: given as arguments they would be readable in every pickle of this object.
        retries = pafs.AwsStandardS3RetryStrategy(max_attempts=s3.ATTEMPTS)
        return pafs.S3FileSystem(retry_strategy=retries, endpoint_override=endpoint, region=region)
    raise UserError(f"{scheme}:// is not a kind of storage we know; use a local path, s3:// or gs://.")


def arrow_filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """A pyarrow file system for a URI and the path inside it: for engines that want one; our own code does not."""
    path = _path(uri)
    return _arrow(scheme_of(uri), path.split("/", 1)[0]), path


def _path(uri: str) -> str:
    return uri.split("://", 1)[1] if scheme_of(uri) else os.path.abspath(os.path.expanduser(uri))


def _fail(error: Exception, uri: str, done: str) -> NoReturn:
    """What an error of pyarrow or the operating system means."""
    text = " ".join(str(getattr(error, "strerror", None) or error).split())
    if isinstance(error, FileNotFoundError):
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


def _info(uri: str) -> pafs.FileInfo:
    fs, path = arrow_filesystem(uri)
    return _call(uri, "reached", lambda: fs.get_file_info(path))


def exists(uri: str) -> bool:
    """Whether there is a file or a folder (on object storage: anything below it)."""
    if _on_s3(uri):
        return s3.size(_path(uri)) is not None or is_folder(uri)
    return _info(uri).type != pafs.FileType.NotFound


def is_folder(uri: str) -> bool:
    if _on_s3(uri):
        return s3.is_folder(_path(uri))
    return _info(uri).type == pafs.FileType.Directory


def size_of(uri: str) -> int:
    """Bytes of a file; UserError when there is none."""
    if _on_s3(uri):
        size = s3.size(_path(uri))
    else:
        info = _info(uri)
        size = info.size if info.type == pafs.FileType.File else None
    if size is None:
        raise UserError(f"There is no file {uri}.")
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
    fs, path = arrow_filesystem(uri)
    return _call(uri, "read", lambda: fs.open_input_file(path))


def write_bytes(uri: str, data: bytes) -> None:
    """Write a file whole or not at all: an object store publishes at the end, a local file is renamed into place."""
    if _on_s3(uri):
        s3.write(_path(uri), data)
        return
    fs, path = arrow_filesystem(uri)
    if is_remote(uri):

        def send() -> None:
            # One write and then close: a failed write leaves the upload unfinished, and nothing is published.
            stream = fs.open_output_stream(path, compression=None)
            stream.write(data)
            stream.close()

        _call(uri, "written", send)
        return
    partial = f"{path}.{uuid.uuid4().hex}.partial"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        _write_synced(partial, data)
        os.replace(partial, path)
    except OSError as error:
        if os.path.exists(partial):
            os.unlink(partial)
        _fail(error, uri, "written")


def create(uri: str, data: bytes) -> bool:
    """Write a file whole where there is none. False: there is one already, and it stays.

    Of several that try at once exactly one gets True, where `conditional(uri)`; elsewhere it is looked at first and
    then written, and two at the same moment may both get True: the caller has to look again.
    """
    if _on_s3(uri) and s3.conditional(_parent(uri)):
        return s3.create(_path(uri), data)
    if is_remote(uri):
        if exists(uri):
            return False
        write_bytes(uri, data)
        return True
    path = _path(uri)
    partial = f"{path}.{uuid.uuid4().hex}.partial"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            _write_synced(partial, data)
            os.link(partial, path)  # whole at once, and refused when there is one
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            _write_synced(path, data, mode="xb")
        return True
    except FileExistsError:
        return False
    except OSError as error:
        _fail(error, uri, "written")
    finally:
        if os.path.exists(partial):
            os.unlink(partial)


def replace(uri: str, data: bytes, version: str) -> bool:
    """Write a file in place of just that `version`. False: it is another one by now, or gone.

    Exact where `conditional(uri)` on S3; elsewhere it is looked at first, and between look and write there is a gap
    (on a local disk a file lock closes it).
    """
    if _on_s3(uri) and s3.conditional(_parent(uri)):
        return s3.replace(_path(uri), data, version)
    if read_version(uri) != version:
        return False
    write_bytes(uri, data)
    return True


def conditional(uri: str) -> bool:
    """Whether `create` is exact there: local disks and the S3 stores that know conditional writes (tried once)."""
    return s3.conditional(_parent(uri)) if _on_s3(uri) else not is_remote(uri)


def read_version(uri: str) -> str | None:
    """What differs after every `write_bytes` of a file; None when there is no file."""
    if _on_s3(uri):
        return s3.version(_path(uri))
    if is_remote(uri):
        info = _info(uri)
        return f"{info.mtime_ns}-{info.size}" if info.type == pafs.FileType.File else None
    try:
        found = os.stat(_path(uri))
    except FileNotFoundError:
        return None
    except OSError as error:
        _fail(error, uri, "read")
    return f"{found.st_ino}-{found.st_mtime_ns}-{found.st_size}"


def _parent(uri: str) -> str:
    return _path(uri).rpartition("/")[0]


def _write_synced(path: str, data: bytes, mode: str = "wb") -> None:
    with open(path, mode) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _below(uri: str, recursive: bool) -> Iterator[tuple[str, int, bool]]:
    """(URI, bytes, is a folder) of what lies below a folder; an absent folder has nothing."""
    prefix = f"{scheme_of(uri)}://" if scheme_of(uri) else ""
    if _on_s3(uri):
        bucket = s3.split(_path(uri))[0]
        for entry in s3.entries(_path(uri), recursive):
            yield f"s3://{bucket}/{entry.key}", entry.size, entry.folder
        return
    fs, path = arrow_filesystem(uri)
    selector = pafs.FileSelector(path, allow_not_found=True, recursive=recursive)
    for info in _call(uri, "listed", lambda: fs.get_file_info(selector)):
        if info.type != pafs.FileType.NotFound:
            yield prefix + info.path, info.size or 0, info.type == pafs.FileType.Directory


def file_sizes(uri: str, suffix: str = "", recursive: bool = False) -> dict[str, int]:
    """Bytes of the files below a folder by URI, sorted; an absent folder has none."""
    found = ((name, size) for name, size, folder in _below(uri, recursive) if not folder and name.endswith(suffix))
    return dict(sorted(found))


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
    fs, path = arrow_filesystem(uri)
    kind = _info(uri).type
    if kind == pafs.FileType.Directory:
        _call(uri, "deleted", lambda: fs.delete_dir(path))
    elif kind == pafs.FileType.File:
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
