"""`manifest.json`, what makes a folder of shards a data set, and reading of the row groups it lists.

OUT/manifest.json       written last: without it the data set is unfinished
OUT/plan.json           written first: what is being converted; beside it files.json, how the raw files looked then
OUT/shard-00000.parquet rows; shard-00000.json beside it says that it is finished, and what is in it
OUT/rejected.parquet    what was set aside, when anything was
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from functools import lru_cache

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.config.options import load_json
from pipeline.data.schema import SCHEMA_VERSION, Row
from pipeline.errors import UserError

MANIFEST, PLAN, FILES, REJECTED = "manifest.json", "plan.json", "files.json", "rejected.parquet"
READ_ATTEMPTS = 3
RETRY_SECONDS = 0.5


@dataclass(frozen=True)
class ShardInfo:
    """One Parquet file.

    Attributes:
        path: relative to the manifest's folder.
        row_groups: rows of each row group.
        weights: sum of the rows' sampling weights of each row group.
        bytes: size of the file.
        sha256: of the file, hexadecimal.
    """

    path: str
    row_groups: list[int]
    weights: list[float]
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a prepared data set holds.

    Attributes:
        split: "train", "val", or "" for a data set without splits.
        rows: images.
        objects: of all rows, things and stuff.
        rejected: images and objects set aside as bad, by reason (listed in rejected.parquet).
        left_out: sound images without a row, by reason.
        understood: what files were taken for where that is not plain.
    """

    schema_version: int
    name: str
    source: str
    split: str
    rows: int
    objects: int
    shards: list[ShardInfo]
    rejected: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    understood: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> bytes:
        return (json.dumps(asdict(self), indent=1) + "\n").encode()

    @staticmethod
    def from_json(data: bytes) -> Manifest:
        """Inverse of `to_json`; ValueError, KeyError or TypeError when it is something else."""
        values = load_json(data)
        return Manifest(**{**values, "shards": [ShardInfo(**shard) for shard in values["shards"]]})


def load_manifest(uri: str) -> Manifest:
    """The manifest of a prepared data set, checked against the files beside it.

    Raises:
        UserError: there is no such folder, it is no data set, it is unfinished, made by another version, or a shard
            is missing or of another size.
    """
    path = storage.join(uri, MANIFEST)
    if not storage.exists(path):
        if storage.exists(storage.join(uri, PLAN)):
            raise UserError(
                f"The data set {uri} is unfinished: run the same `jobs.prepare` command again to finish it."
            )
        what = "is not a prepared data set (it has no manifest.json)" if storage.exists(uri) else "does not exist"
        raise UserError(f"{uri} {what}. Make one with `python -m jobs.prepare SOURCE --root PATH --out {uri}`.")
    try:
        manifest = Manifest.from_json(storage.read_bytes(path))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a manifest of prepared shards: {error}.") from error
    if manifest.schema_version != SCHEMA_VERSION:
        raise UserError(
            f"{uri} has schema version {manifest.schema_version}, this is {SCHEMA_VERSION}: prepare it again."
        )
    sizes = storage.file_sizes(uri)
    for shard in manifest.shards:
        where = storage.join(uri, shard.path)
        if where not in sizes:
            raise UserError(f"{uri} lacks its shard {shard.path}: copy it again, or prepare the data set again.")
        if sizes[where] != shard.bytes:
            raise UserError(
                f"{where} has {sizes[where]} bytes, the manifest says {shard.bytes}: it was not copied "
                "whole. Copy it again, or prepare the data set again."
            )
    return manifest


def read_group(uri: str, shard_path: str, group: int) -> list[Row]:
    """All rows of one row group, with every page's checksum verified.

    Args:
        uri: folder of the manifest.
        shard_path: as in `ShardInfo.path`.
        group: index of the row group.

    Raises:
        UserError: the shard is missing or damaged (after some attempts: the network may be at fault).
        StorageUnavailable: the store does not answer.
    """
    where = storage.join(uri, shard_path)
    return [Row.from_dict(values) for values in read_table(where, group).to_pylist()]


def read_table(where: str, group: int, columns: list[str] | None = None) -> pa.Table:
    """A row group of a shard (or some columns of it), with every page's checksum verified; errors as `read_group`."""
    problem: Exception | None = None
    for attempt in range(READ_ATTEMPTS):
        if attempt:
            time.sleep(RETRY_SECONDS * attempt)
            _footer.cache_clear()  # the file may have been replaced since
        try:
            return _read(where, group, columns)
        # pyarrow reports damage as OSError (checksum, page header), ArrowInvalid (footer), or whatever the
        # garbled values lead to: an absurd length is a MemoryError, a broken string a UnicodeDecodeError.
        except (OSError, pa.ArrowException, ValueError, KeyError, TypeError, IndexError, MemoryError) as error:
            problem = error
    raise UserError(
        f"The shard {where} is damaged (row group {group}): {problem}. Copy or prepare it again."
    ) from problem


def _read(where: str, group: int, columns: list[str] | None) -> pa.Table:
    size, metadata = _footer(where)
    with (
        storage.open_file(where, size) as file,
        pq.ParquetFile(file, metadata=metadata, page_checksum_verification=True, pre_buffer=True) as parquet,
    ):
        return parquet.read_row_group(group, columns=columns)


@lru_cache(maxsize=512)
def _footer(where: str) -> tuple[int, pq.FileMetaData]:
    """Size and footer of a shard, kept: a row group then costs one request."""
    size = storage.size_of(where)
    with storage.open_file(where, size) as file:
        return size, pq.read_metadata(file)
