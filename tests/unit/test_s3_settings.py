"""The one S3 client: certificates, gateways, regions, credentials, stores beside AWS, and what is said of them."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import storage
from pipeline.data import fingerprint
from pipeline.errors import StorageUnavailable, UserError
from pipeline.storage import s3, s3_client
from pipeline.storage.looks import look_of
from tests.faulty_s3 import FaultyS3, forget_clients


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """An environment without settings, but for keys."""
    for name in [n for n in os.environ if n.startswith("AWS_") or n.lower().endswith(("_proxy", "ca_bundle"))]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-to-be-seen")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(s3, "LONGEST_PAUSE", 0.05)
    forget_clients()
    yield monkeypatch
    forget_clients()


@pytest.fixture
def proxy(server: str, env: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    faulty = FaultyS3(server)
    env.setenv("AWS_ENDPOINT_URL", faulty.url)
    s3_client.connect(3).create_bucket(Bucket="bkt")
    yield faulty
    faulty.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ca.pem and a server's certificate and key of that authority (server.pem, server.key)."""
    folder = tmp_path_factory.mktemp("ca")
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    for command in (
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 30 -subj /CN=own "
        "-addext basicConstraints=critical,CA:TRUE -addext keyUsage=keyCertSign",
        "req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=localhost",
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 30 -extfile names",
    ):
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)
    return folder


def test_a_store_that_wants_content_md5_for_many(proxy: FaultyS3) -> None:
    proxy.answer = lambda request, body: (
        (400, "MissingContentMD5")
        if request.command == "POST" and "delete" in request.path and not request.headers.get("Content-MD5")
        else None
    )
    for number in range(20):
        storage.write_bytes(f"s3://bkt/md5/{number}", b"")
    storage.remove("s3://bkt/md5")
    assert storage.list_files("s3://bkt/md5") == []


def test_nothing_is_deleted_where_nothing_is(proxy: FaultyS3) -> None:
    proxy.refuse = lambda method, path: method in ("DELETE", "POST")  # a right that is not needed
    storage.remove("s3://bkt/absent")
    fs, _ = storage.arrow_filesystem("s3://bkt/absent")
    fs.delete_dir("bkt/absent")
    assert not proxy.counts["DELETE"] and not proxy.counts["POST"]


def test_plain_checksums_unless_asked(proxy: FaultyS3, env: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def look(request, body) -> None:
        seen.extend(name.lower() for name in request.headers if "checksum" in name.lower() or "trailer" in name.lower())

    proxy.answer = look
    storage.write_bytes("s3://bkt/sums", b"1")
    assert seen == []
    env.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_supported")
    forget_clients()
    storage.write_bytes("s3://bkt/sums", b"1")
    assert any("crc" in name for name in seen)


@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "profile"])
def test_an_authority_of_ones_own(
    server: str, env: pytest.MonkeyPatch, authority: Path, tmp_path: Path, variable: str
) -> None:
    tls = FaultyS3(server, certificate=(authority / "server.pem", authority / "server.key"))
    env.setenv("AWS_ENDPOINT_URL", tls.url)
    try:
        with pytest.raises(UserError, match="set AWS_CA_BUNDLE"):
            storage.exists("s3://bkt/x")
        if variable == "profile":
            (tmp_path / "config").write_text(f"[default]\nca_bundle = {authority / 'ca.pem'}\n")
            env.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        else:
            env.setenv(variable, str(authority / "ca.pem"))
        forget_clients()
        storage_of_engine(variable)
    finally:
        tls.close()


def storage_of_engine(name: str) -> None:
    """What the engine does with its file system, and what we see of it."""
    s3_client.connect(3).create_bucket(Bucket="bkt")
    fs, path = storage.arrow_filesystem(f"s3://bkt/engine {name}?")
    fs = pickle.loads(pickle.dumps(fs))
    fs.create_dir(path)
    with fs.open_output_stream(f"{path}/a/b.json") as stream:
        stream.write(b"{}")
    assert storage.list_files(f"s3://{path}") == [f"s3://{path}/a/b.json"]
    with fs.open_input_stream(f"{path}/a/b.json") as stream:
        assert stream.read() == b"{}"
    storage.remove(f"s3://{path}")


def test_below_a_path_of_a_gateway(server: str, env: pytest.MonkeyPatch) -> None:
    gateway = FaultyS3(server, prefix="/objectstore")
    try:
        for end in ("", "/"):
            env.setenv("AWS_ENDPOINT_URL", f"{gateway.url}/objectstore{end}")
            forget_clients()
            storage_of_engine("gateway")
        assert gateway.counts["PUT"] >= 2
    finally:
        gateway.close()


@pytest.mark.parametrize(
    ("variables", "good"),
    [({}, False), ({"AWS_REGION": "eu-west-3"}, True), ({"AWS_DEFAULT_REGION": "eu-west-3"}, True),
     ({"AWS_REGION": "eu-west-3", "AWS_DEFAULT_REGION": "us-east-1"}, True), ({"AWS_REGION": "us-west-2"}, False)],
)  # fmt: skip
def test_the_region_counts(proxy: FaultyS3, env: pytest.MonkeyPatch, variables: dict[str, str], good: bool) -> None:
    storage.write_bytes("s3://bkt/region", b"1")
    proxy.answer = lambda request, body: (
        None
        if "/eu-west-3/" in request.headers.get("Authorization", "")
        else (400, "AuthorizationHeaderMalformed", "the region is wrong; expecting 'eu-west-3'")
    )
    for name, value in variables.items():
        env.setenv(name, value)
    forget_clients()
    if good:
        assert storage.read_bytes("s3://bkt/region") == b"1"
        return
    with pytest.raises(UserError, match="set AWS_REGION=eu-west-3; now ") as caught:
        storage.read_bytes("s3://bkt/region")
    assert variables.get("AWS_REGION", "not set") in str(caught.value)


@pytest.mark.parametrize(
    ("code", "says"),
    [("RequestTimeTooSkewed", "clock"), ("ExpiredToken", "Renew"), ("InvalidAccessKeyId", "not valid"),
     ("InvalidToken", "Renew")],
)  # fmt: skip
def test_what_a_head_without_body_hides(proxy: FaultyS3, code: str, says: str) -> None:
    proxy.answer = lambda request, body: (403, code)
    with pytest.raises(UserError, match=says):
        storage.exists("s3://bkt/x")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [("AWS_ENDPOINT_URL", "localhost:9000", "http"), ("AWS_ENDPOINT_URL", "not a url", "http"),
     ("AWS_CA_BUNDLE", "/absent/ca.pem", "AWS_CA_BUNDLE names"), ("AWS_PROFILE", "nobody", "nobody"),
     ("AWS_REQUEST_CHECKSUM_CALCULATION", "maybe", "maybe"), ("AWS_REGION", "eu west", "eu west")],
)  # fmt: skip
def test_settings_that_are_wrong(env: pytest.MonkeyPatch, name: str, value: str, says: str) -> None:
    env.setenv(name, value)
    with pytest.raises(UserError, match=says):
        storage.exists("s3://bkt/x")


def test_a_config_file_that_is_none(env: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("no section = here\n")
    env.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    with pytest.raises(UserError, match="config"):
        storage.exists("s3://bkt/x")


def test_credentials_of_a_process_are_renewed(proxy: FaultyS3, env: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "give.py").write_text(
        "import datetime, json, pathlib, sys\nseen = pathlib.Path(sys.argv[1])\n"
        "seen.write_text(seen.read_text() + 'x' if seen.exists() else 'x')\n"
        "print(json.dumps(dict(Version=1, AccessKeyId='key', SecretAccessKey='s', SessionToken='t',\n"
        "  Expiration=(datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=30)).isoformat())))\n"
    )
    (tmp_path / "config").write_text(
        f"[profile lab]\nregion = eu-north-1\n"
        f"credential_process = {sys.executable} {tmp_path}/give.py {tmp_path}/seen\n"
    )
    env.delenv("AWS_ACCESS_KEY_ID")
    env.delenv("AWS_SECRET_ACCESS_KEY")
    env.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    env.setenv("AWS_PROFILE", "lab")
    forget_clients()
    storage.write_bytes("s3://bkt/process", b"1")
    fs, path = storage.arrow_filesystem("s3://bkt/process")
    assert fs.get_file_info(path).size == 1
    assert len((tmp_path / "seen").read_text()) > 1  # they last for half a minute, which is too short to be kept


def test_credentials_of_a_container(proxy: FaultyS3, env: pytest.MonkeyPatch, tmp_path: Path) -> None:
    keys = {"AccessKeyId": "key", "SecretAccessKey": "s", "Token": "t", "Expiration": "2099-01-01T00:00:00Z"}
    agent = FaultyS3(proxy.url)  # answers in the place of the container's agent
    agent.replies["/keys"] = json.dumps(keys).encode()
    env.delenv("AWS_ACCESS_KEY_ID")
    env.delenv("AWS_SECRET_ACCESS_KEY")
    (tmp_path / "token").write_text("pod")
    env.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{agent.url}/keys")
    env.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "token"))
    forget_clients()
    storage.write_bytes("s3://bkt/container", b"1")
    assert agent.counts["GET"] == 1
    agent.close()


def test_no_bucket_but_a_name_that_is_none(env: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="alias"):
        storage.exists("s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/mine/key")


KEYS = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=60)
ODD = ["what is?.jpg", "a#b", "100%", "%41", "a+b", "a b", "=&;:@,$", "e\u0301", "日本", "a//b", "/lead", "a/../b"]
ODD += ["..", "~x", "'\"<>|*\\", "tab\tx", "k" * 900]


def test_any_key(proxy: FaultyS3) -> None:
    for number, key in enumerate(ODD):
        _round_trip(f"s3://bkt/odd-{number}", key)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=KEYS.filter(lambda key: not key.endswith("/")))
def test_any_key_at_random(proxy: FaultyS3, key: str) -> None:
    _round_trip("s3://bkt/random", key)


def _round_trip(folder: str, key: str) -> None:
    storage.write_bytes(f"{folder}/{key}", b"1")
    assert storage.list_files(folder) == [f"{folder}/{key}"]
    assert storage.read_bytes(f"{folder}/{key}") == b"1" and storage.size_of(f"{folder}/{key}") == 1
    storage.remove(folder)
    assert storage.list_files(folder) == []


def test_an_endpoint_where_nothing_listens_is_away(env: pytest.MonkeyPatch) -> None:
    env.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3_client.forget()
    with pytest.raises(StorageUnavailable, match="s3://bkt cannot be reached"):
        storage.read_bytes("s3://bkt/x")


def test_a_changed_byte_looks_different(proxy: FaultyS3) -> None:
    for name in ("raw/images/a.png", "raw/masks/a b.png"):
        storage.write_bytes(f"s3://bkt/looks/{name}", b"12345")
    before = look_of("s3://bkt/looks/raw")
    assert sorted(before) == ["images/a.png", "masks/a b.png"]
    storage.write_bytes("s3://bkt/looks/raw/images/a.png", b"12345")
    assert look_of("s3://bkt/looks/raw/") == before  # written anew, the same content
    storage.write_bytes("s3://bkt/looks/raw/images/a.png", b"12344")
    assert fingerprint.differing(before, look_of("s3://bkt/looks/raw")) == ["images/a.png"]
    marks = {name: fingerprint.checksum(b"12345") for name in before}
    assert fingerprint.changed_files("s3://bkt/looks/raw", marks, before) == ["images/a.png"]
