"""Tensors cut among files: any number of writers, any number of readers, the same rows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.model.tensor_files import Part, assemble, decode, encode, file_name, take_rows, writers_of


def cut(tensors: dict[str, torch.Tensor], writers: int) -> list[Part]:
    """Parts as FSDP2 cuts them; "whole" is in every file."""
    parts = []
    for index in range(writers):
        part = Part({"whole": torch.tensor(3.0)})
        for name, tensor in tensors.items():
            run = -(-len(tensor) // writers)
            piece = tensor[index * run : (index + 1) * run]
            if len(piece):
                part.tensors[name] = piece.contiguous()
                part.rows[name] = (index * run, len(tensor))
        parts.append(part)
    return parts


def made(rows: list[int]) -> dict[str, torch.Tensor]:
    return {f"t{i}": torch.arange(n * 2, dtype=torch.float32).reshape(n, 2) + i for i, n in enumerate(rows)}


@given(rows=st.lists(st.integers(1, 9), min_size=1, max_size=4), writers=st.integers(1, 5), readers=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_any_number_of_readers_finds_its_rows(rows: list[int], writers: int, readers: int) -> None:
    tensors = made(rows)
    parts = [decode(encode(part), "x") for part in cut(tensors, writers)]
    joined = assemble(parts, "x")
    assert joined.pop("whole") == 3
    assert joined.keys() == tensors.keys()
    assert all(torch.equal(joined[name], tensor) for name, tensor in tensors.items())
    for reader in range(readers):
        wanted = {}
        for name, tensor in tensors.items():
            run = -(-len(tensor) // readers)
            wanted[name] = (min(reader * run, len(tensor)), min((reader + 1) * run, len(tensor)))
        needed = {w for name, (a, b) in wanted.items() for w in writers_of(a, b, len(tensors[name]), writers)}
        found = take_rows([parts[w] for w in sorted(needed)], {n: r for n, r in wanted.items() if r[0] < r[1]}, "x")
        for name, tensor in found.items():
            assert torch.equal(tensor, tensors[name][slice(*wanted[name])])


def test_missing_rows_and_damage_are_named() -> None:
    parts = cut(made([5]), 3)
    with pytest.raises(UserError, match="step_7 is incomplete: rows 2 to 4 of t0"):
        assemble([parts[0], parts[2]], "step_7")
    with pytest.raises(UserError, match="step_7 is incomplete: rows 4 to 4 of t0"):
        take_rows(parts[:2], {"t0": (1, 5)}, "step_7")
    for data in (b"", b"cut", encode(parts[0])[:-3]):
        with pytest.raises(UserError, match="step_7 is damaged"):
            decode(data, "step_7")


def test_names() -> None:
    assert file_name("model") == "model.safetensors"
    assert file_name("optimizer", 0, 12) == "optimizer-00001-of-00012.safetensors"
