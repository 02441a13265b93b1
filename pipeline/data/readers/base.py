"""What every reader of a raw format shares: the protocol, safe names, files, lists and JSON with clear complaints."""

from __future__ import annotations

import codecs
import gzip
import json
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, Protocol

from pipeline import storage
from pipeline.data import fingerprint
from pipeline.data.schema import Row
from pipeline.errors import BadRow, UserError

HEADERS = ("name", "names", "image", "images", "image_id", "filename", "file_name", "file", "id")  # of a name list


class Reader(Protocol):
    """One raw data set on disk or in a bucket. Readers are small and picklable; `read` runs in workers.

    Attributes:
        root: URI of the raw data.
        source: goes into every row and the manifest, e.g. "coco+lvis".
        split: "train", "val", or "" for a data set without splits.
        left_out: images that are not listed, by reason; filled by `items`.
        understood: what files were taken for where that is not plain, counted by `read`.
    """

    root: str
    source: str
    split: str
    left_out: dict[str, int]
    understood: Counter[str]

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
        data = storage.read_bytes(uri)
        fingerprint.saw(uri, data)
        return data
    except UserError as error:
        fingerprint.saw(uri, None)
        raise BadRow(f"{what} is missing", str(error)) from error


def stem(name: str) -> str:
    return PurePosixPath(name).stem


def folded(name: str) -> str:
    """What a name is on a disk that minds neither case nor Unicode form: names of one folded form are told apart by
    some machines only."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def sizes(shape: tuple[int, ...]) -> str:
    """(height, width) as people write it: width x height."""
    return f"{shape[1]} x {shape[0]}"


def find_folder(root: str, path: str) -> str | None:
    """A folder below `root` by its path, whatever the case of its letters; the name as it is, None if there is none.

    Raises:
        UserError: two differ in case only, and neither is as asked for.
    """
    if storage.is_folder(storage.join(root, path)):
        return path
    found: list[str] = []
    for part in path.split("/"):
        there = [uri.rsplit("/", 1)[1] for uri in storage.list_folders(storage.join(root, *found))]
        near = [name for name in there if folded(name) == folded(part)]
        if len(near) > 1 and part not in near:
            raise UserError(f"{storage.join(root, *found)} has both {near[0]}/ and {near[1]}/: rename one of them.")
        if not near:
            return None
        found.append(part if part in near else near[0])
    return "/".join(found)


def find_folders(root: str, choices: Sequence[Sequence[str]], layout: str) -> tuple[str, list[str]]:
    """The first of several sets of folders that is there, in `root` or the only folder in it, whatever the case.

    Args:
        layout: what needs them, for the message.

    Returns:
        The root that holds them, and their names as they are.

    Raises:
        UserError: none is there; what was found is named.
    """
    if not storage.exists(root):
        raise UserError(f"There is no folder {root}.")
    for wanted in choices:
        names = [find_folder(root, name) for name in wanted]
        if None not in names:
            return root, [name for name in names if name]
    below = [uri for uri in storage.list_folders(root) if not uri.rsplit("/", 1)[1].startswith((".", "__"))]
    if len(below) == 1:  # as archives are unpacked; of several folders nobody knows which is meant
        for wanted in choices:
            if names := _all_folders(below[0], wanted):
                return below[0], names
    wanted = " or ".join(" and ".join(f"{name}/" for name in names) for names in choices)
    raise UserError(f"{root} is not in the layout of {layout}: it needs {wanted}. {found_in(root)}")


def _all_folders(root: str, wanted: Sequence[str]) -> list[str]:
    names = [find_folder(root, name) for name in wanted]
    return [] if None in names else [name for name in names if name]


def check_apart(out: str, root: str) -> None:
    """Refuse an output inside the raw data: it would be read as a part of them.

    Raises:
        UserError: it is.
    """
    if storage.absolute(out).startswith(f"{storage.absolute(root).rstrip('/')}/"):
        raise UserError(f"The output {out} lies in the raw data {root}: choose another --out.")


def found_in(root: str) -> str:
    """'Found: images/, notes.txt.', for messages about folders that lack something."""
    folders = [uri.rsplit("/", 1)[1] + "/" for uri in storage.list_folders(root)]
    files = [uri.rsplit("/", 1)[1] for uri in storage.list_files(root, recursive=False)]
    names = [*folders, *files]
    return f"Found: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}." if names else "It is empty."


def need_folders(root: str, folders: list[str], layout: str) -> str:
    """The folder that holds these folders: the root, or the one folder below it that does.

    Raises:
        UserError: see `find_folders`; or a name is written in another case.
    """
    try:
        where, names = find_folders(root, [folders], layout)
    except UserError as error:
        missing = [name for name in folders if storage.exists(root) and find_folder(root, name) is None]
        if not missing or len(missing) == len(folders) == 1:
            raise
        lacks = " and no ".join(f"{name}/" for name in missing)
        raise UserError(f"{root} has no {lacks}: {layout} needs {', '.join(folders)}. {found_in(root)}") from error
    for name, wanted in zip(names, folders, strict=True):
        if name != wanted:
            raise UserError(f"{where} has {name}/ where {layout} needs {wanted}/: rename it.")
    return where


def text_of(uri: str) -> str:
    """A text file, whatever byte order mark it begins with.

    Raises:
        UserError: no such file, or no text.
    """
    data = storage.read_bytes(uri)
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(f"{uri} is no text: {error}.") from error


def name_list(uri: str) -> list[str]:
    """The names in a text file, one a line; spaces around them, empty lines, comments (#) and quotes do not count.

    Raises:
        UserError: no such file, no text, no name in it, or a name twice.
    """
    lines = [line.strip().strip("\"'") for line in text_of(uri).splitlines()]
    names = [line for line in lines if line and not line.startswith("#")]
    if names and names[0].lower() in HEADERS:
        names = names[1:]
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
        data = gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
        content = json.loads(data.removeprefix(codecs.BOM_UTF8))
    except (ValueError, RecursionError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{uri} is not a whole JSON file (cut off, perhaps): {error}") from error
    missing = [key for key in keys if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if missing:
        raise UserError(f"{uri} is not {kind}: it has no list {', '.join(repr(key) for key in missing)}.")
    return content
