"""What no retry can mend ends with one message that says what to do, and keeps what was written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from jobs import train
from pipeline import storage
from pipeline.errors import UserError
from pipeline.model.checkpoints import load_model
from tests.conftest import IN_CI, absent

from .conftest import Reference, errors_in
from .local_cluster import ALONE, SMALL, STEPS, Local, last_step

Note = Callable[..., None]


def train_args(shards: str, out: str, *more: str) -> list[str]:
    return ["tiny", "--data.train", shards, "--out", out, *SMALL, *ALONE, *more]


def test_s3_does_not_answer_at_all(local: Local, reference: Reference, tmp_path: Path, noted: Note) -> None:
    args = ["-m", "jobs.train", *train_args(reference.train, f"{local.bucket}/away")]
    said = local.run(*args, log=tmp_path / "log", expect=1, AWS_ENDPOINT_URL="http://127.0.0.1:9")
    (error,) = errors_in(said)
    assert "s3://cfr-icl cannot be reached" in error
    noted("S3 does not answer at all", "within seconds one message, exit code 1; the same command continues", "-")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0:
        absent("only root can mount a small tmpfs", required=IN_CI)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_disk_full_at_the_output(
    local: Local, reference: Reference, small_disk: Path, tmp_path: Path, noted: Note
) -> None:
    out = f"{small_disk}/run"
    # On the head node, where this process sees the same disk: the other node's look at it would find it too.
    args = ["-m", "jobs.train", *train_args(reference.train, out)]
    said = local.run(*args, log=tmp_path / "log", expect=2)
    assert any("cannot be written: No space left on device" in error for error in errors_in(said))
    reached = last_step(out)
    assert 0 <= reached < STEPS and load_model(out)[1].step == reached
    assert not list(small_disk.rglob("*.partial")), "a partial file was left"
    noted(
        "disk full at the output",
        "one message, exit code 2; what counts is whole; with space the same command continues",
        "the steps since the last checkpoint, done again",
    )


@pytest.mark.parametrize("damage", ["flipped byte", "cut in half", "missing"])
def test_damaged_shard(local: Local, reference: Reference, tmp_path: Path, noted: Note, damage: str) -> None:
    shards = f"{local.bucket}/{damage.replace(' ', '-')}"
    for uri in storage.list_files(reference.train):
        data = bytearray(storage.read_bytes(uri))
        if uri.endswith(".parquet"):
            if damage == "missing":
                continue
            if damage == "cut in half":
                data = data[: len(data) // 2]
            else:
                data[len(data) // 2] ^= 1
        storage.write_bytes(f"{shards}/{uri.rsplit('/', 1)[1]}", bytes(data))
    args = train_args(shards, f"{shards}-run")
    if damage == "flipped byte":  # found when the row group is read
        (error,) = errors_in(local.run("-m", "jobs.train", *args, log=tmp_path / "log", expect=2))
    else:  # found before Ray is needed
        with pytest.raises(UserError) as caught:
            train.job(args)
        error = str(caught.value)
    assert "shard-00000.parquet" in error
    when = "in the first step that reads it" if damage == "flipped byte" else "before work starts"
    noted(f"a shard: {damage}", f"one message {when}, which names the shard; exit code 2", "-")


def test_a_place_that_only_the_driver_sees(local: Local, reference: Reference, tmp_path: Path, noted: Note) -> None:
    """Shown with a store that the driver's environment names and the nodes' does not."""
    elsewhere = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    elsewhere.start()
    host, port = elsewhere.get_host_and_port()
    url = f"http://{host}:{port}"
    client = boto3.client("s3", endpoint_url=url)
    client.create_bucket(Bucket="cfr-icl")
    for uri in storage.list_files(reference.train):
        key = uri.removeprefix(f"{reference.train}/")
        client.put_object(Bucket="cfr-icl", Key=f"mine/train/{key}", Body=storage.read_bytes(uri))
    args = [sys.executable, "-m", "jobs.train", *train_args("s3://cfr-icl/mine/train", "s3://cfr-icl/mine/run")]
    environment = {**local.environment(), "AWS_ENDPOINT_URL": url}
    done = subprocess.run(args, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    elsewhere.stop()
    assert done.returncode == 2, done.stderr
    (error,) = errors_in(done.stderr)
    assert "does not see s3://cfr-icl/mine/train" in error
    noted("a path or credentials that only the driver has", "one message before work starts; exit code 2", "-")


def test_a_loss_that_is_no_number(local: Local, reference: Reference, tmp_path: Path, noted: Note) -> None:
    out = f"{local.bucket}/nan"
    wild = ["--optim.lr", "1e18", "--optim.warmup-steps", "0", "--optim.clip-norm", "0"]
    said = local.run("-m", "jobs.train", *train_args(reference.train, out, *wild), log=tmp_path / "log", expect=2)
    (error,) = errors_in(said)
    assert "at step" in error and "samples (chunk/row image)" in error
    assert last_step(out) == 0
    (why,) = storage.list_files(f"{out}/failed", ".json")
    about = json.loads(storage.read_bytes(why))
    kept = [uri.rsplit("/", 1)[1] for uri in storage.list_files(why.rsplit("/", 1)[0])]
    assert about["samples"]
    assert kept == ["batch_rank_0.safetensors", "model.safetensors", "why_rank_0.json"]
    noted("a loss that is NaN or explodes", "one message names step and samples; weights and batch are kept", "-")
