"""Writing to S3 only where nothing is, or in place of one version: what a lease needs.

Used by `pipeline.storage` alone.
"""

from __future__ import annotations

import uuid
from contextlib import suppress
from functools import lru_cache, partial

from pipeline.storage.s3 import attempt, read, split
from pipeline.storage.s3_client import client
from pipeline.storage.s3_errors import Absent, Changed, Unsupported


def create(path: str, data: bytes) -> bool:
    """Publish an object where there is none (If-None-Match). False: there is one already; it stays.

    Only true where `conditional` is; a store that ignores the condition overwrites, one that does not know it refuses.
    """
    return _write_if(path, data, IfNoneMatch="*")


def replace(path: str, data: bytes, version: str) -> bool:
    """Publish an object in place of just this version (If-Match). False: it is another one by now, or gone."""
    if _write_if(path, data, IfMatch=version):
        return True
    # Some stores (Ceph before 17) compare with the quotes that they themselves put around an ETag.
    return current(path) == version and _write_if(path, data, IfMatch=version.strip('"'))


def _write_if(path: str, data: bytes, **condition: str) -> bool:
    bucket, key = split(path)
    s3 = client(bucket)
    try:
        attempt(f"s3://{path}", "written", lambda: s3.put_object(Bucket=bucket, Key=key, Body=data, **condition))
        return True
    except Absent:  # no object to match
        return False
    except Changed:
        # The answer to a write that was done may have been lost, and its repetition then finds our own object.
        try:
            return read(path) == data
        except Absent:
            return False


def current(path: str) -> str | None:
    """What changes with every write (the ETag); None when there is no object."""
    bucket, key = split(path)
    s3 = client(bucket)
    try:
        return str(attempt(f"s3://{path}", "read", lambda: s3.head_object(Bucket=bucket, Key=key))["ETag"])
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
            attempt(f"s3://{probe}", "written", partial(put, Body=b"1"))
        try:
            attempt(f"s3://{probe}", "written", partial(put, Body=b"2"))
        except Changed:
            return True
        return False
    except Unsupported:
        return False
    finally:
        attempt(f"s3://{probe}", "deleted", lambda: s3.delete_object(Bucket=bucket, Key=key))
