"""S3 through boto3: AWS, MinIO and whatever else speaks its protocol. Used by `pipeline.storage` alone.

Endpoint, region and credentials come from where every AWS tool takes them: the environment (AWS_*), the profile, the
machine's role. Transient failures (503 SlowDown, time-outs, dropped connections, bodies that end early) are tried again
with growing pauses; what is left after that is `StorageUnavailable`, and everything a user can mend is a `UserError`.
"""

from __future__ import annotations

import io
import random
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, TypeVar

from pipeline.errors import StorageUnavailable, UserError
from pipeline.s3_errors import ABSENT, DENIED, NO_BUCKET, REGION, Absent, Changed, Unsupported, explain

T = TypeVar("T")

PROBE_ATTEMPTS = 4  # of the first look at a bucket: a dead endpoint is reported after some seconds
ATTEMPTS = 10  # of one request, by botocore ("standard" mode: pauses grow to 20 s)
BODY_ATTEMPTS = 6  # of a download whose body ends early, which botocore does not repeat
LONGEST_PAUSE = 20.0
PAGE = 1000  # keys of one answer or deletion, the most that S3 knows
PART = 16 << 20  # bytes of a part of a large file
THREADS = 8  # parts of one file on their way at once


@dataclass(frozen=True)
class Entry:
    """A key below a prefix; `folder` when it only stands for the keys below it."""

    key: str
    size: int
    folder: bool = False


def split(path: str) -> tuple[str, str]:
    """'bucket/some/key' to ('bucket', 'some/key').

    Raises:
        UserError: no bucket, or credentials in it.
    """
    bucket, _, key = path.partition("/")
    if "@" in bucket or ":" in bucket or "?" in path:
        raise UserError(
            "An s3:// URI is s3://BUCKET/PREFIX and nothing more. Credentials, endpoint and region come from the "
            "environment (AWS_PROFILE or AWS_ACCESS_KEY_ID ..., AWS_ENDPOINT_URL, AWSREGION) or the machine's role."
        )
    if not bucket:
        raise UserError("An s3:// URI needs a bucket: s3://BUCKET/PREFIX.")
    return bucket, key


@lru_cache(maxsize=2)
def _client(attempts: int) -> Any:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    config = Config(
        retries={"mode": "standard", "max_attempts": attempts},
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=4 * THREADS,
    )
    try:
        return boto3.Session().client("s3", config=config)
    except (BotoCoreError, ValueError) as error:  # a profile that does not exist, an endpoint that is no URL
        raise UserError(f"The AWS settings of this machine cannot be used: {error}.") from error


@lru_cache(maxsize=64)
def client(bucket: str) -> Any:
    """A client for a bucket that was seen to be there: a dead endpoint is found in seconds, not after all retries.

    Raises:
        UserError: no such bucket, no credentials, a region or endpoint that is wrong.
    """
    from botocore.exceptions import ClientError

    try:
        _client(PROBE_ATTEMPTS).head_bucket(Bucket=bucket)
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        # A role may read objects and not look at the bucket; one that is throttled is there.
        if code in ABSENT | NO_BUCKET | REGION:
            explain(error, f"s3://{bucket}", "reached", bucket_only=True)
    except Exception as error:
        explain(error, f"s3://{bucket}", "reached")
    return _client(ATTEMPTS)


def endpoint_and_region() -> tuple[str | None, str | None]:
    """What other clients of this process should use: the endpoint (None: AWS's own) and the region."""
    meta = _client(ATTEMPTS).meta
    own = meta.endpoint_url.rstrip("/").endswith((".amazonaws.com", ".amazonaws.com.cn"))
    return (None if own else meta.endpoint_url), meta.region_name


def _try(uri: str, done: str, call: Callable[[], T]) -> T:
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

    for attempt in range(1, BODY_ATTEMPTS):
        try:
            return _try(uri, "read", once)
        except (StorageUnavailable, Changed):
            time.sleep(min(LONGEST_PAUSE, 0.25 * 2**attempt) * (0.5 + random.random() / 2))
    try:
        return _try(uri, "read", once)
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
        _try(f"s3://{path}", "written", lambda: s3.put_object(Bucket=bucket, Key=key, Body=data))
        return
    parts = TransferConfig(multipart_threshold=PART, multipart_chunksize=PART, max_concurrency=THREADS)
    _try(f"s3://{path}", "written", lambda: s3.upload_fileobj(io.BytesIO(data), bucket, key, Config=parts))


def create(path: str, data: bytes) -> bool:
    """Publish an object where there is none (If-None-Match). False: there is one already; it stays.

    Only true where `conditional` is; a store that ignores the condition overwrites, one that does not know it refuses.
    """
    return _write_if(path, data, IfNoneMatch="*")


def replace(path: str, data: bytes, version: str) -> bool:
    """Publish an object in place of just this version (If-Match). False: it is another one by now, or gone."""
    return _write_if(path, data, IfMatch=version)


def _write_if(path: str, data: bytes, **condition: str) -> bool:
    bucket, key = split(path)
    s3 = client(bucket)
    try:
        _try(f"s3://{path}", "written", lambda: s3.put_object(Bucket=bucket, Key=key, Body=data, **condition))
        return True
    except Absent:  # no object to match
        return False
    except Changed:
        # The answer to a write that was done may have been lost, and its repetition then finds our own object.
        try:
            return read(path) == data
        except Absent:
            return False


def version(path: str) -> str | None:
    """What changes with every write (the ETag); None when there is no object."""
    bucket, key = split(path)
    s3 = client(bucket)
    try:
        return str(_try(f"s3://{path}", "read", lambda: s3.head_object(Bucket=bucket, Key=key))["ETag"])
    except Absent:
        return None


@lru_cache(maxsize=64)
def conditional(path: str) -> bool:
    """Whether the store honours conditions on writing, found by trying with an object of our own below `path`.

    AWS and MinIO do since 2024; others ignore the header in silence, or refuse it.
    """
    probe = f"{path.rstrip('/')}/.conditional-{uuid.uuid4().hex}"
    bucket, key = split(probe)
    s3 = client(bucket)
    put = partial(s3.put_object, Bucket=bucket, Key=key, IfNoneMatch="*")
    try:
        with suppress(Changed):  # the repetition of a write whose answer was lost
            _try(f"s3://{probe}", "written", partial(put, Body=b"1"))
        try:
            _try(f"s3://{probe}", "written", partial(put, Body=b"2"))
        except Changed:
            return True
        return False
    except Unsupported:
        return False
    finally:
        _try(f"s3://{probe}", "deleted", lambda: s3.delete_object(Bucket=bucket, Key=key))


def size(path: str) -> int | None:
    """Bytes of an object, None when there is none."""
    bucket, key = split(path)
    if not key:
        return None
    s3 = client(bucket)
    try:
        return int(_try(f"s3://{path}", "read", lambda: s3.head_object(Bucket=bucket, Key=key))["ContentLength"])
    except Absent:
        return None


def is_folder(path: str) -> bool:
    """Whether any key lies below, be it a mere marker."""
    return next(_below(path, recursive=True, most=1), None) is not None


def entries(path: str, recursive: bool) -> Iterator[Entry]:
    """What lies below a folder: objects, and with `recursive` False the folders directly below it."""
    # Some tools (pyarrow's file system, web consoles) put an empty object "folder/" where a folder should be.
    return (entry for entry in _below(path, recursive) if entry.folder or not entry.key.endswith("/"))


def _below(path: str, recursive: bool, most: int = 0) -> Iterator[Entry]:
    bucket, key = split(path)
    prefix = f"{key.rstrip('/')}/" if key.rstrip("/") else ""
    s3 = client(bucket)
    options: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix, "MaxKeys": most or PAGE}
    if not recursive:
        options["Delimiter"] = "/"
    while True:
        page = _try(f"s3://{path}", "listed", lambda: s3.list_objects_v2(**options))
        for common in page.get("CommonPrefixes", ()):
            yield Entry(common["Prefix"].rstrip("/"), 0, folder=True)
        for found in page.get("Contents", ()):
            yield Entry(found["Key"], found["Size"])
        if most or not page.get("IsTruncated"):
            return
        options["ContinuationToken"] = page["NextContinuationToken"]


def delete(path: str) -> None:
    """Delete an object and all below it, never a whole bucket; absent is fine."""
    bucket, key = split(path)
    if not key.strip("/"):
        raise ValueError(f"s3://{path} is a bucket")
    s3 = client(bucket)
    keys = [key, *(entry.key for entry in _below(path, recursive=True))]
    for at in range(0, len(keys), PAGE):
        named = [{"Key": k} for k in keys[at : at + PAGE]]
        request = partial(s3.delete_objects, Bucket=bucket, Delete={"Objects": named, "Quiet": True})
        for problem in _try(f"s3://{path}", "deleted", request).get("Errors", ()):
            kind = UserError if problem.get("Code") in DENIED else StorageUnavailable
            raise kind(f"s3://{bucket}/{problem.get('Key')} cannot be deleted: {problem.get('Code')}.")


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
