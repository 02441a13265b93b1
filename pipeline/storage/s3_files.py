"""S3 as a file system for engines that want one of pyarrow: `storage.s3` in another dress, with no state of its own.

So an engine reaches every store that we reach, with the same settings and messages, and its pickles hold no secret.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from pipeline.storage import s3


class S3Files(pafs.FileSystemHandler):
    """Paths are BUCKET/KEY. Folders are what keys look like: there is none without a file, and none need be made."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, S3Files)

    __hash__ = None  # type: ignore[assignment]

    def get_type_name(self) -> str:
        return "s3"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[pafs.FileInfo]:
        return [_info(path) for path in paths]

    def get_file_info_selector(self, selector: Any) -> list[pafs.FileInfo]:
        found = list(_below(selector.base_dir.rstrip("/"), selector.recursive))
        if not found and not selector.allow_not_found and not s3.is_folder(selector.base_dir):
            raise FileNotFoundError(f"There is no folder s3://{selector.base_dir}")
        return found

    def create_dir(self, path: str, recursive: bool) -> None:
        s3.split(path)

    def delete_dir(self, path: str) -> None:
        self.delete_dir_contents(path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = True) -> None:
        if not missing_dir_ok and not s3.is_folder(path):
            raise FileNotFoundError(f"There is no folder s3://{path}")
        s3.delete(path.rstrip("/"), itself=False)

    def delete_root_dir_contents(self) -> None:
        raise ValueError("all buckets are never deleted")

    def delete_file(self, path: str) -> None:
        if s3.size(path) is None:
            raise FileNotFoundError(f"There is no file s3://{path}")
        s3.delete(path, below=False)

    def move(self, src: str, dest: str) -> None:
        self.copy_file(src, dest)
        s3.delete(src, below=False)

    def copy_file(self, src: str, dest: str) -> None:
        s3.write(dest, _read(src))

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return self.open_input_file(path)

    def open_input_file(self, path: str) -> pa.NativeFile:
        try:
            return pa.PythonFile(s3.ObjectFile(path), mode="r")
        except s3.Absent as error:
            raise FileNotFoundError(f"There is no file s3://{path}") from error

    def open_output_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        return pa.PythonFile(_Upload(path), mode="w")

    def open_append_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        raise NotImplementedError("S3 has no appending")


class _Upload(io.BytesIO):
    """Published when it is closed, whole or not at all."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def close(self) -> None:
        if not self.closed:
            data = self.getvalue()
            super().close()
            s3.write(self._path, data)

    def __del__(self) -> None:
        super().close()  # dropped without close: nothing is published


def _read(path: str) -> bytes:
    try:
        return s3.read(path)
    except s3.Absent as error:
        raise FileNotFoundError(f"There is no file s3://{path}") from error


def _info(path: str) -> pafs.FileInfo:
    path = path.rstrip("/")
    size = s3.size(path)
    if size is not None:
        return pafs.FileInfo(path, pafs.FileType.File, size=size)
    there = "/" not in path or s3.is_folder(path)
    return pafs.FileInfo(path, pafs.FileType.Directory if there else pafs.FileType.NotFound)


def _below(folder: str, recursive: bool) -> Iterator[pafs.FileInfo]:
    bucket = s3.split(folder)[0]
    folders: set[str] = set()
    for entry in s3.entries(folder, recursive):
        path = f"{bucket}/{entry.key}"
        if entry.folder:
            folders.add(path)
            continue
        yield pafs.FileInfo(path, pafs.FileType.File, size=entry.size)
        parent = path.rpartition("/")[0]
        while len(parent) > len(folder) and parent not in folders:  # folders above a file, which S3 does not list
            folders.add(parent)
            parent = parent.rpartition("/")[0]
    yield from (pafs.FileInfo(path, pafs.FileType.Directory) for path in sorted(folders))
