"""Tensors in safetensors files: whole in one file, or cut by rows among the files of several workers.

    model.safetensors                                           one writer
    model-00001-of-00004.safetensors ...                        four writers, each with its rows of the large tensors

A tensor that is cut is cut along its first dimension, in equal runs of ceil(rows / writers) rows (what torch's FSDP2
does), so any number of workers can read back the rows that they need.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from pipeline.errors import UserError

_ROWS = "rows"  # entry of the file's metadata: {tensor: [first row, rows of the whole tensor]}


@dataclass
class Part:
    """What one file holds.

    Attributes:
        tensors: by name, contiguous and on the CPU.
        rows: of those that are cut: first row here, rows of the whole tensor.
    """

    tensors: dict[str, torch.Tensor]
    rows: dict[str, tuple[int, int]] = field(default_factory=dict)


def file_name(kind: str, index: int = 0, count: int = 1) -> str:
    """Name of the file of writer `index` of `count`."""
    return f"{kind}.safetensors" if count == 1 else f"{kind}-{index + 1:05d}-of-{count:05d}.safetensors"


def encode(part: Part) -> bytes:
    """A part as the bytes of a safetensors file."""
    return save(part.tensors, metadata={_ROWS: json.dumps(part.rows)} if part.rows else None)


def decode(data: bytes, name: str) -> Part:
    """Inverse of `encode`; reads every safetensors file.

    Raises:
        UserError: damaged.
    """
    try:
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        rows = json.loads(header.get("__metadata__", {}).get(_ROWS, "{}"))
        return Part(tensors, {key: (int(first), int(total)) for key, (first, total) in rows.items()})
    except (SafetensorError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{name} is damaged: {error}.") from error


def assemble(parts: Sequence[Part], name: str) -> dict[str, torch.Tensor]:
    """Whole tensors from the parts of all writers.

    Raises:
        UserError: rows are missing.
    """
    whole = {key: tensor for part in parts for key, tensor in part.tensors.items() if key not in part.rows}
    totals = {key: total for part in parts for key, (_, total) in part.rows.items()}
    wanted = {key: (0, total) for key, total in totals.items()}
    return {**whole, **take_rows(parts, wanted, name)}


def take_rows(parts: Sequence[Part], wanted: Mapping[str, tuple[int, int]], name: str) -> dict[str, torch.Tensor]:
    """Rows start..stop-1 of some tensors, from whichever parts hold them.

    Raises:
        UserError: rows are missing.
    """
    found: dict[str, torch.Tensor] = {}
    for key, (start, stop) in wanted.items():
        pieces: list[torch.Tensor] = []
        at = start
        for part in parts:
            if key not in part.tensors or at == stop:
                continue
            tensor = part.tensors[key]
            first = part.rows[key][0] if key in part.rows else 0
            if first <= at < first + len(tensor):
                pieces.append(tensor[at - first : stop - first])
                at += len(pieces[-1])
        if at != stop:
            raise UserError(f"{name} is incomplete: rows {at} to {stop - 1} of {key} are in none of its files.")
        found[key] = torch.cat(pieces) if len(pieces) != 1 else pieces[0]
    return found


def writers_of(start: int, stop: int, total: int, writers: int) -> range:
    """The writers whose files hold rows start..stop-1 of a tensor of `total` rows that was cut among `writers`."""
    run = -(-total // writers)
    return range(start // run, min(writers, -(-stop // run))) if stop > start else range(0)
