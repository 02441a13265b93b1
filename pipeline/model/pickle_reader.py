"""Read a torch zip pickle without running anything in it.

A pickle is a program; this reader executes only its data-building part. Tensors and plain containers are admitted by
exact name, any other class becomes an inert placeholder that takes its state and does nothing, and a pickle that
*calls* anything else is refused. Zip members must be stored plainly and are read through their checksums.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

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


class _InertType(type):
    """Classes that can be named and instantiated by a pickle, but never called."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        raise pickle.UnpicklingError(f"it calls {cls.__name__}")


class Inert(metaclass=_InertType):
    """Stands for an object of a class that we neither have nor want to import; its state is dropped."""

    def __new__(cls, *args: Any) -> Inert:
        return object.__new__(cls)

    def __setstate__(self, state: Any) -> None:
        """Drop the state; without this method pickle would set attributes."""


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: torch.dtype
    numel: int


class _Reader(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, archive: zipfile.ZipFile, prefix: str) -> None:
        super().__init__(file)
        self.archive, self.prefix = archive, prefix
        self.storages: dict[str, torch.Tensor] = {}

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
            case ("storage", torch.dtype() as dtype, str() as key, str(), int() as numel) if numel >= 0:
                return _Storage(key, dtype, numel)
        raise pickle.UnpicklingError("it refers to data outside the file")

    def _bytes_of(self, storage: _Storage) -> torch.Tensor:
        if storage.key not in self.storages:
            member = _member(self.archive, f"{self.prefix}/data/{storage.key}")
            size = storage.numel * storage.dtype.itemsize
            if member.file_size != size:
                raise pickle.UnpicklingError(f"tensor data {storage.key} has {member.file_size} bytes, not {size}")
            data = bytearray(self.archive.read(member))
            tensor = torch.frombuffer(data, dtype=storage.dtype) if data else torch.empty(0, dtype=storage.dtype)
            self.storages[storage.key] = tensor
        return self.storages[storage.key]

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> torch.Tensor:
        numbers = (offset, *size, *stride)
        if not isinstance(storage, _Storage) or not all(isinstance(n, int) and n >= 0 for n in numbers):
            raise pickle.UnpicklingError("a tensor is described wrongly")
        last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) if math.prod(size) else offset - 1
        if last >= storage.numel or math.prod(size) > storage.numel:
            raise pickle.UnpicklingError("a tensor reaches beyond its data")
        return torch.as_strided(self._bytes_of(storage), size, stride, offset).clone()


def _member(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    info = archive.getinfo(name)
    # torch stores members plainly; a compressed one could unpack to far more than the file's size.
    if info.compress_type != zipfile.ZIP_STORED:
        raise pickle.UnpicklingError(f"its member {name} is compressed")
    return info


def read_torch_pickle(data: bytes, name: str) -> Any:
    """The content of a file that `torch.save` wrote (zip format), read without running its code.

    Args:
        data: the file.
        name: what to call it in messages.

    Raises:
        UserError: not such a file, damaged, or one that would run code.
    """
    if not zipfile.is_zipfile(io.BytesIO(data)):
        raise UserError(f"{name} is not a PyTorch checkpoint (not the zip file that torch.save writes).")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            pickles = [n for n in archive.namelist() if n.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise pickle.UnpicklingError("it holds no data.pkl")
            info = _member(archive, pickles[0])
            if info.file_size > MAX_PICKLE_BYTES:
                raise pickle.UnpicklingError(f"its data.pkl has {info.file_size} bytes")
            return _Reader(io.BytesIO(archive.read(info)), archive, pickles[0].removesuffix("/data.pkl")).load()
    except pickle.UnpicklingError as error:
        raise UserError(f"{name} is refused as a checkpoint: {error}. Nothing in it was run.") from error
    except (zipfile.BadZipFile, KeyError, EOFError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise UserError(f"{name} is damaged and cannot be read as a checkpoint: {error}.") from error
