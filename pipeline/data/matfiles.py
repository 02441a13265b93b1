"""One field of one struct of a MATLAB 5 file (MathWorks, "MAT-File Format"), every size checked before it is used.

SciPy's `loadmat` is written in C and crashes the process on some damaged files (a few changed bytes are enough), and
unpacks as much as a file claims.
"""

from __future__ import annotations

import math
import struct
import zlib
from typing import NamedTuple

import numpy as np

MAX_BYTES = 64 << 20  # unpacked
HEADER = 128
MATRIX, COMPRESSED = 14, 15  # kinds of elements
STRUCT, NUMBERS = 2, range(6, 16)  # classes of matrices: double (SBD's ids, stored as bytes), single, int8, ... uint64
COMPLEX = 0x0800
# Kinds of elements that hold numbers; floats must be whole ones.
STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}


class _Element(NamedTuple):
    kind: int
    data: bytes
    end: int  # where the next one starts


class _Matrix(NamedTuple):
    kind: int
    flags: int
    shape: tuple[int, ...]
    name: str
    data: bytes
    at: int  # where in `data` its content starts


def read_field(data: bytes, variable: str, field: str) -> np.ndarray:
    """The matrix of integers that a 1 x 1 struct has under a name.

    Raises:
        KeyError: there is no such variable or field, or it is something else.
        ValueError: the file is damaged, too large unpacked, or no MATLAB 5 file.
    """
    mark = data[HEADER - 2 : HEADER]
    if mark not in (b"IM", b"MI"):
        raise ValueError("it has no header of a MATLAB 5 file")
    order = "<" if mark == b"IM" else ">"
    try:
        found = _variable(data, order, variable)
        if found.kind != STRUCT or math.prod(found.shape) != 1:
            raise KeyError(f"{variable} is no single struct")
        return _integers(_field(found, order, field), order, f"{variable}.{field}")
    except (struct.error, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from error


def _element(data: bytes, at: int, order: str) -> _Element:
    (first,) = struct.unpack_from(f"{order}I", data, at)
    if first >> 16:  # up to four bytes, inside the tag
        kind, size, start = first & 0xFFFF, first >> 16, at + 4
        end = at + 8
    else:
        kind, size, start = *struct.unpack_from(f"{order}II", data, at), at + 8
        end = start + size + (0 if kind == COMPRESSED else -size % 8)
    if start + size > len(data) or (first >> 16 and size > 4):
        raise ValueError("an element reaches beyond the file")
    return _Element(kind, data[start : start + size], end)


def _matrix(data: bytes, order: str) -> _Matrix:
    flags = _element(data, 0, order)
    dimensions = _element(data, flags.end, order)
    name = _element(data, dimensions.end, order)
    (bits,) = struct.unpack_from(f"{order}I", flags.data)
    shape = struct.unpack(f"{order}{len(dimensions.data) // 4}i", dimensions.data)
    if len(shape) < 2 or any(n < 0 for n in shape):
        raise ValueError(f"a matrix has the shape {shape[:8]}")
    return _Matrix(bits & 0xFF, bits, shape, name.data.decode("latin-1"), data, name.end)


def _variable(data: bytes, order: str, name: str) -> _Matrix:
    at, held = HEADER, list[str]()
    while at < len(data):
        element = _element(data, at, order)
        at = element.end
        if element.kind == COMPRESSED:
            unpacker = zlib.decompressobj()
            unpacked = unpacker.decompress(element.data, MAX_BYTES)
            if not unpacker.eof:
                raise ValueError("a variable is cut off" if not unpacker.unconsumed_tail else "a variable is too large")
            element = _element(unpacked, 0, order)
        if element.kind == MATRIX:
            matrix = _matrix(element.data, order)
            if matrix.name == name:
                return matrix
            held.append(matrix.name[:40])
    raise KeyError(f"it holds {held[:8]}, not {name}")


def _field(found: _Matrix, order: str, name: str) -> _Matrix:
    length = _element(found.data, found.at, order)
    (width,) = struct.unpack_from(f"{order}i", length.data)
    names = _element(found.data, length.end, order)
    if width < 1 or len(names.data) % width:
        raise ValueError("a struct's names are described wrongly")
    fields = [names.data[i : i + width].split(b"\0")[0].decode("latin-1") for i in range(0, len(names.data), width)]
    if name not in fields:
        raise KeyError(f"{found.name} has the fields {fields[:8]}, not {name}")
    at = names.end
    for _ in range(fields.index(name)):
        at = _element(found.data, at, order).end
    value = _element(found.data, at, order)
    if value.kind != MATRIX:
        raise ValueError("a struct holds something else than matrices")
    return _matrix(value.data, order)


def _integers(matrix: _Matrix, order: str, name: str) -> np.ndarray:
    values = _element(matrix.data, matrix.at, order) if matrix.kind in NUMBERS else None
    if values is None or values.kind not in STORED or matrix.flags & COMPLEX or len(matrix.shape) != 2:
        raise KeyError(f"{name} is no matrix of integers")
    dtype = np.dtype(order + STORED[values.kind])
    if math.prod(matrix.shape) * dtype.itemsize != len(values.data):
        raise ValueError(f"a matrix of the shape {matrix.shape} has {len(values.data)} bytes")
    numbers = np.frombuffer(values.data, dtype).reshape(matrix.shape, order="F").astype(dtype.newbyteorder("="))
    if dtype.kind in "iu":
        return numbers
    if not np.isfinite(numbers).all() or (numbers != np.round(numbers)).any() or (np.abs(numbers) >= 2**53).any():
        raise KeyError(f"{name} is no matrix of integers")
    return numbers.astype(np.int64)
