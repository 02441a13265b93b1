"""What every reader of a raw format shares: the protocol, safe names, files, lists and JSON with clear complaints."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from pathlib import PurePosixPath
from typing import Any, Protocol

from pipeline import storage
from pipeline.data.schema import Row
from pipeline.errors import BadRow, UserError


class Reader(Protocol):
    """One raw data set on disk or in a bucket. Readers are small and picklable; `read` runs in workers.

    Attributes:
        root: URI of the raw data.
        source: goes into every row and the manifest, e.g. "coco+lvis".
        split: "train", "val", or "" for a data set without splits.
        left_out: images that are not listed, by reason; filled by `items`.
    """

    root: str
    source: str
    split: str
    left_out: dict[str, int]

    def items(self) -> list[Any]:
        """Every image as a small picklable item, in the order of the files; reads no image.

        Raises:
            UserError: the folder or an annotation file is not what it should be.
        """
        ...

    def read(self, item: Any, aside: list[BadRow] | None = None) -> Row:
        """The row of one item; single objects that cannot be used are appended to `aside`.

        Raises:
            BadRow: the image cannot be used (`Skipped`: nothing is wrong with it, it only has no object).
        """
        ...

    def name_of(self, item: Any) -> str:
        """The image_id of the item's row."""
        ...

    def path_of(self, item: Any) -> str:
        """Where the image lies, for messages."""
        ...


class Skipped(BadRow):
    """A sound image that gives no row; counted, but not as bad."""


def checked(name: str) -> str:
    """The name, if it stays inside the folder that it is relative to.

    Raises:
        BadRow: it is absolute, climbs up, or is no file name at all.
    """
    parts = re.split(r"[/\\]", name)
    if not name or "\0" in name or parts[0] == "" or ".." in parts or re.match(r"[A-Za-z]:|\w+://", name):
        raise BadRow("name leads out of the data folder", repr(name))
    return name


def fetch(folder: str, name: str, what: str = "image") -> bytes:
    """Bytes of a file below a folder.

    Raises:
        BadRow: the name leads out of the folder, or "<what> is missing".
    """
    uri = storage.join(folder, checked(name))
    try:
        return storage.read_bytes(uri)
    except UserError as error:
        raise BadRow(f"{what} is missing", str(error)) from error


def stem(name: str) -> str:
    return PurePosixPath(name).stem


def need_folders(root: str, folders: list[str], layout: str) -> None:
    """UserError unless the root and these folders in it exist."""
    if not storage.exists(root):
        raise UserError(f"There is no folder {root}.")
    missing = [name for name in folders if not storage.is_folder(storage.join(root, name))]
    if missing:
        raise UserError(f"{root} has no {' and no '.join(f'{name}/' for name in missing)}: {layout}")


def name_list(uri: str) -> list[str]:
    """The names in a text file, one a line; spaces around them and empty lines do not count.

    Raises:
        UserError: no such file, no text, or no name in it.
    """
    try:
        names = [line.strip() for line in storage.read_bytes(uri).decode().splitlines()]
    except UnicodeDecodeError as error:
        raise UserError(f"{uri} is no list of names: {error}.") from error
    names = [name for name in names if name]
    if not names:
        raise UserError(f"{uri} lists no image.")
    return names


def load_json(uri: str, kind: str, keys: tuple[str, ...]) -> dict[str, Any]:
    """A JSON object that has these keys; the file may be compressed by gzip.

    Raises:
        UserError: no such file, not JSON, or JSON of another kind.
    """
    try:
        data = storage.read_bytes(uri)
        content = json.loads(gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data)
    except (ValueError, RecursionError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{uri} is not a whole JSON file (cut off, perhaps): {error}") from error
    missing = [key for key in keys if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if missing:
        raise UserError(f"{uri} is not {kind}: it has no list {', '.join(repr(key) for key in missing)}.")
    return content
