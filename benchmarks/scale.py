"""Throughput and memory against data size and worker count, and the seconds of a checkpoint.

    python -m benchmarks.scale [--root ../shared/data/sample] [--samples 1280] [--part data,tasks,workers,checkpoint]

The photographs of a COCO+LVIS folder become shards on an S3 server of this machine (moto, over HTTP, in a process of
its own), once, 4 times and 16 times over. Memory is the sum of the proportional set sizes (PSS) of this process and all
below it, without the S3 server's; the object store's use is Ray's own figure. Both are looked at five times a second;
the tables have their peaks after the first batch.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.stream import commit, processor
from pipeline import config, storage
from pipeline.data.manifest import MANIFEST, Manifest
from pipeline.data.readers import open_reader
from pipeline.data.shards import write_shards
from pipeline.engine.connect import connect
from pipeline.model.segmenter import ClickSegmenter
from pipeline.storage import s3_client
from pipeline.stream import order, stream
from pipeline.train.optim import build_optimizer
from pipeline.train.state import TrainState, publish, take_snapshot, write_parts

BUCKET = "s3://scale"
COPIES = (1, 4, 16)
LOOKS_PER_SECOND = 5


class Peaks:
    """Peak memory while it runs, in MB: of processes, and of Ray's object store."""

    def __init__(self) -> None:
        self.processes = self.store = 0.0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(1 / LOOKS_PER_SECOND):
            self.processes = max(self.processes, process_mb())
            self.store = max(self.store, store_mb())


def process_mb() -> float:
    """PSS of this process and its descendants, without the S3 server."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    total = 0
    for pid in parents:
        above = pid
        while above in parents and above != os.getpid():
            above = parents[above]
        if above != os.getpid():
            continue
        try:
            if "moto" in Path(f"/proc/{pid}/cmdline").read_text():
                continue
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += int(rollup.split("\nPss:")[1].split()[0])
    return total / 1000


def store_mb() -> float:
    """What objects take in Ray's store."""
    import ray
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    state = get_state_from_address(ray.get_runtime_context().gcs_address)
    return get_memory_info_reply(state).store_stats.object_store_bytes_used / 1e6


@contextmanager
def s3_server() -> Iterator[None]:
    """An S3 server for this process and what it starts."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.environ.update(
        AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}",
        AWS_ACCESS_KEY_ID="local",
        AWS_SECRET_ACCESS_KEY="local",
        AWS_DEFAULT_REGION="us-east-1",
        AWS_EC2_METADATA_DISABLED="true",
    )
    try:
        for _ in range(100):
            try:
                s3_client.connect(1).create_bucket(Bucket=BUCKET.removeprefix("s3://"))
                break
            except Exception:  # not up yet
                time.sleep(0.2)
        yield
    finally:
        server.terminate()


def copies_of(made: Manifest, count: int) -> str:
    """A data set of `count` copies of each shard of BUCKET/1."""
    uri = f"{BUCKET}/{count}"
    shards = []
    for shard in made.shards:
        data = storage.read_bytes(f"{BUCKET}/1/{shard.path}")
        for number in range(count):
            copy = replace(shard, path=f"copy-{number:02d}-{shard.path}")
            storage.write_bytes(f"{uri}/{copy.path}", data)
            shards.append(copy)
    manifest = replace(made, rows=made.rows * count, objects=made.objects * count, shards=shards)
    storage.write_bytes(f"{uri}/{MANIFEST}", manifest.to_json())
    return uri


def run_config(uri: str, tasks: int) -> config.TrainConfig:
    return config.TrainConfig(data=config.Data(train=uri, workers=tasks), train=config.Train(batch=32))


def measured(uri: str, tasks: int, samples: int) -> tuple[float, Peaks]:
    """Samples per second at the consumer after the first batch, and the peaks of memory."""
    from pipeline.data.manifest import load_manifest

    run = run_config(uri, tasks)
    batches = stream.batches(run, load_manifest(uri), order.Position(), 0, 1, samples // 32)
    next(batches)
    peaks, start, count = Peaks(), time.perf_counter(), 0
    for batch in batches:
        count += len(batch["image"])
    seconds = time.perf_counter() - start
    peaks.close()
    return count / seconds, peaks


def part_data(made: Manifest, samples: int) -> None:
    print(
        "\n| data set | photographs | MB in shards | samples/s | peak MB of processes | peak MB in the object store |"
    )
    print("|---|---:|---:|---:|---:|---:|")
    for count in COPIES:
        uri = copies_of(made, count)
        rate, peaks = measured(uri, 2, samples)
        size = sum(shard.bytes for shard in made.shards) * count / 1e6
        print(
            f"| {count}x | {made.rows * count} | {size:.0f} | {rate:.0f} | {peaks.processes:.0f} | {peaks.store:.0f} |"
        )


def part_tasks(made: Manifest, samples: int) -> None:
    uri = copies_of(made, 4)
    print("\n| augmentation tasks at once | samples/s | peak MB of processes | peak MB in the object store |")
    print("|---:|---:|---:|---:|")
    for tasks in (1, 2, 3):
        rate, peaks = measured(uri, tasks, samples)
        print(f"| {tasks} | {rate:.0f} | {peaks.processes:.0f} | {peaks.store:.0f} |")


def part_workers(made: Manifest, steps: int = 60) -> None:
    uri = copies_of(made, 4)
    print("\n| training workers | parallel | samples/s | share of the step waiting for data | peak MB of processes |")
    print("|---:|---|---:|---:|---:|")
    for workers, parallel in ((1, "ddp"), (2, "ddp"), (2, "fsdp")):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "jobs.train", "tiny", "--data.train", uri, "--out", f"{folder}/run"]
            command += ["--train.steps", str(steps), "--train.log-every", str(steps // 2), "--tracking.no-enabled"]
            command += ["--train.workers", str(workers), "--train.parallel", parallel]
            job = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            peak = 0.0
            while job.poll() is None:
                peak = max(peak, process_mb())
                time.sleep(1 / LOOKS_PER_SECOND)
            assert job.returncode == 0, command
            lines = Path(folder, "run", "metrics.jsonl").read_text().splitlines()
        last = json.loads(lines[-1])
        share = last["time/data_wait_share"]
        print(f"| {workers} | {parallel} | {last['time/samples_per_s']:.1f} | {share:.1%} | {peak:.0f} |")


def part_checkpoint() -> None:
    from jobs.recipes.presets import MODELS

    torch.manual_seed(0)
    model = ClickSegmenter(MODELS["base"])
    optimizer = build_optimizer(model, config.Optim(), MODELS["base"].depth)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    state = TrainState(model, optimizer, 1, order.Position())
    print("\n| checkpoint of ViT-B to | MB | s that training waits (copy) | s beside training (write) |")
    print("|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for name, out in (("local disk", folder), ("S3 server of this machine", f"{BUCKET}/checkpoint")):
            copy, snapshot = timed(lambda out=out: take_snapshot(state, config.TrainConfig(out=out), 1, True))
            write, files = timed(lambda snapshot=snapshot: write_parts(snapshot, 0))
            publish(snapshot, files)
            size = sum(about["bytes"] for about in files.values()) / 1e6
            print(f"| {name} | {size:.0f} | {copy:.2f} | {write:.1f} |")


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(os.environ.get("CFR_ICL_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    parser.add_argument("--root", default=str(shared / "data" / "sample"), help="folder in the COCO+LVIS layout")
    parser.add_argument("--samples", type=int, default=1280)
    parser.add_argument("--part", default="data,tasks,workers,checkpoint")
    options = parser.parse_args()
    parts = options.part.split(",")
    print(f"{processor()}, {os.cpu_count()} cores; Python {platform.python_version()}; commit {commit()}")
    with s3_server():
        connect(4)
        made = write_shards(open_reader("coco-lvis", options.root, "train"), f"{BUCKET}/1", "train")
        if "data" in parts:
            part_data(made, options.samples)
        if "tasks" in parts:
            part_tasks(made, options.samples)
        import ray

        ray.shutdown()  # the training jobs start their own
        if "workers" in parts:
            part_workers(made)
        if "checkpoint" in parts:
            part_checkpoint()


if __name__ == "__main__":
    main()
