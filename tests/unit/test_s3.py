"""Storage on S3 against a real server over HTTP: whole or not at all, through faults, with messages that help."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from pipeline import storage
from pipeline.errors import StorageUnavailable, UserError
from pipeline.storage import s3, s3_client
from tests.faulty_s3 import WRITING, FaultyS3, forget_clients

SETTINGS = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "AWS_PROFILE")
SECRET = "not-to-be-seen-anywhere"


@pytest.fixture
def proxy(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    """A proxy before the server, whose switches are off, and a bucket `bkt`; the environment names both."""
    faulty = FaultyS3(server)
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", faulty.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(s3, "LONGEST_PAUSE", 0.05)
    forget_clients()
    s3_client.connect(3).create_bucket(Bucket="bkt")
    yield faulty
    faulty.close()
    forget_clients()


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> int:
    """Files above 5 MiB, the smallest part that S3 takes, travel in parts."""
    monkeypatch.setattr(s3, "PART", 5 << 20)
    return 5 << 20


def test_files_and_folders(proxy: FaultyS3) -> None:
    root = "s3://bkt/a folder/é"
    for name, data in (("one.bin", b"1"), ("sub/two.bin", b"22"), ("sub/deep/three.txt", b""), ("subway.bin", b"x")):
        storage.write_bytes(storage.join(root, name), data)
    assert storage.read_bytes(f"{root}/sub/two.bin") == b"22"
    assert storage.read_bytes(f"{root}/sub/deep/three.txt") == b""
    assert storage.size_of(f"{root}/sub/two.bin") == 2
    assert storage.list_files(root, ".bin") == [f"{root}/{n}" for n in ("one.bin", "sub/two.bin", "subway.bin")]
    assert storage.list_files(root, recursive=False) == [f"{root}/one.bin", f"{root}/subway.bin"]
    assert storage.list_folders(root) == [f"{root}/sub"]
    assert storage.file_sizes(f"{root}/sub") == {f"{root}/sub/two.bin": 2}
    for uri, there, folder in (
        (f"{root}/sub", True, True),
        (f"{root}/one.bin", True, False),
        (f"{root}/s", False, False),
    ):
        assert (storage.exists(uri), storage.is_folder(uri)) == (there, folder)
    storage.remove(f"{root}/sub")
    storage.remove(f"{root}/absent")
    assert storage.list_files(root) == [f"{root}/one.bin", f"{root}/subway.bin"]
    with pytest.raises(UserError, match=r"There is no file s3://bkt/a folder/é/sub/two\.bin"):
        storage.read_bytes(f"{root}/sub/two.bin")
    assert storage.list_files("s3://bkt/nothing") == [] and not storage.exists("s3://bkt/nothing")


def test_markers_that_other_tools_leave(proxy: FaultyS3) -> None:
    s3.client("bkt").put_object(Bucket="bkt", Key="run/ray/", Body=b"")
    storage.write_bytes("s3://bkt/run/state.json", b"{}")
    assert storage.exists("s3://bkt/run") and storage.is_folder("s3://bkt/run")
    assert storage.list_files("s3://bkt/run") == ["s3://bkt/run/state.json"]
    assert storage.list_folders("s3://bkt/run") == ["s3://bkt/run/ray"]
    storage.remove("s3://bkt/run/ray")
    assert storage.list_folders("s3://bkt/run") == []
    storage.remove("s3://bkt/run")
    assert not storage.exists("s3://bkt/run")


def test_more_files_than_one_page_of_the_store(proxy: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "PAGE", 3)
    names = [f"s3://bkt/many/{i}" for i in range(8)]
    for name in names:
        storage.write_bytes(name, b"")
    assert storage.list_files("s3://bkt/many") == names
    storage.remove("s3://bkt/many")
    assert storage.list_files("s3://bkt/many") == []


def test_large_files_travel_in_parts(proxy: FaultyS3, small_parts: int) -> None:
    data = os.urandom(3 * small_parts + 17)
    storage.write_bytes("s3://bkt/large", data)
    proxy.counts.clear()
    assert storage.read_bytes("s3://bkt/large") == data
    assert proxy.counts["GET"] == 4
    with storage.open_file("s3://bkt/large") as file:
        file.seek(small_parts - 3)
        assert file.read(7) == data[small_parts - 3 : small_parts + 4]


@pytest.mark.parametrize(("slow_down", "cut"), [(3, 0), (0, 2), (4, 3)])
def test_503_and_cut_bodies_are_ridden_out(proxy: FaultyS3, small_parts: int, slow_down: int, cut: int) -> None:
    data = os.urandom(2 * small_parts + 5)
    proxy.slow_down_every, proxy.cut_every = slow_down, cut
    for name in ("a", "b"):
        storage.write_bytes(f"s3://bkt/ridden/{name}", data)
        assert storage.read_bytes(f"s3://bkt/ridden/{name}") == data
    assert storage.list_files("s3://bkt/ridden") == ["s3://bkt/ridden/a", "s3://bkt/ridden/b"]
    assert (proxy.counts["503"] > 0) == bool(slow_down) and (proxy.counts["cut"] > 0) == bool(cut)


def test_parquet_by_ranges(proxy: FaultyS3) -> None:
    sink = pa.BufferOutputStream()
    table = pa.table({"x": list(range(4000)), "y": [os.urandom(50) for _ in range(4000)]})
    pq.write_table(table, sink, row_group_size=1000, write_page_checksum=True)
    storage.write_bytes("s3://bkt/t.parquet", sink.getvalue().to_pybytes())
    proxy.cut_every = 2
    with storage.open_file("s3://bkt/t.parquet") as file, pq.ParquetFile(file, pre_buffer=True) as parquet:
        assert parquet.read_row_group(2).equals(table.slice(2000, 1000))
    proxy.refuse = lambda method, path: True
    with storage.open_file("s3://bkt/t.parquet", 1000) as file, pytest.raises(UserError, match="access denied"):
        pq.ParquetFile(file)


def test_an_upload_that_fails_publishes_nothing(proxy: FaultyS3, small_parts: int) -> None:
    storage.write_bytes("s3://bkt/kept", b"old")
    proxy.refuse = lambda method, path: "partNumber=3" in path
    with pytest.raises(UserError, match="s3://bkt/kept cannot be written: access denied"):
        storage.write_bytes("s3://bkt/kept", os.urandom(4 * small_parts))
    proxy.heal()
    assert storage.read_bytes("s3://bkt/kept") == b"old"
    assert "Uploads" not in s3.client("bkt").list_multipart_uploads(Bucket="bkt")


def test_create_and_replace(proxy: FaultyS3) -> None:
    uri = "s3://bkt/lease/owner"
    assert storage.conditional(uri) and storage.read_version(uri) is None
    assert storage.create(uri, b"one") and not storage.create(uri, b"two")
    first = storage.read_version(uri)
    assert first is not None and storage.replace(uri, b"three", first)
    assert not storage.replace(uri, b"four", first)
    assert storage.read_bytes(uri) == b"three" and storage.list_files("s3://bkt/lease") == [uri]
    storage.remove(uri)
    assert not storage.replace(uri, b"five", first)


def test_exactly_one_creates(proxy: FaultyS3) -> None:
    made = list(storage.map_parallel(lambda i: storage.create("s3://bkt/race/x", b"%d" % i), range(12)))
    assert sum(made) == 1 and storage.read_bytes("s3://bkt/race/x") == b"%d" % made.index(True)


@pytest.mark.parametrize("answer", ["ignored", "refused"])
def test_a_store_without_conditions_is_found_out(proxy: FaultyS3, answer: str) -> None:
    if answer == "ignored":
        proxy.drop_headers = {"if-none-match", "if-match"}
    else:
        proxy.answer = lambda request, body: (501, "NotImplemented") if request.headers.get("If-None-Match") else None
    assert not storage.conditional(f"s3://bkt/{answer}/owner")
    assert storage.create(f"s3://bkt/{answer}/owner", b"1") and not storage.create(f"s3://bkt/{answer}/owner", b"2")
    assert storage.read_bytes(f"s3://bkt/{answer}/owner") == b"1"
    assert storage.list_files(f"s3://bkt/{answer}") == [f"s3://bkt/{answer}/owner"]


def test_reading_only(proxy: FaultyS3) -> None:
    storage.write_bytes("s3://bkt/r/x", b"1")
    proxy.refuse = lambda method, path: method in WRITING
    for act in (lambda: storage.write_bytes("s3://bkt/r/y", b"2"), lambda: storage.remove("s3://bkt/r/x")):
        with pytest.raises(UserError, match=r"s3://bkt/r/.*access denied \(AccessDenied\)"):
            act()
    assert storage.read_bytes("s3://bkt/r/x") == b"1"


def test_messages(proxy: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="There is no bucket s3://nowhere"):
        storage.read_bytes("s3://nowhere/x")
    with pytest.raises(UserError, match="There is no bucket s3://nowhere"):
        storage.list_files("s3://nowhere")
    for uri in ("s3://key:secret@bkt/x", "s3://bkt/x?endpoint_override=y"):
        with pytest.raises(UserError, match="nothing more") as caught:
            storage.exists(uri)
        assert "secret" not in str(caught.value)
    with pytest.raises(UserError, match="needs a bucket"):
        storage.exists("s3:///x")
    with pytest.raises(UserError, match="not a proper"):
        storage.exists("s3://Ein Eimer/x")
    proxy.refuse = lambda method, path: True
    with pytest.raises(UserError, match="access denied"):
        storage.read_bytes("s3://bkt/x")


def test_without_credentials(proxy: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    forget_clients()
    with pytest.raises(UserError, match="no AWS credentials"):
        storage.read_bytes("s3://bkt/x")
    monkeypatch.setenv("AWS_PROFILE", "absent")
    forget_clients()
    with pytest.raises(UserError, match="absent"):
        storage.read_bytes("s3://bkt/x")


def test_settings_of_a_profile(proxy: FaultyS3, monkeypatch: pytest.MonkeyPatch, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("aws")
    (folder / "config").write_text(f"[profile lab]\nregion = eu-north-1\nendpoint_url = {proxy.url}\n")
    (folder / "credentials").write_text(f"[lab]\naws_access_key_id = k\naws_secret_access_key = {SECRET}\n")
    storage.write_bytes("s3://bkt/p/x", b"1")
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    forget_clients()
    assert storage.read_bytes("s3://bkt/p/x") == b"1"
    assert s3.client("bkt").meta.region_name == "eu-north-1"
    fs, path = storage.arrow_filesystem("s3://bkt/p/x")
    assert fs.get_file_info(path).size == 1  # the engine's own client finds the same store


def test_a_dead_store_is_reported_soon(proxy: FaultyS3) -> None:
    proxy.down = True
    forget_clients()
    with pytest.raises(StorageUnavailable, match="s3://bkt cannot be reached"):
        storage.read_bytes("s3://bkt/x")


def test_the_file_system_for_engines_keeps_no_secret(proxy: FaultyS3) -> None:
    import pickle

    storage.write_bytes("s3://bkt/f/x", b"1")
    fs, path = storage.arrow_filesystem("s3://bkt/f")
    assert isinstance(fs, pafs.PyFileSystem) and path == "bkt/f"
    assert fs.get_file_info("bkt/f/x").size == 1
    assert SECRET.encode() not in pickle.dumps(fs)


def test_what_the_engine_asks_of_its_files(proxy: FaultyS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(s3_client, "ATTEMPTS", 2)
    fs, path = storage.arrow_filesystem("s3://bkt/run")
    (tmp_path / "from/sub").mkdir(parents=True)
    (tmp_path / "from/a").write_bytes(b"1")
    (tmp_path / "from/sub/b").write_bytes(os.urandom(3 << 20))
    pafs.copy_files(str(tmp_path / "from"), path, destination_filesystem=fs)
    found = fs.get_file_info(pafs.FileSelector(path, recursive=True))
    assert {(i.path, i.is_file) for i in found} == {
        ("bkt/run/a", True),
        ("bkt/run/sub", False),
        ("bkt/run/sub/b", True),
    }
    pafs.copy_files(path, str(tmp_path / "to"), source_filesystem=fs)
    assert (tmp_path / "to/sub/b").read_bytes() == (tmp_path / "from/sub/b").read_bytes()
    names = ("bkt/run", "bkt/run/a", "bkt/run/none", "bkt")
    kinds = [pafs.FileType.Directory, pafs.FileType.File, pafs.FileType.NotFound, pafs.FileType.Directory]
    assert [i.type for i in fs.get_file_info(list(names))] == kinds
    fs.move("bkt/run/a", "bkt/run/moved")
    fs.delete_file("bkt/run/moved")
    fs.delete_dir("bkt/run/sub")
    assert fs.get_file_info(pafs.FileSelector(path, allow_not_found=True)) == []
    for act in (fs.open_input_stream, fs.open_input_file, fs.delete_file):
        with pytest.raises(FileNotFoundError):
            act("bkt/run/a")
    with pytest.raises(FileNotFoundError):
        fs.get_file_info(pafs.FileSelector(path))
    proxy.refuse = lambda method, path: method == "PUT"
    with pytest.raises(UserError, match="access denied"), fs.open_output_stream("bkt/run/x") as stream:
        stream.write(b"1")
    proxy.heal()
    proxy.down = True
    with pytest.raises(StorageUnavailable):
        fs.get_file_info("bkt/run/a")
