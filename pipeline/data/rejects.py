"""What a conversion left out or set aside, in words: how many of how many, why, and which option changes it."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.data.manifest import PLAN, REJECTED, Manifest
from pipeline.data.readers.base import Reader
from pipeline.errors import BadRow
from pipeline.storage.json_files import read_json
from pipeline.storage.local_files import printable

REJECTED_SCHEMA = pa.schema([(name, pa.string()) for name in ("image_id", "reason", "detail", "path")])
TWICE = "image_id occurs twice"
SHOWN = 200  # characters of an example


def said(reader: Reader, reason: str, count: int) -> str:
    """A reason with its count and, where the reader knows, of how many and which option changes it."""
    hint = getattr(reader, "hints", {}).get(reason, "")
    return f"{count} x {reason}" + (f" ({hint})" if hint else "")


def counted(reasons: Counter[str], reader: Reader) -> str:
    """All reasons, the most frequent first, for the message that ends a conversion."""
    return ", ".join(said(reader, reason, n) for reason, n in reasons.most_common() if n) or "nothing was found"


def first(rejected: Sequence[dict[str, str]]) -> str:
    """The first reject in words: which image, and what was seen."""
    return f"{rejected[0]['path']}: {rejected[0]['detail'][:SHOWN]}" if rejected else ""


def lines(reader: Reader, out: str, manifest: Manifest) -> list[str]:
    """The lines that end a conversion: what was read, what was set aside, what was left out."""
    found = [f"read: {note}" for note in getattr(reader, "notes", ())]
    found += [f"understood: {count} x {meaning}" for meaning, count in manifest.understood.items()]
    if manifest.rejected:
        rows = pq.read_table(pa.BufferReader(storage.read_bytes(storage.join(out, REJECTED)))).to_pylist()
        for reason, count in manifest.rejected.items():
            example = first([row for row in rows if row["reason"] == reason])
            found.append(f"set aside: {said(reader, reason, count)}, first {example}")
        bad = len({(row["image_id"], row["path"]) for row in rows})
        total = read_json(storage.join(out, PLAN))["images"] + manifest.rejected.get(TWICE, 0)
        found.append(f"set aside: in {bad} of {total} images, listed in {storage.join(out, REJECTED)}")
    return found + [f"left out: {said(reader, reason, count)}" for reason, count in manifest.left_out.items()]


def reject(reader: Reader, item: Any, bad: BadRow) -> dict[str, str]:
    name, path = reader.name_of(item), reader.path_of(item)
    texts = {"image_id": name, "reason": bad.reason, "detail": bad.detail, "path": path}
    return {column: printable(text) for column, text in texts.items()}


def write_rejected(out: str, rejected: list[dict[str, str]]) -> None:
    where = storage.join(out, REJECTED)
    if not rejected:
        storage.remove(where)
        return
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rejected, schema=REJECTED_SCHEMA), buffer)
    storage.write_bytes(where, buffer.getvalue())
