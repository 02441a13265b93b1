"""JSON files of ours on any storage."""

from __future__ import annotations

import json
from typing import Any

from pipeline import storage


def read_json(uri: str) -> Any:
    """The content of a JSON file that we wrote. Raises: what `storage.read_bytes` does; ValueError: it is not JSON."""
    return json.loads(storage.read_bytes(uri))


def write_json(uri: str, content: Any) -> None:
    """Write a JSON file whole or not at all, one value on a line."""
    storage.write_bytes(uri, json.dumps(content, indent=1).encode())
