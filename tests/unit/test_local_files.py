"""Local files under every name that a disk allows, and things in folders that are no files."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import storage
from pipeline.errors import UserError
from pipeline.storage.local_files import printable

ODD = [b"caf\xe9", b"\xff\xfe", "a b", "100%", "%41", "what?", "a#b", "new\nline", "tab\t", "'\"", "-rf", "~", "a=b"]
ODD += [
    "c:d",
    "back\\slash",
    "*[a]?",
    "é",
    "e\u0301",
    "日本",
    "Case",
    "case",
    " ",
    "...",
    "n" * 255,
    "file:",
    "{x}",
    "$HOME",
]


def _name(name: str | bytes) -> str:
    return os.fsdecode(name)


@pytest.mark.parametrize("name", ODD, ids=ascii)
def test_any_name(tmp_path: Path, name: str | bytes) -> None:
    folder, name = str(tmp_path), _name(name)
    uri = f"{folder}/{name}/{name}"
    storage.write_bytes(uri, b"1")
    assert storage.list_files(folder) == [uri] and storage.list_folders(folder) == [f"{folder}/{name}"]
    assert storage.read_bytes(uri) == b"1" and storage.size_of(uri) == 1 and storage.exists(uri)
    with storage.open_file(uri) as file:
        assert file.read() == b"1"
    assert not storage.create(uri, b"2") and storage.create(f"{folder}/{name}/new", b"2")
    with pytest.raises(UserError, match="There is no file"):
        storage.read_bytes(f"{folder}/absent/{name}")
    storage.remove(f"{folder}/{name}")
    assert os.listdir(folder) == []


NAMES = st.binary(min_size=1, max_size=60).filter(lambda n: not set(n) & {0, 47} and n not in (b".", b".."))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=NAMES)
def test_any_bytes(tmp_path: Path, name: bytes) -> None:
    uri = f"{tmp_path}/{os.fsdecode(name)}"
    storage.write_bytes(uri, name)
    assert storage.file_sizes(str(tmp_path)) == {uri: len(name)} and storage.read_bytes(uri) == name
    assert printable(uri).encode()
    storage.remove(uri)


@pytest.mark.parametrize("name", ["a b", "100%", "what?", "a#b", "é", "plain"])
def test_file_uris(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "x").write_bytes(b"1")
    for uri in ((tmp_path / name).as_uri(), (tmp_path / name).as_uri().replace("file:///", "file://localhost/")):
        assert storage.exists(uri) and not storage.is_remote(uri)
        assert storage.list_files(uri) == [str(tmp_path / name / "x")]
    with pytest.raises(UserError, match="another machine"):
        storage.exists(f"file://nas{tmp_path}")


def test_a_path_with_the_mark_of_a_scheme_inside(tmp_path: Path) -> None:
    uri = f"{tmp_path}/s3://bkt/x"
    storage.write_bytes(uri, b"1")
    assert storage.read_bytes(uri) == b"1" and not storage.is_remote(uri)


def test_links_and_what_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = str(tmp_path / "data")
    outside = tmp_path / "outside"
    storage.write_bytes(f"{root}/a", b"1")
    storage.write_bytes(f"{root}/empty", b"")
    storage.write_bytes(str(outside / "kept"), b"1")
    os.symlink("absent", f"{root}/dangling")
    os.symlink("self", f"{root}/self")
    os.symlink(root, f"{root}/loop")
    os.symlink(outside, f"{root}/linked")
    os.mkfifo(f"{root}/pipe")
    monkeypatch.chdir(root)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        assert storage.list_files(root) == [f"{root}/{n}" for n in ("a", "empty", "linked/kept")]
        assert storage.list_folders(root) == [f"{root}/linked"]
    for act in (storage.read_bytes, storage.open_file):
        with pytest.raises(UserError, match="no file"):
            act(f"{root}/pipe")
        with pytest.raises(UserError, match="no file"):
            act(f"{root}/dangling")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        storage.read_bytes(root)
    assert storage.read_bytes(f"{root}/empty") == b""
    storage.remove(f"{root}/dangling")
    assert not os.path.lexists(f"{root}/dangling")
    storage.remove(root)
    assert not os.path.lexists(root) and (outside / "kept").exists()  # the link went, not what it leads to


def test_what_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write_bytes(f"{tmp_path}/closed/x", b"1")

    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(UserError, match="cannot be listed: Permission denied"):
        storage.list_files(str(tmp_path))


def test_messages_can_be_printed(tmp_path: Path) -> None:
    uri = f"{tmp_path}/{os.fsdecode(b'caf' + bytes([233]))}"
    for act in (storage.read_bytes, storage.size_of, storage.open_file):
        with pytest.raises(UserError, match=r"caf\\udce9"):
            act(uri)
    with pytest.raises(UserError, match="UTF-8"):
        storage.arrow_filesystem(uri)
