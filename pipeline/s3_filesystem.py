"""S3 for engines that want a pyarrow file system: ours over boto3, so that there is one client and one configuration.

pyarrow's own S3 file system takes neither the CA bundle, profiles' roles and endpoints with a path from where boto3
takes them, nor its retries. Nothing is kept in the object, so that a pickle of it holds no credential.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from pipeline import s3


def filesystem() -> pafs.FileSystem:
    """The file system; its paths are BUCKET/KEY."""
    return pafs.PyFileSystem(S3Handler())


class S3Handler(pafs.FileSystemHandler):
    """What pyarrow asks of a file system, by `pipeline.s3`."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, S3Handler)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # type: ignore[assignment]

    def get_type_name(self) -> str:
        return "cfr-icl-s3"

    def normalize_path(self, path: str) -> str:
        return path.rstrip("/")

    def get_file_info(self, paths: Sequence[str]) -> list[pafs.FileInfo]:
        return [_info(path) for path in paths]

    def get_file_info_selector(self, selector: pafs.FileSelector) -> list[pafs.FileInfo]:
        base = selector.base_dir.rstrip("/")
        if not s3.is_folder(base) and not selector.allow_not_found:
            raise FileNotFoundError(base)
        bucket = s3.split(base)[0]
        found = list(s3.entries(base, selector.recursive))
        infos = [
            pafs.FileInfo(f"{bucket}/{e.key}", pafs.FileType.Directory)
            if e.folder
            else pafs.FileInfo(f"{bucket}/{e.key}", pafs.FileType.File, size=e.size)
            for e in found
        ]
        if not selector.recursive:
            return infos
        folders = {parent for e in found for parent in _parents(f"{bucket}/{e.key}", base)}
        return [*(pafs.FileInfo(path, pafs.FileType.Directory) for path in sorted(folders)), *infos]

    def create_dir(self, path: str, recursive: bool) -> None:
        """A store has no folders; keys make them."""

    def delete_dir(self, path: str) -> None:
        s3.delete(path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        s3.delete(path)

    def delete_root_dir_contents(self) -> None:
        raise NotImplementedError("a whole store is never emptied")

    def delete_file(self, path: str) -> None:
        s3.delete(path)

    def move(self, src: str, dest: str) -> None:
        self.copy_file(src, dest)
        s3.delete(src)

    def copy_file(self, src: str, dest: str) -> None:
        s3.write(dest, _read(src))

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return pa.BufferReader(_read(path))

    def open_input_file(self, path: str) -> pa.NativeFile:
        try:
            return pa.PythonFile(s3.ObjectFile(path), mode="r")
        except s3.Absent as error:
            raise FileNotFoundError(path) from error

    def open_output_stream(self, path: str, metadata: dict[str, str] | None = None) -> pa.NativeFile:
        return pa.PythonFile(_Upload(path), mode="w")

    def open_append_stream(self, path: str, metadata: dict[str, str] | None = None) -> pa.NativeFile:
        raise NotImplementedError("an object cannot be appended to")


class _Upload(io.BytesIO):
    """Collects what is written, and publishes it when it is closed."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def close(self) -> None:
        if not self.closed:
            data = self.getvalue()
            super().close()
            s3.write(self._path, data)


def _read(path: str) -> bytes:
    try:
        return s3.read(path)
    except s3.Absent as error:
        raise FileNotFoundError(path) from error


def _info(path: str) -> pafs.FileInfo:
    size: Any = s3.size(path)
    if size is not None and not path.endswith("/"):
        return pafs.FileInfo(path, pafs.FileType.File, size=size)
    return pafs.FileInfo(path, pafs.FileType.Directory if s3.is_folder(path) else pafs.FileType.NotFound)


def _parents(path: str, base: str) -> list[str]:
    """The folders between a key and the folder that is listed."""
    found = []
    while (path := path.rpartition("/")[0]) and path != base and path.startswith(base + "/"):
        found.append(path)
    return found
