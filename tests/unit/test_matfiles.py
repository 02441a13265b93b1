"""MATLAB 5 files: ours against SciPy's reader, and damage that crashes SciPy's."""

from __future__ import annotations

import contextlib
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

from pipeline.data.matfiles import read_field


def read(data: bytes) -> np.ndarray:
    return read_field(data, "GTinst", "Segmentation")


def mat(ids: np.ndarray, key: str = "GTinst", field: str = "Segmentation", compressed: bool = True) -> bytes:
    buffer = io.BytesIO()
    savemat(buffer, {key: {field: ids, "Categories": np.array([[1]])}}, do_compression=compressed)
    return buffer.getvalue()


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damage_is_an_error(data: Any) -> None:
    whole = bytearray(mat(np.arange(30, dtype=np.uint8).reshape(5, 6), compressed=data.draw(st.booleans())))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(KeyError, ValueError):
        assert read(bytes(whole[: data.draw(st.integers(0, len(whole)))])).ndim == 2


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    "kind",
    [*(np.uint8, np.int8, np.uint16, np.int16, np.int32, np.uint32), *(np.int64, np.uint64, np.float32, np.float64)],
)
def test_every_type_of_whole_numbers(kind: Any, compressed: bool) -> None:
    for shape in ((1, 1), (1, 3), (7, 5)):
        ids = np.arange(math.prod(shape), dtype=kind).reshape(shape)
        np.testing.assert_array_equal(read(mat(ids, compressed=compressed)), ids)


def test_native_files(shared: Path) -> None:
    files = sorted((shared / "data" / "native" / "SBD").glob("*/*.mat"))
    assert len(files) == 4
    for path in files:
        variable = "GTinst" if path.parent.name == "inst" else "GTcls"
        for field in ("Segmentation", "Categories" if variable == "GTinst" else "CategoriesPresent"):
            theirs = loadmat(path)[variable][field][0, 0]
            ours = read_field(path.read_bytes(), variable, field)
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)
        with pytest.raises(KeyError, match="not Nothing"):
            read_field(path.read_bytes(), variable, "Nothing")
        with pytest.raises(KeyError, match="is no matrix of integers"):
            read_field(path.read_bytes(), variable, "Boundaries")


def test_what_is_something_else() -> None:
    ids = np.ones((3, 4), np.uint8)
    for content in ({"GTinst": ids}, {"other": ids}, {"GTinst": {"Segmentation": "text"}}):
        buffer = io.BytesIO()
        savemat(buffer, content)
        with pytest.raises(KeyError):
            read(buffer.getvalue())
    for other in (ids.astype(float) / 3, ids.astype(complex), np.ones((2, 2, 2), np.uint8)):
        with pytest.raises(KeyError, match="no matrix of integers"):
            read(mat(other))
    for data in (b"", b"MATLAB 7.3 MAT-file".ljust(512, b"x"), mat(ids)[:200]):
        with pytest.raises(ValueError):
            read(data)
    with pytest.raises(ValueError, match="too large"):
        read(mat(np.zeros((9000, 9000), np.uint8)))
