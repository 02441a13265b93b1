"""Manifests and row groups: what is not whole is refused with a message that names it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.data import manifest as m
from pipeline.data.manifest import Manifest, load_manifest, read_group
from pipeline.data.schema import SCHEMA_VERSION, ObjectInfo, Row, encode_map
from pipeline.data.shards import Job, _write_rows
from pipeline.errors import StorageUnavailable, UserError


def make_rows(count: int) -> list[Row]:
    rng = np.random.default_rng(0)
    layer = encode_map(rng.integers(0, 3, (8, 8), np.uint8))
    objects = [ObjectInfo(0, 1, -1, 20), ObjectInfo(0, 2, 0, 20, "stuff")]
    return [
        Row(f"é {i}", rng.bytes(300), 8, 8, [layer] * (i % 3), objects[: i % 3], layer if i % 2 else None, 0.5 * i, "s")
        for i in range(count)
    ]


@pytest.fixture
def data(tmp_path: Path) -> tuple[Path, list[Row]]:
    rows = make_rows(33)
    info = _write_rows(rows, Job(None, str(tmp_path), rows_per_group=32), "shard-00000.parquet")  # type: ignore[arg-type]
    whole = Manifest(SCHEMA_VERSION, "d", "s", "", 33, 33, [info], {"image does not decode": 1}, {})
    (tmp_path / "manifest.json").write_bytes(whole.to_json())
    return tmp_path, rows


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(m, "RETRY_SECONDS", 0)


def test_round_trip(data: tuple[Path, list[Row]]) -> None:
    folder, rows = data
    manifest = load_manifest(str(folder))
    assert manifest.shards[0].row_groups == [17, 16]  # evenly, not 32 + 1
    assert manifest.shards[0].weights == [sum(r.weight for r in rows[:17]), sum(r.weight for r in rows[17:])]
    assert [row for g in range(2) for row in read_group(str(folder), manifest.shards[0].path, g)] == rows
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_same_rows_same_bytes(data: tuple[Path, list[Row]], tmp_path: Path) -> None:
    folder, rows = data
    info = _write_rows(rows, Job(None, str(tmp_path / "b"), rows_per_group=32), "shard-00000.parquet")  # type: ignore[arg-type]
    assert info == load_manifest(str(folder)).shards[0]


def test_flipped_bytes_are_detected(data: tuple[Path, list[Row]]) -> None:
    folder, rows = data
    path = folder / "shard-00000.parquet"
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    caught = 0
    # Everything but the footer has a checksum.
    footer = int.from_bytes(whole[-8:-4], "little") + 8
    for at in rng.integers(4, len(whole) - footer, 150):
        spoiled = bytearray(whole)
        spoiled[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(spoiled)
        try:
            read = [row for g in range(2) for row in read_group(str(folder), path.name, g)]
        except UserError:
            caught += 1
        else:
            assert read == rows
    assert caught > 140  # the rest lies in page headers, in fields that change nothing


def test_missing_and_cut_shards(data: tuple[Path, list[Row]]) -> None:
    folder, _ = data
    path = folder / "shard-00000.parquet"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"shard-00000.parquet has \d+ bytes, the manifest says"):
        load_manifest(str(folder))
    with pytest.raises(UserError, match="damaged"):
        read_group(str(folder), path.name, 0)
    path.unlink()
    with pytest.raises(UserError, match=r"lacks its shard shard-00000.parquet"):
        load_manifest(str(folder))
    with pytest.raises(UserError, match="There is no file"):
        read_group(str(folder), path.name, 0)


def test_folders_that_are_no_data_set(data: tuple[Path, list[Row]], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_manifest(str(tmp_path / "absent"))
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="not a prepared data set"):
        load_manifest(str(tmp_path / "other"))
    folder, _ = data
    for text in (b"{}", b"[]", b"{", b'{"shards": [{}]}'):
        (folder / "manifest.json").write_bytes(text)
        with pytest.raises(UserError, match="is not a manifest"):
            load_manifest(str(folder))
    (folder / "manifest.json").unlink()
    (folder / "plan.json").write_text("{}")
    with pytest.raises(UserError, match="unfinished"):
        load_manifest(str(folder))


def test_another_schema_version(data: tuple[Path, list[Row]]) -> None:
    folder, _ = data
    old = dataclasses.replace(load_manifest(str(folder)), schema_version=SCHEMA_VERSION + 1)
    (folder / "manifest.json").write_text(json.dumps(dataclasses.asdict(old)))
    with pytest.raises(UserError, match="schema version"):
        load_manifest(str(folder))


def test_reading_is_tried_again(data: tuple[Path, list[Row]], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, rows = data
    real, calls = m._read, []

    def flaky(where: str, group: int, columns: list[str] | None) -> pa.Table:
        calls.append(group)
        if len(calls) < 3:
            raise OSError("a page that was garbled on its way")
        return real(where, group, columns)

    monkeypatch.setattr(m, "_read", flaky)
    assert read_group(str(folder), "shard-00000.parquet", 0) == rows[:17] and len(calls) == 3
    calls.clear()
    monkeypatch.setattr(m, "READ_ATTEMPTS", 2)
    with pytest.raises(UserError, match="damaged"):
        read_group(str(folder), "shard-00000.parquet", 0)


def test_a_store_that_is_away_is_not_the_shards_fault(
    data: tuple[Path, list[Row]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*args: object) -> pa.Table:
        raise StorageUnavailable("503 again and again")

    monkeypatch.setattr(m, "_read", away)
    with pytest.raises(StorageUnavailable):
        read_group(str(data[0]), "shard-00000.parquet", 0)


def test_a_shard_that_was_replaced_is_read_anew(data: tuple[Path, list[Row]]) -> None:
    folder, rows = data
    path = folder / "shard-00000.parquet"
    assert read_group(str(folder), path.name, 0) == rows[:17]
    _write_rows(rows[20:], Job(None, str(folder), rows_per_group=5), path.name)  # type: ignore[arg-type]
    assert read_group(str(folder), path.name, 0) == rows[20:25]
