"""Local side of storage: atomic writes, listing, messages."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.errors import UserError, readable


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


def test_names_of_every_kind(tmp_path: Path) -> None:
    odd = b"caf\xe9.jpg"  # no UTF-8, as old zip programs leave it
    names = ["a b", "100%", "x?y#z", "new\nline", "'q\"", "-rf", "~", "a=b", "back\\slash", "*[glob]", "\u00e9"]
    for name in names:
        storage.write_bytes(f"{tmp_path}/{name}", name.encode())
    with open(os.path.join(os.fsencode(tmp_path), odd), "wb") as file:
        file.write(b"odd")
    found = storage.list_files(str(tmp_path))
    assert len(found) == len(names) + 1
    assert {storage.read_bytes(uri) for uri in found} == {*(name.encode() for name in names), b"odd"}
    assert storage.list_files(f"file://{tmp_path}") and storage.read_bytes(f"file://{tmp_path}/a b") == b"a b"
    (text,) = [readable(uri) for uri in found if readable(uri) != uri]
    assert text.encode() and text.endswith("caf\\udce9.jpg")


def test_links_pipes_and_circles(tmp_path: Path) -> None:
    storage.write_bytes(f"{tmp_path}/real/a", b"a")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "broken").symlink_to(tmp_path / "absent")
    (tmp_path / "real" / "circle").symlink_to(tmp_path)
    (tmp_path / "linked").symlink_to(tmp_path / "real" / "a")
    files = storage.list_files(str(tmp_path))
    assert f"{tmp_path}/linked" in files and f"{tmp_path}/real/a" in files
    assert not any(name.endswith(("pipe", "broken")) for name in files)
    with pytest.raises(UserError, match="it is no file"):
        storage.read_bytes(f"{tmp_path}/pipe")
    storage.remove(f"{tmp_path}/linked")
    assert storage.read_bytes(f"{tmp_path}/real/a") == b"a"


def test_versions_change_with_the_content(tmp_path: Path) -> None:
    storage.write_bytes(f"{tmp_path}/sub/a", b"one")
    before = storage.versions(str(tmp_path))
    assert list(before) == ["sub/a"] and before["sub/a"][0] == 3
    storage.write_bytes(f"{tmp_path}/sub/a", b"two")
    assert storage.versions(str(tmp_path)) != before


def test_one_of_many_creates_a_file(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda i: storage.create(f"{tmp_path}/x/once", str(i).encode()), range(32)))
    assert won.count(True) == 1 and storage.read_bytes(f"{tmp_path}/x/once") == str(won.index(True)).encode()
    assert storage.list_files(str(tmp_path)) == [f"{tmp_path}/x/once"]
