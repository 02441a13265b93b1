"""S3 through boto3: AWS, MinIO, Ceph and whatever else speaks its protocol. Used by `pipeline.storage` alone.

Only requests that all of them know: an object is deleted by its own request, as deleting many at once needs a checksum
on which stores do not agree. Transient failures (503 SlowDown, time-outs, dropped connections, bodies that end early)
are tried again with growing pauses; what is left after that is `StorageUnavailable`, and everything a user can mend is
a `UserError`.
"""

from __future__ import annotations

import io
import random
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from pipeline.errors import StorageUnavailable, UserError
from pipeline.storage.s3_client import client
from pipeline.storage.s3_errors import Absent, Changed, Unsupported, explain

T = TypeVar("T")

BODY_ATTEMPTS = 6  # of a download whose body ends early, which botocore does not repeat
LONGEST_PAUSE = 20.0
PAGE = 1000  # keys of one answer, the most that S3 knows
PART = 16 << 20  # bytes of a part of a large file
THREADS = 8  # parts of one file on their way at once
# What other tools take behind a "?", which is a letter of a key like any other.
OPTIONS = re.compile(r"\?([^/]*&)?(endpoint_override|access_key|secret_key|session_token|role_arn)=")


@dataclass(frozen=True)
class Entry:
    """A key below a prefix; `folder` when it only stands for the keys below it."""

    key: str
    size: int
    folder: bool = False
    tag: str = ""  # the store's, another one for another content


def split(path: str) -> tuple[str, str]:
    """'bucket/some/key' to ('bucket', 'some/key').

    Raises:
        UserError: no bucket, or credentials in it.
    """
    bucket, _, key = path.partition("/")
    if bucket.startswith("arn:"):
        raise UserError(
            f"s3://{path}: an access point is named by its alias (NAME-...-s3alias, in the console), as a bucket is."
        )
    if "@" in bucket or ":" in bucket or "?" in bucket or OPTIONS.search(key):
        raise UserError(
            "An s3:// URI is s3://BUCKET/PREFIX and nothing more. Credentials, endpoint and region come from the "
            "environment (AWS_PROFILE or AWS_ACCESS_KEY_ID ..., AWS_ENDPOINT_URL, AWS_REGION) or the machine's role."
        )
    if not bucket:
        raise UserError("An s3:// URI needs a bucket: s3://BUCKET/PREFIX.")
    return bucket, key


def attempt(uri: str, done: str, call: Callable[[], T]) -> T:
    """One request; what its error means is raised in its place."""
    try:
        return call()
    except (Absent, Changed, Unsupported, UserError, StorageUnavailable):
        raise
    except Exception as error:
        explain(error, uri, done)


def _body(uri: str, request: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any], bytes]:
    """Answer and body of a GET; one that ends early is asked for again."""

    def once() -> tuple[dict[str, Any], bytes]:
        answer = request()
        return answer, answer["Body"].read()

    for number in range(1, BODY_ATTEMPTS):
        try:
            return attempt(uri, "read", once)
        except (StorageUnavailable, Changed):
            time.sleep(min(LONGEST_PAUSE, 0.25 * 2**number) * (0.5 + random.random() / 2))
    try:
        return attempt(uri, "read", once)
    except Changed as error:
        raise StorageUnavailable(f"{uri} cannot be read: it is replaced again and again.") from error


def read(path: str) -> bytes:
    """A whole object; a large one in parallel parts, all of the same version.

    Raises:
        Absent: there is none.
    """
    bucket, key = split(path)
    uri = f"s3://{path}"
    s3 = client(bucket)

    def first() -> dict[str, Any]:
        from botocore.exceptions import ClientError

        try:
            return s3.get_object(Bucket=bucket, Key=key, Range=f"bytes=0-{PART - 1}")
        except ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") != 416:
                raise
            return s3.get_object(Bucket=bucket, Key=key)  # an empty object has no first byte

    answer, start = _body(uri, first)
    size = int(answer.get("ContentRange", f"/{len(start)}").rsplit("/", 1)[1])
    if size <= len(start):
        return start

    def part(at: int) -> bytes:
        reach = f"bytes={at}-{min(at + PART, size) - 1}"
        return _body(uri, lambda: s3.get_object(Bucket=bucket, Key=key, Range=reach, IfMatch=answer["ETag"]))[1]

    with ThreadPoolExecutor(THREADS) as pool:
        return b"".join([start, *pool.map(part, range(len(start), size, PART))])


def read_range(path: str, start: int, stop: int) -> bytes:
    """Bytes start..stop-1 of an object (fewer where it ends before).

    Raises:
        Absent: there is none.
    """
    bucket, key = split(path)
    s3 = client(bucket)
    reach = f"bytes={start}-{stop - 1}"
    return _body(f"s3://{path}", lambda: s3.get_object(Bucket=bucket, Key=key, Range=reach))[1]


def write(path: str, data: bytes) -> None:
    """Publish an object whole or not at all; a large one is sent in parallel parts (and taken back if one fails)."""
    from boto3.s3.transfer import TransferConfig

    bucket, key = split(path)
    s3 = client(bucket)
    if len(data) < PART:
        attempt(f"s3://{path}", "written", lambda: s3.put_object(Bucket=bucket, Key=key, Body=data))
        return
    parts = TransferConfig(multipart_threshold=PART, multipart_chunksize=PART, max_concurrency=THREADS)
    attempt(f"s3://{path}", "written", lambda: s3.upload_fileobj(io.BytesIO(data), bucket, key, Config=parts))


def size(path: str) -> int | None:
    """Bytes of an object, None when there is none."""
    bucket, key = split(path)
    if not key:
        return None
    s3 = client(bucket)
    try:
        return int(attempt(f"s3://{path}", "read", lambda: s3.head_object(Bucket=bucket, Key=key))["ContentLength"])
    except Absent:
        return None


def is_folder(path: str) -> bool:
    """Whether any key lies below, be it a mere marker."""
    return next(_below(path, recursive=True, most=1), None) is not None


def entries(path: str, recursive: bool) -> Iterator[Entry]:
    """What lies below a folder: objects, and with `recursive` False the folders directly below it."""
    # Some tools (file systems, web consoles) put an empty object "folder/" where a folder should be.
    return (entry for entry in _below(path, recursive) if entry.folder or entry.size or not entry.key.endswith("/"))


def _below(path: str, recursive: bool, most: int = 0) -> Iterator[Entry]:
    bucket, key = split(path)
    prefix = f"{key.rstrip('/')}/" if key.rstrip("/") else ""
    s3 = client(bucket)
    options: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix, "MaxKeys": most or PAGE}
    if not recursive:
        options["Delimiter"] = "/"
    while True:
        page = attempt(f"s3://{path}", "listed", lambda: s3.list_objects_v2(**options))
        for common in page.get("CommonPrefixes", ()):
            name = common["Prefix"].rstrip("/")
            if len(name) > len(prefix):  # not that of "folder//key", which has no name
                yield Entry(name, 0, folder=True)
        for found in page.get("Contents", ()):
            yield Entry(found["Key"], found["Size"], tag=str(found.get("ETag", found.get("LastModified", ""))))
        if most or not page.get("IsTruncated"):
            return
        options["ContinuationToken"] = page["NextContinuationToken"]


def delete(path: str, itself: bool = True, below: bool = True) -> None:
    """Delete an object and all below it, never a whole bucket; where nothing is, nothing is asked for."""
    bucket, key = split(path)
    if not key.strip("/"):
        raise ValueError(f"s3://{path} is a bucket")
    s3 = client(bucket)
    keys = {key} if itself and size(path) is not None else set()
    if below:
        keys.update(entry.key for entry in _below(path, recursive=True))

    def one(name: str) -> None:
        with suppress(Absent):  # some stores answer so, and it is what we want
            attempt(f"s3://{bucket}/{name}", "deleted", lambda: s3.delete_object(Bucket=bucket, Key=name))

    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(one, sorted(keys)):
            pass


class ObjectFile(io.RawIOBase):
    """An object as a seekable read-only file: every read is one request for exactly those bytes."""

    def __init__(self, path: str, length: int | None = None) -> None:
        """Args: length of the object in bytes; None asks for it.

        Raises:
            Absent: there is none.
        """
        found = size(path) if length is None else length
        if found is None:
            raise Absent(f"s3://{path}")
        self._path, self._size, self._at = path, found, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, count: int = -1, /) -> bytes:
        stop = self._size if count is None or count < 0 else min(self._at + count, self._size)
        if stop <= self._at:
            return b""
        data = read_range(self._path, self._at, stop)
        self._at += len(data)
        return data

    def readinto(self, buffer: Any, /) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
