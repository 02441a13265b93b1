"""Read a data pickle (numbers, texts, containers, NumPy arrays) without running anything in it.

A pickle is a program. This reader executes only the instructions that build data; NumPy's own constructors, by exact
name, are replaced by ours, which check every size against the bytes that are there. Everything else is refused. It is
the pure-Python machine of the standard library, because the C one reserves memory for whatever a file claims.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import struct
from typing import Any, ClassVar

import numpy as np

from pipeline.errors import UserError

MAX_BYTES = 2 << 30
DTYPES = frozenset({"b1", *(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)), "f2", "f4", "f8"})

_MACHINE: Any = vars(pickle)["_Unpickler"]  # public in effect, but for its name
# What protocols 2 to 5 use for plain data. Not among them: whatever makes instances of classes (INST, OBJ, NEWOBJ),
# refers to data outside the file (PERSID, NEXT_BUFFER, EXT) or is text of protocol 0.
_DATA = {
    *(
        "PROTO",
        "FRAME",
        "STOP",
        "MARK",
        "POP",
        "POP_MARK",
        "NONE",
        "NEWTRUE",
        "NEWFALSE",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG1",
        "BINFLOAT",
    ),
    *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT"),
    *("MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "GLOBAL", "STACK_GLOBAL"),
}
_NAMES = {op.code.encode("latin-1")[0]: op.name for op in pickletools.opcodes}


def _refuse(why: str) -> pickle.UnpicklingError:
    return pickle.UnpicklingError(why)


class _Dtype:
    """A NumPy dtype under construction: name, then byte order."""

    def __init__(self, name: Any, *_: Any) -> None:
        if not isinstance(name, str) or name not in DTYPES:
            raise _refuse(f"it holds an array of {str(name)[:40]!r}")
        self.value = np.dtype(name)

    def build(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise _refuse("a dtype is described wrongly")
        self.value = self.value.newbyteorder(state[1])


class PickledArray:
    """A NumPy array of a pickle. `value` is read-only, and None when the pickle never gave its data."""

    def __init__(self, *_: Any) -> None:
        self.value: np.ndarray | None = None

    def build(self, state: Any) -> None:
        match state:
            case (int(), tuple() as shape, _Dtype() as dtype, bool() as fortran, bytes() as data):
                self.value = _array(data, dtype, shape, "F" if fortran else "C")
            case _:
                raise _refuse("an array is described wrongly")


class _Name:
    """An admitted name that is only ever an argument (numpy.ndarray, list): it cannot be called."""


def _array(data: bytes, dtype: _Dtype, shape: tuple[Any, ...], order: str) -> np.ndarray:
    if len(shape) > 8 or not all(type(n) is int and n >= 0 for n in shape):
        raise _refuse("an array is described wrongly")
    if math.prod(shape) * dtype.value.itemsize != len(data):
        raise _refuse(f"an array of shape {shape} has {len(data)} bytes")
    return np.frombuffer(data, dtype.value).reshape(shape, order="F" if order == "F" else "C")


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any, *_: Any) -> PickledArray:
    array = PickledArray()
    array.build((1, shape, dtype, order == "F", data))
    return array


def _scalar(dtype: Any, data: Any) -> Any:
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
        raise _refuse("a number is described wrongly")
    return _array(data, dtype, (), "C").item()


def _encode(text: Any, encoding: Any) -> bytes:
    """How protocol 2 writes bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise _refuse("bytes are described wrongly")
    return text.encode("latin-1")


def _no_bytes() -> bytes:
    """How protocol 2 writes no bytes."""
    return b""


def _default_dict(*_: Any) -> dict[Any, Any]:
    return {}


_CORES = ("numpy.core", "numpy._core")
_ADMITTED = {
    **{(f"{core}.multiarray", "_reconstruct"): PickledArray for core in _CORES},
    **{(f"{core}.multiarray", "scalar"): _scalar for core in _CORES},
    **{(f"{core}.numeric", "_frombuffer"): _from_buffer for core in _CORES},
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Name(),
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): _default_dict,
    ("collections", "defaultdict"): _default_dict,
    **{(module, name): _Name() for module in ("builtins", "__builtin__") for name in ("list", "dict")},
    ("__builtin__", "bytes"): _no_bytes,
}
_CALLABLE = (PickledArray, _scalar, _from_buffer, _Dtype, _encode, _no_bytes, _default_dict)


class _Reader(_MACHINE):
    dispatch: ClassVar[dict[int, Any]] = {op: call for op, call in _MACHINE.dispatch.items() if _NAMES[op] in _DATA}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise _refuse(f"it asks for {module}.{name}")
        return _ADMITTED[module, name]

    def load_reduce(self) -> None:
        arguments, call = self.stack.pop(), self.stack[-1]
        if not any(call is known for known in _CALLABLE) or not isinstance(arguments, tuple):
            raise _refuse(f"it calls a {type(call).__name__}")
        self.stack[-1] = call(*arguments)

    def load_build(self) -> None:
        state, made = self.stack.pop(), self.stack[-1]
        if not isinstance(made, _Dtype | PickledArray):
            raise _refuse(f"it changes a {type(made).__name__}")
        made.build(state)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def load_setitems(self) -> None:
        self._set(self.pop_mark())

    def _set(self, pairs: list[Any]) -> None:
        into = self.stack[-1]
        # Other keys are not needed, and nested tuples can take for ever to hash.
        if type(into) is not dict or not all(isinstance(key, str | int) for key in pairs[::2]):
            raise _refuse("a dictionary is described wrongly")
        into.update(zip(pairs[::2], pairs[1::2], strict=True))

    def load_bytearray8(self) -> None:
        (size,) = struct.unpack("<Q", self.read(8))
        data = self.read(size) if size <= MAX_BYTES else b""
        if len(data) != size:
            raise _refuse("bytes reach beyond the file")
        self.append(data)


_Reader.dispatch.update(
    {
        pickle.REDUCE[0]: _Reader.load_reduce,
        pickle.BUILD[0]: _Reader.load_build,
        pickle.SETITEM[0]: _Reader.load_setitem,
        pickle.SETITEMS[0]: _Reader.load_setitems,
        pickle.BYTEARRAY8[0]: _Reader.load_bytearray8,
    }
)


def read_pickle(data: bytes, name: str) -> Any:
    """The content of a pickle of plain data; its NumPy arrays come as `PickledArray`, its NumPy numbers as Python's.

    Args:
        data: the file.
        name: what to call it in messages.

    Raises:
        UserError: damaged, or it holds anything else, code above all.
    """
    if len(data) > MAX_BYTES:
        raise UserError(f"{name} has {len(data)} bytes, more than such a file can have.")
    reader = _Reader(io.BytesIO(data))
    try:
        return reader.load()
    except pickle.UnpicklingError as error:
        raise UserError(f"{name} is refused: {error}. Nothing in it was run.") from error
    except KeyError as error:
        op = error.args[0] if error.args else None
        why = f"it uses the instruction {_NAMES[op]}" if isinstance(op, int) and op in _NAMES else "it is no pickle"
        raise UserError(f"{name} is refused: {why}. Nothing in it was run.") from error
    except (EOFError, ValueError, TypeError, IndexError, AttributeError, OverflowError, struct.error) as error:
        raise UserError(f"{name} is no whole pickle of data (cut off, perhaps): {error}.") from error
