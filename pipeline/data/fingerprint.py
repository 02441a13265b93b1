"""Fingerprints of what went into a folder that a job continues: a change between two starts is named and refused.

One rule for all jobs: OUT holds the results of one set of inputs. When these have changed the job refuses, names what
changed, and leaves the results that are there as they are; it never evaluates or trains a part anew beside the rest.

OUT/inputs.json of evaluations, training runs and sweeps: {"data.train": {"shard-00000.parquet": checksum, ...}, ...}.
Of raw files, their contents as they were read are noted beside each shard, and `files.json` says how they looked in the
listing, so that only files that look different are read again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict
from typing import Any

from pipeline import storage
from pipeline.data.manifest import FILES, Manifest
from pipeline.errors import UserError
from pipeline.storage.json_files import read_json
from pipeline.storage.looks import look_of

INPUTS = "inputs.json"
ABSENT = ""  # mark of a file that was looked for and not there

Marks = dict[str, str]
"""Checksum of each part of an input by name: shards, files, a checkpoint's weights."""

_reading: ContextVar[tuple[str, Marks] | None] = ContextVar("files being read", default=None)


def checksum(content: Any) -> str:
    """sha256 of bytes, or of a plain value as JSON."""
    data = content if isinstance(content, bytes) else json.dumps(content, sort_keys=True).encode()
    return hashlib.sha256(data).hexdigest()


def of_shards(manifest: Manifest) -> Marks:
    """Marks of prepared shards: their contents and their places in the sampling, wherever the folder lies."""
    return {shard.path: checksum(asdict(shard)) for shard in manifest.shards}


def differing(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Names whose marks are not the same, sorted."""
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


def refuse(out: str, what: str, names: list[str]) -> None:
    """UserError when something differs.

    Args:
        out: folder that was made from it.
        what: the input, as the user calls it.
        names: of its parts that differ.
    """
    if names:
        count = "1 file differs" if len(names) == 1 else f"{len(names)} files differ"
        raise UserError(
            f"The data has changed since {out} was begun ({what}: {count}, first {names[0]}). Choose another --out, or "
            "put back what was there."
        )


def require_same(out: str, inputs: Mapping[str, Marks]) -> None:
    """Compare inputs with those noted in a folder; an input that is not noted there has nothing to differ from.

    Raises:
        UserError: naming what changed.
    """
    held = noted(out)
    for name in inputs.keys() & held.keys():
        refuse(out, name, differing(held[name], inputs[name]))


def note(out: str, inputs: Mapping[str, Marks]) -> None:
    """Note inputs in a folder, beside those that are noted there."""
    held = noted(out)
    if inputs.keys() - held.keys():
        text = json.dumps({**inputs, **held}, indent=1)
        storage.write_bytes(storage.join(out, INPUTS), text.encode())


def hold(out: str, inputs: Mapping[str, Marks]) -> None:
    """`require_same`, then `note`."""
    require_same(out, inputs)
    note(out, inputs)


def noted(out: str) -> dict[str, Marks]:
    """The inputs noted in a folder; none in one that an earlier version began.

    Raises:
        UserError: the note is not readable.
    """
    uri = storage.join(out, INPUTS)
    if not storage.exists(uri):
        return {}
    try:
        return {str(name): dict(marks) for name, marks in read_json(uri).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{uri} is damaged ({error}). Choose another --out.") from error


@contextmanager
def recording(root: str) -> Iterator[Marks]:
    """Marks of the files below `root` that are read (`saw`) inside the block, by their names there."""
    marks: Marks = {}
    token = _reading.set((root, marks))
    try:
        yield marks
    finally:
        _reading.reset(token)


def saw(uri: str, data: bytes | None) -> None:
    """Tell of a file that was read, or (None) was not there; without `recording` nothing is kept."""
    if (held := _reading.get()) is not None:
        root, marks = held
        marks[uri.removeprefix(f"{root.rstrip('/')}/")] = ABSENT if data is None else checksum(data)


def changed_files(root: str, read: Mapping[str, str], looks: Mapping[str, str]) -> list[str]:
    """The files whose contents are not those that were read.

    A file that looks as before (size and times, or the store's tag) is not read again.

    Args:
        read: marks by name below the root.
        looks: what `pipeline.storage.looks` said of the root when its conversion began.
    """
    now = look_of(root)
    # A file that lies elsewhere has no look: it is read.
    suspect = [name for name in sorted(read) if looks.get(name) != now.get(name) or (name not in now and read[name])]
    contents = storage.map_parallel(lambda name: _content(root, name), suspect)
    return [name for name, mark in zip(suspect, contents, strict=True) if mark != read[name]]


def require_same_files(out: str, root: str, read: Sequence[Mapping[str, str]]) -> None:
    """Compare raw files with what was converted of them.

    Args:
        out: folder of the shards, which holds `files.json`.
        read: marks of the files that each finished shard was made of.

    Raises:
        UserError: naming what changed.
    """
    looks = read_json(storage.join(out, FILES))
    marks = {name: mark for shard in read for name, mark in shard.items()}
    refuse(out, root, changed_files(root, marks, looks))


def _content(root: str, name: str) -> str:
    uri = name if name.startswith("/") or "://" in name else storage.join(root, name)
    try:
        return checksum(storage.read_bytes(uri))
    except UserError:
        return ABSENT
