"""One way to open local paths and s3:// and gs:// URIs.

Everything goes through `pyarrow.fs`; credentials and endpoints come from the ordinary environment (AWS_*, GOOGLE_*).
"""

from __future__ import annotations

import os
import uuid
from functools import lru_cache

import pyarrow as pa
import pyarrow.fs as pafs

from pipeline.errors import UserError

SCHEMES = ("s3", "gs", "file")
S3_ATTEMPTS = 10  # the default of 3 gives up under a store that answers 503 now and then


def scheme_of(uri: str) -> str:
    """'s3', 'gs', ... or '' for a local path."""
    return uri.split("://", 1)[0] if "://" in uri else ""


@lru_cache(maxsize=16)
def _filesystem(scheme: str) -> pafs.FileSystem:
    if scheme in ("", "file"):
        return pafs.LocalFileSystem()
    if scheme == "s3":
        # Not every pyarrow reads the endpoint from the environment, as every other AWS client does.
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        retries = pafs.AwsStandardS3RetryStrategy(max_attempts=S3_ATTEMPTS)
        return pafs.S3FileSystem(retry_strategy=retries, endpoint_override=endpoint)
    if scheme == "gs":
        return pafs.GcsFileSystem()
    raise UserError(f"{scheme}:// is not a kind of storage we know; use a local path, s3:// or gs://.")


def filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a URI and the path inside it."""
    scheme = scheme_of(uri)
    path = uri.split("://", 1)[1] if scheme else os.path.abspath(os.path.expanduser(uri))
    return _filesystem(scheme), path


def absolute(uri: str) -> str:
    """The URI in a form that does not depend on the working folder."""
    return uri.rstrip("/") if scheme_of(uri) else os.path.abspath(os.path.expanduser(uri))


def join(uri: str, *parts: str) -> str:
    return "/".join([uri.rstrip("/"), *(p.strip("/") for p in parts)])


def _info(uri: str) -> pafs.FileInfo:
    fs, path = filesystem(uri)
    try:
        return fs.get_file_info(path)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"Cannot reach {uri}: {error}") from error


def exists(uri: str) -> bool:
    return _info(uri).type != pafs.FileType.NotFound


def is_folder(uri: str) -> bool:
    return _info(uri).type == pafs.FileType.Directory


def size_of(uri: str) -> int:
    """Bytes of a file; UserError when there is none."""
    info = _info(uri)
    if info.type != pafs.FileType.File:
        raise UserError(f"There is no file {uri}.")
    return info.size


def read_bytes(uri: str) -> bytes:
    """A whole file.

    Raises:
        UserError: there is no such file, or it cannot be reached.
    """
    fs, path = filesystem(uri)
    try:
        with fs.open_input_stream(path, compression=None) as stream:
            return stream.read()
    except FileNotFoundError as error:
        raise UserError(f"There is no file {uri}.") from error


def write_bytes(uri: str, data: bytes) -> None:
    """Write a file whole or not at all: an object store publishes on close, a local file is renamed into place."""
    fs, path = filesystem(uri)
    if not isinstance(fs, pafs.LocalFileSystem):
        with fs.open_output_stream(path, compression=None) as stream:
            stream.write(data)
        return
    partial = f"{path}.{uuid.uuid4().hex}.partial"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        if os.path.exists(partial):
            os.unlink(partial)
        raise UserError(f"Cannot write {uri}: {error.strerror or error}.") from error


def list_files(uri: str, suffix: str = "", recursive: bool = True) -> list[str]:
    """URIs of the files below a folder, sorted; an absent folder has none."""
    fs, path = filesystem(uri)
    selector = pafs.FileSelector(path, allow_not_found=True, recursive=recursive)
    prefix = f"{scheme_of(uri)}://" if scheme_of(uri) else ""
    found = (f for f in fs.get_file_info(selector) if f.type == pafs.FileType.File and f.path.endswith(suffix))
    return sorted(prefix + f.path for f in found)


def list_folders(uri: str) -> list[str]:
    """URIs of the folders directly below a folder, sorted."""
    fs, path = filesystem(uri)
    selector = pafs.FileSelector(path, allow_not_found=True)
    prefix = f"{scheme_of(uri)}://" if scheme_of(uri) else ""
    return sorted(prefix + f.path for f in fs.get_file_info(selector) if f.type == pafs.FileType.Directory)


def remove(uri: str) -> None:
    """Delete a file or a folder with all below it; absent is fine."""
    fs, path = filesystem(uri)
    kind = _info(uri).type
    if kind == pafs.FileType.Directory:
        fs.delete_dir(path)
    elif kind == pafs.FileType.File:
        fs.delete_file(path)
