"""Storage that answers 503, cuts connections, turns read-only or is full; shards that are damaged or missing."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.data.manifest import load_manifest
from pipeline.model.checkpoints import load_model
from tests.faulty_s3 import WRITING, FaultyS3

from .conftest import Reference, evaluation_args
from .local import EVERY, SMALL, STEPS, Local, last_step, unfinished, until, weights
from .test_training import SAME, train_args

ALONE = ("--train.workers", "1", "--train.cpus-per-worker", "1")


def errors(said: str) -> list[str]:
    assert "Traceback" not in said, said[-5000:]
    return [line for line in said.splitlines() if line.startswith("error: ")]


def test_503_to_every_third_request(
    local: Local, reference: Reference, faulty: FaultyS3, tmp_path: Path, noted: Callable[..., None]
) -> None:
    faulty.slow_down_every = 3
    out = f"{local.bucket}/slowed"
    local.run(*train_args(reference, out), log=tmp_path / "log", AWS_ENDPOINT_URL=faulty.url)
    assert faulty.counts["503"] > 20
    assert weights(out) == weights(reference.run)
    noted("S3 answers 503 to every third request", "requests are repeated with growing pauses", SAME)


def test_connections_cut_in_mid_body(
    local: Local, reference: Reference, faulty: FaultyS3, tmp_path: Path, noted: Callable[..., None]
) -> None:
    faulty.cut_every = 2
    shards, out = f"{local.bucket}/cut-train", f"{local.bucket}/cut-evaluation"
    prepare = ["-m", "jobs.prepare", "coco-lvis", "--root", f"{local.bucket}/raw", "--split", "train", "--out", shards]
    local.run(*prepare, log=tmp_path / "prepare", AWS_ENDPOINT_URL=faulty.url)
    assert load_manifest(shards).shards == load_manifest(reference.train).shards
    args = ["-m", "jobs.evaluate", *evaluation_args(reference, reference.run, out), "--no-tracking"]
    local.run(*args, log=tmp_path / "evaluate", AWS_ENDPOINT_URL=faulty.url)
    assert faulty.counts["cut"] > 20
    assert results(out) == results(reference.evaluation)
    noted("S3 cuts every second answer in mid-body", "the missing bytes are asked for again", "nothing")


def results(evaluation: str) -> list[dict]:
    from pipeline.evaluate.results import read_table

    return read_table(f"{evaluation}/objects.parquet").drop_columns(["seconds"]).to_pylist()


def test_read_only_while_a_checkpoint_is_written(
    local: Local, reference: Reference, faulty: FaultyS3, tmp_path: Path, noted: Callable[..., None]
) -> None:
    out = f"{local.bucket}/read-only"
    begun: list[str] = []

    def refuse(method: str, path: str) -> bool:
        """From the second file of the second checkpoint on nothing can be written."""
        if method in WRITING and f"step_{EVERY:08d}/optimizer" in path:
            begun.append(path)
        return bool(begun) and method in WRITING

    faulty.refuse = refuse
    said = local.run(*train_args(reference, out), log=tmp_path / "log", expect=2, AWS_ENDPOINT_URL=faulty.url)
    (error,) = errors(said)
    assert "cannot be written: access denied" in error and "optimizer" in error
    assert last_step(out) == 0
    (half,) = unfinished(out)
    assert [uri.rsplit("/", 1)[1] for uri in storage.list_files(half)] == ["model.safetensors"]
    assert load_model(out)[1].step == 0, "the half-written checkpoint was picked up"
    faulty.heal()
    local.run(*train_args(reference, out), log=tmp_path / "again", AWS_ENDPOINT_URL=faulty.url)
    assert weights(out) == weights(reference.run)
    assert unfinished(out) == []
    noted(
        "S3 turns read-only while a checkpoint is written",
        "the job ends with one message, exit code 2; the half-written checkpoint does not count; "
        "the same command continues",
        "the steps since the last checkpoint, done again",
    )


def test_s3_away_for_longer_than_retries_last(
    local: Local, reference: Reference, faulty: FaultyS3, tmp_path: Path, noted: Callable[..., None]
) -> None:
    faulty.down = True
    args = train_args(reference, f"{local.bucket}/away")
    (error,) = errors(local.run(*args, log=tmp_path / "log", expect=1, AWS_ENDPOINT_URL=faulty.url))
    assert "s3://cfr-icl cannot be reached" in error
    noted("S3 does not answer at all", "within seconds one message, exit code 1; the same command continues", "-")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small tmpfs")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_disk_full_at_the_output(
    local: Local, reference: Reference, small_disk: Path, tmp_path: Path, noted: Callable[..., None]
) -> None:
    out = f"{small_disk}/run"
    args = train_args(reference, out, *ALONE, "--train.keep", "4")
    (error,) = errors(local.run(*args, log=tmp_path / "log", expect=2))
    assert "cannot be written: No space left on device" in error
    reached = last_step(out)
    assert 0 <= reached < STEPS
    assert load_model(out)[1].step == reached
    assert not list(small_disk.rglob("*.partial")), "a partial file was left"
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    local.run(*args, log=tmp_path / "again")
    assert last_step(out) == STEPS and unfinished(out) == []
    noted(
        "disk full at the output",
        "the job ends with one message, exit code 2; what counts is whole; with space the same command continues",
        "the steps since the last checkpoint, done again",
    )


@pytest.mark.parametrize("damage", ["flipped byte", "cut in half", "missing"])
def test_damaged_shard(
    local: Local, reference: Reference, tmp_path: Path, noted: Callable[..., None], damage: str
) -> None:
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
    args = ["-m", "jobs.train", "tiny", "--data.train", shards, "--out", f"{shards}-run", *SMALL, *ALONE]
    (error,) = errors(local.run(*args, "--tracking.no-enabled", log=tmp_path / "log", expect=2))
    assert "shard-00000.parquet" in error
    when = "in the first step that reads it" if damage == "flipped byte" else "before work starts"
    noted(f"a shard: {damage}", f"one message {when}, which names the shard, exit code 2", "-")


def test_a_path_that_only_one_machine_sees(local: Local, reference: Reference, tmp_path: Path) -> None:
    """Shown for credentials: the driver has another endpoint than the nodes, where the bucket is empty."""
    until(lambda: len(local.processes("raylet/raylet")) >= 2, "two nodes")
    from moto.server import ThreadedMotoServer

    elsewhere = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    elsewhere.start()
    host, port = elsewhere.get_host_and_port()
    try:
        import boto3

        url = f"http://{host}:{port}"
        boto3.client("s3", endpoint_url=url).create_bucket(Bucket="cfr-icl")
        client = boto3.client("s3", endpoint_url=url)
        for uri in storage.list_files(reference.train):
            key = uri.removeprefix("s3://cfr-icl/")
            client.put_object(Bucket="cfr-icl", Key=f"other/{key}", Body=storage.read_bytes(uri))
        args = [
            "-m",
            "jobs.train",
            "tiny",
            "--data.train",
            "s3://cfr-icl/other/train",
            "--out",
            "s3://cfr-icl/other/run",
        ]
        log = tmp_path / "log"
        environment = {**local.environment(), "AWS_ENDPOINT_URL": url}
        done = subprocess.run(
            [os.sys.executable, *args, *SMALL, "--tracking.no-enabled"],  # type: ignore[attr-defined]
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        log.write_text(done.stdout + done.stderr)
    finally:
        elsewhere.stop()
    assert done.returncode == 2, log.read_text()
    (error,) = errors(log.read_text())
    assert "does not see s3://cfr-icl/other/train" in error
