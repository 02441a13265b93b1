"""Stores that are not Amazon's: older ones, private certificates, gateways, regions, any key, all credentials."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs as pafs
import pytest
from moto.server import ThreadedMotoServer

from pipeline import s3, s3_client, storage
from pipeline.errors import StorageUnavailable, UserError
from tests.faulty_s3 import FaultyS3


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    yield f"http://{host}:{port}"
    moto.stop()


def forget() -> None:
    for cached in (s3_client._client, s3_client.client, storage._arrow):
        cached.cache_clear()


@pytest.fixture
def environment(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """An empty AWS environment with keys, and a bucket `bkt` on the server."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-to-be-seen-anywhere")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setattr(s3, "LONGEST_PAUSE", 0.05)
    forget()
    s3_client._client(3).create_bucket(Bucket="bkt")
    yield monkeypatch
    forget()


@pytest.fixture
def store(server: str, environment: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    proxy = FaultyS3(server)
    environment.setenv("AWS_ENDPOINT_URL", proxy.url)
    forget()
    yield proxy
    proxy.close()


def test_a_store_that_wants_content_md5_and_knows_no_trailers(store: FaultyS3) -> None:
    store.old = True
    storage.remove("s3://bkt/absent")
    assert store.counts["DELETE"] == store.counts["POST"] == 0, "nothing is there, so nothing is deleted"
    for name in ("a/1", "a/2", "ab", "a"):
        storage.write_bytes(f"s3://bkt/md5/{name}", b"x" * 20)
    storage.remove("s3://bkt/md5/a")
    assert storage.list_files("s3://bkt/md5") == ["s3://bkt/md5/ab"]


def test_a_path_below_a_gateway(store: FaultyS3, environment: pytest.MonkeyPatch) -> None:
    store.prefix = "/objectstore"
    environment.setenv("AWS_ENDPOINT_URL", f"{store.url}/objectstore/")
    forget()
    storage.write_bytes("s3://bkt/below/x", b"1")
    fs, path = storage.arrow_filesystem("s3://bkt/below")
    assert [info.path for info in fs.get_file_info(pafs.FileSelector(path))] == ["bkt/below/x"]
    assert storage.read_bytes("s3://bkt/below/x") == b"1"


def test_regions(store: FaultyS3, environment: pytest.MonkeyPatch) -> None:
    storage.write_bytes("s3://bkt/region", b"1")
    store.region = "eu-west-3"
    with pytest.raises(UserError, match=r"set AWS_REGION .*expecting 'eu-west-3'"):
        storage.read_bytes("s3://bkt/region")
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        environment.delenv("AWS_REGION", raising=False)
        environment.setenv(name, "eu-west-3")
        forget()
        assert storage.read_bytes("s3://bkt/region") == b"1"
        environment.delenv(name)


KEYS = ["what is it?.jpg", "100%.png", "a#b", "a+b", "x=y&z=1", "é/日本", "two//slashes", "quote'", "q?a=b", "~x:y@z"]


def test_any_key_is_read(store: FaultyS3) -> None:
    for key in KEYS:
        storage.write_bytes(f"s3://bkt/keys/{key}", key.encode())
    assert sorted(storage.list_files("s3://bkt/keys")) == sorted(f"s3://bkt/keys/{key}" for key in KEYS)
    for key in KEYS:
        assert storage.read_bytes(f"s3://bkt/keys/{key}") == key.encode()
        assert storage.size_of(f"s3://bkt/keys/{key}") == len(key.encode())
    for uri in ("s3://bkt/x?access_key=a&secret_key=b", "s3://bkt/x?X-Amz-Signature=abc", "s3://k:s@bkt/x"):
        with pytest.raises(UserError, match=r"nothing more.*AWS_REGION"):
            storage.read_bytes(uri)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """server.pem (certificate and key, for localhost) signed by a private authority, ca.pem."""
    folder = tmp_path_factory.mktemp("ca")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    days = ("-days", "2", "-nodes")
    openssl("req", "-x509", "-newkey", "rsa:2048", *days, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=private")
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", "s.key", "-out", "s.csr", "-subj", "/CN=localhost")
    (folder / "ext").write_text("subjectAltName=DNS:localhost")
    signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "ext")
    openssl("x509", "-req", "-in", "s.csr", *signing, "-out", "s.pem")
    (folder / "server.pem").write_text((folder / "s.pem").read_text() + (folder / "s.key").read_text())
    return folder


def test_a_certificate_of_a_private_authority(server: str, environment: pytest.MonkeyPatch, certificates: Path) -> None:
    proxy = FaultyS3(server, str(certificates / "server.pem"))
    environment.setenv("AWS_ENDPOINT_URL", proxy.url)
    forget()
    with pytest.raises((UserError, StorageUnavailable), match="AWS_CA_BUNDLE"):
        storage.read_bytes("s3://bkt/x")
    environment.setenv("AWS_CA_BUNDLE", str(certificates / "ca.pem"))
    forget()
    storage.write_bytes("s3://bkt/tls", b"1")
    fs, path = storage.arrow_filesystem("s3://bkt/tls")
    assert fs.open_input_stream(path).read() == b"1"
    environment.setenv("AWS_CA_BUNDLE", str(certificates / "absent.pem"))
    forget()
    with pytest.raises(UserError, match="AWS_CA_BUNDLE"):
        storage.read_bytes("s3://bkt/tls")
    proxy.close()


def test_credentials_of_a_process_in_a_profile(environment: pytest.MonkeyPatch, tmp_path: Path, server: str) -> None:
    answer = {"Version": 1, "AccessKeyId": "k", "SecretAccessKey": "not-to-be-seen-anywhere"}
    script = tmp_path / "credentials.py"
    script.write_text(f"print({json.dumps(json.dumps(answer))})")
    (tmp_path / "config").write_text(
        f"[profile lab]\nregion = eu-north-1\nendpoint_url = {server}\ncredential_process = {sys.executable} {script}\n"
    )
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL"):
        environment.delenv(name)
    environment.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    environment.setenv("AWS_PROFILE", "lab")
    forget()
    storage.write_bytes("s3://bkt/process", b"1")
    fs, path = storage.arrow_filesystem("s3://bkt/process")
    assert fs.get_file_info(path).size == 1 and b"not-to-be-seen" not in pickle.dumps(fs)
    environment.setenv("AWS_PROFILE", "absent")
    forget()
    with pytest.raises(UserError, match="absent"):
        storage.read_bytes("s3://bkt/process")


def test_white_space_around_a_secret_is_named(environment: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SESSION_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"):
        with environment.context() as more:
            more.setenv(name, "FwoGTOKENTOKEN\r\n")
            forget()
            with pytest.raises(UserError) as caught:
                storage.read_bytes("s3://bkt/x")
            assert name in str(caught.value) and "FwoG" not in str(caught.value)


def test_the_file_system_that_an_engine_uses(store: FaultyS3, tmp_path: Path) -> None:
    fs, path = storage.arrow_filesystem("s3://bkt/engine")
    fs.create_dir(f"{path}/run")
    with fs.open_output_stream(f"{path}/run/a.json") as stream:
        stream.write(b"{}")
        assert not storage.exists("s3://bkt/engine/run/a.json"), "it is published whole"
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b").write_bytes(b"b" * 100)
    pafs.copy_files(
        str(tmp_path), f"{path}/run/copied", source_filesystem=pafs.LocalFileSystem(), destination_filesystem=fs
    )
    found = fs.get_file_info(pafs.FileSelector(path, recursive=True))
    assert {(i.path, i.is_file) for i in found} == {
        ("bkt/engine/run", False),
        ("bkt/engine/run/a.json", True),
        ("bkt/engine/run/copied", False),
        ("bkt/engine/run/copied/deep", False),
        ("bkt/engine/run/copied/deep/b", True),
    }
    fs.move(f"{path}/run/a.json", f"{path}/c.json")
    assert fs.open_input_file(f"{path}/c.json").read() == b"{}"
    with pytest.raises(FileNotFoundError):
        fs.open_input_stream(f"{path}/run/a.json")
    fs.delete_dir(f"{path}/run")
    assert storage.list_files("s3://bkt/engine") == ["s3://bkt/engine/c.json"]


def test_what_is_written_only_once(store: FaultyS3) -> None:
    assert storage.create("s3://bkt/once", b"1") and not storage.create("s3://bkt/once", b"2")
    assert storage.read_bytes("s3://bkt/once") == b"1"
