"""Data pickles: what plain data needs is read, everything else is refused, and nothing of it runs."""

from __future__ import annotations

import contextlib
import os
import pickle
import struct
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.pickles import PickledArray, read_pickle
from pipeline.errors import UserError

PROTOCOLS = [2, 3, 4, 5]
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(min_size=1),
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner, inner, inner) | st.dictionaries(st.text() | st.integers(), inner)
    ),
    max_leaves=20,
)
ARRAYS = [
    np.arange(12, dtype=np.uint8).reshape(12, 1),
    np.arange(12, dtype=np.uint8),
    np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    np.arange(4, dtype=">i4"),
    np.zeros((0, 3), np.float32),
    np.array([True, False]),
]


class Payload:
    """Runs code when a careless reader opens it."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> Any:
        return self.call, self.arguments


@given(PLAIN, st.sampled_from(PROTOCOLS))
@settings(deadline=None)
def test_plain_data(content: Any, protocol: int) -> None:
    assert read_pickle(pickle.dumps(content, protocol), "p") == content


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_and_numbers(protocol: int) -> None:
    numbers = {"a": np.int64(-7), "b": np.float32(0.5), np.int32(3): np.bool_(True), "c": [OrderedDict(x=1)]}
    content = read_pickle(pickle.dumps((ARRAYS, numbers, defaultdict(list, y=[2]), b"raw"), protocol), "p")
    arrays = [array.value for array in content[0]]
    for array, expected in zip(arrays, ARRAYS, strict=True):
        np.testing.assert_array_equal(array, expected)
        assert array.dtype == expected.dtype
    assert content[1:] == ({"a": -7, "b": 0.5, 3: True, "c": [{"x": 1}]}, {"y": [2]}, b"raw")


def test_names_of_older_and_newer_numpy() -> None:
    data = pickle.dumps(ARRAYS[0], 3)
    new, old = b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"
    assert new in data or old in data
    for name in (new, old):
        array = read_pickle(data.replace(new, name).replace(old, name), "p")
        assert isinstance(array, PickledArray)
        np.testing.assert_array_equal(array.value, ARRAYS[0])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_payload_does_not_run(protocol: int, tmp_path: Path) -> None:
    proof = tmp_path / "ran"
    command = f"touch {proof}"
    payloads = [
        Payload(os.system, command),
        Payload(eval, f"__import__('os').system({command!r})"),
        Payload(np.load, str(proof), "r", True),
        Payload(getattr, "a", "upper"),
        {"masks": [np.zeros(3, np.uint8), Payload(Path.touch, proof)]},
        Payload(np.frombuffer, b"abc", "u1"),
    ]
    for payload in payloads:
        with pytest.raises(UserError, match=r"p is refused: it asks for .*Nothing in it was run"):
            read_pickle(pickle.dumps(payload, protocol), "p")
    assert not proof.exists()
    pickle.loads(pickle.dumps(payloads[0], protocol))
    assert proof.exists()  # it would have run


@pytest.mark.parametrize(
    "asks",
    [
        b"cnumpy\nload\n.",
        b"cnumpy\nndarray.tofile\n.",
        b"cnumpy.core.multiarray\n_reconstruct.__globals__\n.",
        b"cnumpy.core\nmultiarray._reconstruct\n.",
        b"cbuiltins\ntuple\n.",
    ],
)
def test_only_exact_names(asks: bytes) -> None:
    with pytest.raises(UserError, match="asks for"):
        read_pickle(asks, "p")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"cnumpy\nndarray\n)R.", "calls a"),
        (b"cbuiltins\nlist\n)R.", "calls a"),
        (b"X\x01\x00\x00\x00a)R.", "calls a str"),
        (b"cnumpy\ndtype\n}X\x08\x00\x00\x00__code__K\x01sb.", "changes a"),
        (b"](K\x01K\x02e}b.", "changes a list"),
        (b"cnumpy\ndtype\nX\x02\x00\x00\x00O8\x85R.", "an array of 'O8'"),
        (b"})K\x01s.", "dictionary"),
        (b"cos\nsystem\n.", r"asks for os\.system"),
        (b"Pabc\n.", "instruction PERSID"),
        (b"(ios\nsystem\n.", "instruction INST"),
        (b"\x82\x01.", "instruction EXT1"),
        (b"cnumpy\ndtype\n)\x81.", "instruction NEWOBJ"),
        (b"\x96" + struct.pack("<Q", 1 << 40) + b"a.", "reach beyond"),
        (b"\x8e" + struct.pack("<Q", 1 << 40) + b"a", "no whole pickle"),
        (b"K\x01r\xff\xff\xff\xffK", "no whole pickle"),  # a memo of 4 G places in C
        (b"", "no whole pickle"),
        (b"\x89PNG", "is refused|no whole pickle"),
    ],
)
def test_refused(data: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_pickle(data, "p")


def test_sizes_are_held_against_the_bytes() -> None:
    data = pickle.dumps(np.zeros((3, 5), np.uint8), 4)
    huge = data.replace(b"K\x03K\x05\x86", b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86")
    assert huge != data
    # The frame that holds the pickle is longer now.
    huge = huge[:3] + struct.pack("<Q", len(huge) - 11) + huge[11:]
    with pytest.raises(UserError, match=r"shape \(2147483647, 2147483647\) has 15 bytes"):
        read_pickle(huge, "p")


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damage_is_one_clear_message(data: Any) -> None:
    whole = bytearray(pickle.dumps(({"a": [1, 2.5, None]}, ARRAYS[:2]), data.draw(st.sampled_from(PROTOCOLS))))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(UserError):
        read_pickle(bytes(whole[: data.draw(st.integers(0, len(whole)))]), "p")
