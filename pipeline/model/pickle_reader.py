"""Read a file of torch.save (zip or the older plain format) without running anything in it.

A pickle is a program; this reader executes only its data-building part. Tensors and plain containers are admitted by
exact name, any other class becomes an inert placeholder that takes its state and does nothing, and a pickle that
*calls* anything else is refused. It is the pure-Python machine of the standard library: its instructions that change
an object can be kept to plain containers (the C one would let a file call a tensor's `__setstate__`). Every size is
compared with the file's before memory is taken. Zip members must be stored plainly and are read through their
checksums; the older format has none.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from pipeline.errors import UserError

_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
MAX_PICKLE_BYTES = 64 << 20
MAX_SHARING = 4  # tensors may share data; all of them together take at most so many times the file's size

DAMAGE = (zipfile.BadZipFile, LookupError, EOFError, ValueError, TypeError, AttributeError, ArithmeticError,
           MemoryError, RuntimeError)  # fmt: skip

# What the older format begins with: torch's magic number and protocol version, each a pickle of its own.
_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_LEGACY_START = pickle.dumps(_LEGACY_MAGIC, protocol=2)[:14]


class _InertType(type):
    """Classes that can be named and instantiated by a pickle, but never called."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        raise pickle.UnpicklingError(f"it calls {cls.__name__}")


class Inert(metaclass=_InertType):
    """Stands for an object of a class that we neither have nor want to import; its state is dropped."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        return object.__new__(cls)


@dataclass(frozen=True)
class Storage:
    key: str
    dtype: torch.dtype
    numel: int


Bytes = Callable[[Storage], bytearray]  # the data of a storage, as long as its description says


_MACHINE: Any = vars(pickle)["_Unpickler"]  # public in effect, but for its name


class _Reader(_MACHINE):
    """Args: pickle at the file's place, source of the tensors' data, bytes that all tensors may take together."""

    stack: list[Any]

    def __init__(self, file: io.BytesIO, data_of: Bytes, budget: int) -> None:
        super().__init__(file)
        self.data_of, self.budget = data_of, budget
        self.storages: dict[str, torch.Tensor] = {}
        self.given: set[str] = set()  # storages whose one whole tensor has been handed out, without a copy

    def _target(self, *kinds: type) -> Any:
        """What the next change is made to: the topmost object, one of `kinds`; None when it is inert."""
        target = self.stack[-1]
        if isinstance(target, Inert):
            return None
        if type(target) not in kinds:
            raise pickle.UnpicklingError(f"it changes an object of {type(target).__name__}")
        return target

    def _build(self) -> None:
        self.stack.pop()
        self._target(OrderedDict)  # whose state, attributes beside its items, is dropped too

    def _append(self, items: list[Any]) -> None:
        if (target := self._target(list)) is not None:
            target.extend(items)

    def _set_items(self, items: list[Any]) -> None:
        if (target := self._target(dict, OrderedDict)) is not None:
            target.update(zip(items[::2], items[1::2], strict=True))

    def _add_items(self) -> None:
        items = self.pop_mark()
        if (target := self._target(set)) is not None:
            target.update(items)

    dispatch: ClassVar[dict[int, Any]] = {
        **_MACHINE.dispatch,
        pickle.BUILD[0]: _build,
        pickle.APPEND[0]: lambda self: self._append([self.stack.pop()]),
        pickle.APPENDS[0]: lambda self: self._append(self.pop_mark()),
        pickle.SETITEM[0]: lambda self: self._set_items([self.stack.pop(), self.stack.pop()][::-1]),
        pickle.SETITEMS[0]: lambda self: self._set_items(self.pop_mark()),
        pickle.ADDITEMS[0]: _add_items,
    }

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        admitted = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_parameter"): lambda data, requires_grad, hooks: data,
            ("torch", "Size"): torch.Size,
            ("builtins", "set"): set,
            ("__builtin__", "set"): set,
        }
        known = admitted.get((module, name))
        return known if known is not None else _InertType(f"{module}.{name}", (Inert,), {})

    def persistent_load(self, pid: Any) -> Any:
        match pid:
            case ("storage", torch.dtype() as dtype, str() as key, str(), int() as numel, *rest) if numel >= 0:
                if rest in ([], [None]):
                    return Storage(key, dtype, numel)
        raise pickle.UnpicklingError("it refers to data outside the file")

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> torch.Tensor | None:
        numbers = (offset, *size, *stride)
        if not isinstance(storage, Storage) or not all(isinstance(n, int) and n >= 0 for n in numbers):
            raise pickle.UnpicklingError("a tensor is described wrongly")
        count = math.prod(size)
        last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) if count else offset - 1
        if last >= storage.numel or count > storage.numel:
            raise pickle.UnpicklingError("a tensor reaches beyond its data")
        self.budget -= count * storage.dtype.itemsize
        if self.budget < 0:
            raise pickle.UnpicklingError("its tensors would take far more memory than the file has bytes")
        if storage.key not in self.storages:
            data = self.data_of(storage)
            flat = torch.frombuffer(data, dtype=storage.dtype) if data else torch.empty(0, dtype=storage.dtype)
            self.storages[storage.key] = flat
        flat = self.storages[storage.key]
        if (flat.dtype, flat.numel()) != (storage.dtype, storage.numel):
            raise pickle.UnpicklingError(f"tensor data {storage.key} is described in two ways")
        tensor = torch.as_strided(flat, size, stride, offset)
        if count < storage.numel or storage.key in self.given:
            return tensor.clone()
        self.given.add(storage.key)
        return tensor


def scan(data: bytes, at: int) -> int:
    """Where the pickle that begins at `at` ends, if no part of it claims more room than the file has.

    The unpickler takes memory for a length or a memo index before it has seen the data; this pass, which builds
    nothing, comes first.
    """
    file = io.BytesIO(data)
    file.seek(at)
    for op, arg, _ in pickletools.genops(file):
        if op.name in ("PUT", "BINPUT", "LONG_BINPUT") and (not isinstance(arg, int) or arg > len(data)):
            raise pickle.UnpicklingError("it numbers more objects than it can hold")
        if file.tell() - at > MAX_PICKLE_BYTES:
            raise pickle.UnpicklingError(f"its pickle has more than {MAX_PICKLE_BYTES} bytes")
    return file.tell()


def described(script: bytes) -> list[Storage]:
    """The tensor data that a pickle describes, each once; no tensor is built."""
    storages: dict[str, Storage] = {}

    class Sizes(_Reader):
        def persistent_load(self, pid: Any) -> Any:
            storage = super().persistent_load(pid)
            return storages.setdefault(storage.key, storage)

        def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> None:
            """Build nothing."""

    Sizes(io.BytesIO(script), lambda _: bytearray(), 0).load()
    return list(storages.values())


def _member(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    info = archive.getinfo(name)
    # torch stores members plainly; a compressed one could unpack to far more than the file's size.
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise pickle.UnpicklingError(f"its member {name} is compressed")
    return info


def _read_zip(data: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        pickles = [n for n in archive.namelist() if n.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise pickle.UnpicklingError("it holds no data.pkl")
        info = _member(archive, pickles[0])
        if info.file_size > MAX_PICKLE_BYTES:
            raise pickle.UnpicklingError(f"its data.pkl has {info.file_size} bytes")
        prefix = pickles[0].removesuffix("/data.pkl")
        left = len(data)

        def data_of(storage: Storage) -> bytearray:
            nonlocal left
            member = _member(archive, f"{prefix}/data/{storage.key}")
            size = storage.numel * storage.dtype.itemsize
            left -= member.file_size  # members that overlap could hold more than the file
            if member.file_size != size or left < 0:
                raise pickle.UnpicklingError(f"tensor data {storage.key} has {member.file_size} bytes, not {size}")
            return bytearray(archive.read(member))

        script = archive.read(info)
        scan(script, 0)
        return _Reader(io.BytesIO(script), data_of, MAX_SHARING * len(data)).load()


def _read_legacy(data: bytes) -> Any:
    """Five pickles (magic number, protocol, system, content, storage keys), then each storage's length and bytes."""

    def no_data(storage: Storage) -> bytearray:
        raise pickle.UnpicklingError("it has tensors in its head")

    def plain(at: int) -> tuple[Any, int]:
        end = scan(data, at)
        return _Reader(io.BytesIO(data[at:end]), no_data, 0).load(), end

    magic, at = plain(0)
    protocol, at = plain(at)
    _, content_at = plain(at)
    if (magic, protocol) != (_LEGACY_MAGIC, _LEGACY_PROTOCOL):
        raise pickle.UnpicklingError("it is of a format that we do not know")
    content_end = scan(data, content_at)
    keys, at = plain(content_end)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise pickle.UnpicklingError("its list of tensor data is none")
    script = data[content_at:content_end]
    # The lengths of the storages are counted in elements, whose size only the content tells: note it on a first pass.
    sizes = {storage.key: storage.dtype.itemsize for storage in described(script)}
    spans: dict[str, tuple[int, int]] = {}
    for key in keys:
        if key not in sizes or at + 8 > len(data):
            raise pickle.UnpicklingError(f"tensor data {key} is missing, or of no tensor")
        end = at + 8 + int.from_bytes(data[at : at + 8], "little") * sizes[key]
        if end > len(data):
            raise pickle.UnpicklingError(f"tensor data {key} reaches beyond the file")
        spans[key], at = (at + 8, end), end

    def data_of(storage: Storage) -> bytearray:
        first, end = spans[storage.key]
        if end - first != storage.numel * storage.dtype.itemsize:
            raise pickle.UnpicklingError(f"tensor data {storage.key} has {end - first} bytes")
        return bytearray(data[first:end])

    return _Reader(io.BytesIO(script), data_of, MAX_SHARING * len(data)).load()


def read_torch_pickle(data: bytes, name: str) -> Any:
    """The content of a file that `torch.save` wrote, read without running its code.

    Args:
        data: the file.
        name: what to call it in messages.

    Raises:
        UserError: not such a file, damaged, or one that would run code.
    """
    legacy = data.startswith(_LEGACY_START)
    if not legacy and not zipfile.is_zipfile(io.BytesIO(data)):
        raise UserError(
            f"{name} is not a PyTorch checkpoint: neither the zip file that torch.save writes nor its older format. "
            "If torch.load reads it, write it anew with torch.save."
        )
    try:
        return _read_legacy(data) if legacy else _read_zip(data)
    except pickle.UnpicklingError as error:
        raise UserError(f"{name} is refused as a checkpoint: {error}. Nothing in it was run.") from error
    except DAMAGE as error:
        raise UserError(f"{name} is damaged and cannot be read as a checkpoint: {error}.") from error
