"""Local side of storage: atomic writes, listing, messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import storage
from pipeline.errors import UserError


def test_bytes_round_trip_and_leave_no_partial_file(tmp_path: Path) -> None:
    uri = storage.join(str(tmp_path), "a", "b.bin")
    storage.write_bytes(uri, b"one")
    storage.write_bytes(uri, b"two")
    assert storage.read_bytes(uri) == b"two"
    assert storage.size_of(uri) == 3
    assert storage.list_files(str(tmp_path)) == [uri]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = str(tmp_path / "x")
    storage.write_bytes(uri, b"old")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="No space left"):
        storage.write_bytes(uri, b"new")
    assert storage.read_bytes(uri) == b"old"
    assert storage.list_files(str(tmp_path)) == [uri]


def test_folders_files_and_removal(tmp_path: Path) -> None:
    for name in ("f/one.txt", "f/two.bin", "g/three.txt"):
        storage.write_bytes(str(tmp_path / name), b"")
    root = str(tmp_path)
    assert [Path(u).name for u in storage.list_files(root, ".txt")] == ["one.txt", "three.txt"]
    assert [Path(u).name for u in storage.list_folders(root)] == ["f", "g"]
    storage.remove(storage.join(root, "f"))
    storage.remove(storage.join(root, "absent"))
    assert [Path(u).name for u in storage.list_folders(root)] == ["g"]
    assert storage.list_files(storage.join(root, "absent")) == []


def test_messages(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no file"):
        storage.read_bytes(str(tmp_path / "absent"))
    with pytest.raises(UserError, match="not a kind of storage"):
        storage.exists("ftp://host/x")


def test_uris_do_not_depend_on_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("x") == str(tmp_path / "x")
    assert storage.absolute("s3://bucket/x/") == "s3://bucket/x"
    assert storage.join("s3://bucket/x", "/y/", "z") == "s3://bucket/x/y/z"


@pytest.mark.parametrize("links", [True, False])
def test_exactly_one_creates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    def refuse(*paths: str) -> None:
        raise OSError(95, "Operation not supported")

    if not links:
        monkeypatch.setattr("os.link", refuse)
    uri = str(tmp_path / "new" / "owner")
    made = list(storage.map_parallel(lambda i: storage.create(uri, b"%d" % i), range(12)))
    assert sum(made) == 1 and storage.read_bytes(uri) == b"%d" % made.index(True)
    assert storage.conditional(uri) and storage.list_files(str(tmp_path)) == [uri]
    first = storage.read_version(uri)
    assert first and storage.replace(uri, b"next", first) and not storage.replace(uri, b"late", first)
    assert storage.read_bytes(uri) == b"next" and storage.read_version(uri + "x") is None
