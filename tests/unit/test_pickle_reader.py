"""The restricted reader on hostile and odd files, in both formats of torch.save: nothing runs, nothing is blown up."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._utils import _rebuild_tensor_v2

from pipeline.errors import UserError
from pipeline.model.pickle_reader import read_torch_pickle


class Payload:
    """Unpickling this with the ordinary reader makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


class Unknown:
    """A class that the reader does not know."""

    def __init__(self) -> None:
        self.value = 3


def saved(content: Any, legacy: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def zip_of(script: bytes, **members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/data.pkl", script)
        for name, data in members.items():
            archive.writestr(f"a/data/{name}", data)
    return buffer.getvalue()


CONTENT = {
    "model": OrderedDict(
        a=torch.arange(6.0).view(2, 3).T,
        b=torch.arange(5),
        half=torch.ones(3, dtype=torch.float16),
        bf=torch.ones(2, dtype=torch.bfloat16),
        flags=torch.tensor([True, False]),
        empty=torch.zeros(0, 4),
        scalar=torch.tensor(2.5),
        parameter=torch.nn.Parameter(torch.ones(2)),
    ),
    "numbers": [1, 2.5, None, True, "x", (1, 2)],
}


@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_come_back(legacy: bool) -> None:
    content = read_torch_pickle(saved(CONTENT, legacy), "x")
    assert content["numbers"] == CONTENT["numbers"]
    assert list(content["model"]) == list(CONTENT["model"])
    for key, tensor in CONTENT["model"].items():
        assert content["model"][key].dtype == tensor.dtype
        assert torch.equal(content["model"][key], tensor)


@pytest.mark.parametrize("legacy", [False, True])
def test_shared_data_is_allowed_within_reason(legacy: bool) -> None:
    flat = torch.rand(50_000)
    views = read_torch_pickle(saved([flat[:10], flat[10:], flat], legacy), "x")
    assert torch.equal(torch.cat(views[:2]), views[2])
    with pytest.raises(UserError, match="far more memory"):
        read_torch_pickle(saved([flat] * 2 + [flat.view(2, -1)[:] for _ in range(8)], legacy), "x")


@pytest.mark.parametrize("legacy", [False, True])
def test_code_does_not_run(tmp_path: Path, legacy: bool) -> None:
    mark = tmp_path / "ran"
    data = saved({"model": Payload(mark)}, legacy)
    with pytest.raises(UserError, match="refused"):
        read_torch_pickle(data, "evil.pth")
    assert not mark.exists()
    torch.load(io.BytesIO(data), weights_only=False)
    assert mark.exists()  # the payload was a live one


def test_code_in_the_head_of_an_old_file_does_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    data = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2) + pickle.dumps(Payload(mark), protocol=2)
    with pytest.raises(UserError, match="refused"):
        read_torch_pickle(data, "evil.pth")
    assert not mark.exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_unknown_classes_are_inert(legacy: bool) -> None:
    content = read_torch_pickle(saved({"t": torch.ones(2), "o": Unknown()}, legacy), "x")
    assert torch.equal(content["t"], torch.ones(2))
    assert not isinstance(content["o"], Unknown)
    assert not hasattr(content["o"], "value")


@pytest.mark.parametrize(
    ("script", "what"),
    [
        (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"abc", "a byte string longer than the file"),
        (b"\x80\x04\x96" + struct.pack("<Q", 1 << 40) + b"abc", "a byte array longer than the file"),
        (b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"abc", "a text longer than the file"),
        (b"\x80\x02Nr" + struct.pack("<I", 0xFFFFFFFF) + b".", "a memo index of 4 billion"),
        (b"\x80\x02Np99999999999\n.", "a memo index in text"),
        (b"\x80\x02ccollections\nOrderedDict\n(K\x01K\x02d", "no end"),
        (b"\x80\x02}K\x01s.", "an operation without its operands"),
        (b"\x80\x02\xff.", "no opcode"),
        (b"\x80\x02Vabc\nQ.", "data outside the file"),
        (b"\x80\x02cos.path\nos.system\nVtrue\n\x85R.", "a dotted name called"),
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x01K\x01K\x01tR.", "a tensor of no storage"),
        (b"\x80\x02ctorch.hub\nload\nVx\n\x85R.", "a function of an admitted package"),
        (b"", "nothing"),
    ],
)
def test_hostile_pickles_are_one_message(script: bytes, what: str) -> None:
    with pytest.raises(UserError, match=r"x\.pth"):
        read_torch_pickle(zip_of(script), "x.pth")


def rebuild(numel: int, size: tuple[int, ...], stride: tuple[int, ...], key: str = "0") -> bytes:
    """A pickle that describes one float tensor."""

    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return ("storage", torch.FloatStorage, key, "cpu", numel) if isinstance(obj, Storage) else None

    class Tensor:
        def __reduce__(self) -> tuple[Any, ...]:
            return _rebuild_tensor_v2, (Storage(), 0, size, stride, False, OrderedDict())

    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump(Tensor())
    return buffer.getvalue()


def test_a_described_tensor_is_read() -> None:
    members = {"0": torch.arange(4.0).numpy().tobytes()}
    assert torch.equal(
        read_torch_pickle(zip_of(rebuild(4, (2, 2), (2, 1)), **members), "x").flatten(), torch.arange(4.0)
    )


def test_a_tensor_cannot_be_changed_by_the_file() -> None:
    """Its own __setstate__ would let the file make it larger, beyond every check."""
    members = {"0": torch.arange(4.0).numpy().tobytes()}
    script = rebuild(4, (4,), (1,))[:-1]
    grown = b"(h\x00K\x00\x8a\x05\0\0\0\0\x01\x85K\x01\x85tb."
    for change in (grown, b"K\x00K\x01s.", b"K\x01a."):
        with pytest.raises(UserError, match="changes an object of Tensor"):
            read_torch_pickle(zip_of(script + change, **members), "x")


class Settings(dict):
    """A container of the original's own."""


@pytest.mark.parametrize("legacy", [False, True])
def test_state_of_containers_is_dropped(legacy: bool) -> None:
    state = OrderedDict(w=torch.ones(2))
    state._metadata = {"version": 1}  # type: ignore[attr-defined]  # as state_dict() has
    settings = Settings(a=1)
    settings.extra = 5  # type: ignore[attr-defined]
    content = read_torch_pickle(saved({"state_dict": state, "config": settings}, legacy), "x")
    assert torch.equal(content["state_dict"]["w"], torch.ones(2))
    assert vars(content["state_dict"]) == {}
    assert not isinstance(content["config"], dict)


@pytest.mark.parametrize(
    ("numel", "size", "stride", "key"),
    [
        (1 << 40, (1 << 40,), (1,), "0"),  # data that the file does not have
        (4, (5,), (1,), "0"),  # more than its storage
        (4, (2, 2), (4, 1), "0"),  # strides that reach beyond
        (4, (1 << 40,), (0,), "0"),  # one number repeated without end
        (4, (0, 1 << 70), (1, 1), "0"),  # sizes that no machine counts
        (4, (2,), (1, 1), "0"),
        (4, (-1,), (1,), "0"),
        (4, (4,), (1,), "../../data.pkl"),
    ],
)
def test_wrongly_described_tensors_are_refused(
    numel: int, size: tuple[int, ...], stride: tuple[int, ...], key: str
) -> None:
    members = {"0": torch.arange(4.0).numpy().tobytes()}
    with pytest.raises(UserError, match=r"x\.pth"):
        read_torch_pickle(zip_of(rebuild(numel, size, stride, key), **members), "x.pth")


def test_a_compressed_member_is_refused() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02N." + b"\0" * 1_000_000)
    with pytest.raises(UserError, match="compressed"):
        read_torch_pickle(buffer.getvalue(), "x")


@pytest.mark.parametrize("legacy", [False, True])
def test_every_cut_of_a_file_is_one_message(legacy: bool) -> None:
    data = saved({"a": torch.arange(64.0)}, legacy)
    for length in range(0, len(data) - 1, 7):
        with pytest.raises(UserError):
            read_torch_pickle(data[:length], "x")


def test_an_old_files_storage_length_is_checked() -> None:
    data = bytearray(saved({"a": torch.arange(64.0)}, legacy=True))
    at = len(data) - 64 * 4 - 8
    assert int.from_bytes(data[at : at + 8], "little") == 64
    data[at : at + 8] = (1 << 50).to_bytes(8, "little")
    with pytest.raises(UserError, match="beyond the file"):
        read_torch_pickle(bytes(data), "x")


def test_noise_is_not_a_checkpoint() -> None:
    with pytest.raises(UserError, match=r"torch\.save"):
        read_torch_pickle(os.urandom(1000), "x")
