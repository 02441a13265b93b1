"""Samples per second and core of the training stream, split by stage, and through Ray Data with one task at a time.

    python -m benchmarks.stream [--root ../shared/data/sample] [--samples 640]

The photographs of a COCO+LVIS folder become shards in a temporary folder; then samples of the coco-lvis chain with SUEM
are made from them: read, decode, crop of 448, SUEM, clicks. One core: OpenCV and everything else run one thread. The
table's times are CPU times of that process, so other programs on the machine disturb them little.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np

from pipeline.augment import transforms
from pipeline.config import Data, Suem, Train, TrainConfig
from pipeline.data import manifest
from pipeline.data.manifest import Manifest
from pipeline.data.readers import open_reader
from pipeline.data.shards import write_shards
from pipeline.engine.connect import connect
from pipeline.stream import order, samples, stream

STAGES: list[tuple[ModuleType, str, str]] = [
    (manifest, "read_group", "read and parse the row group"),
    (samples, "decode_sample", "decode image and label layers"),
    (transforms, "crop_sample", "geometry, area rules"),
    (transforms, "recolour", "colour"),
    (samples, "suem", "SUEM"),
    (samples, "sample_clicks", "object choice and clicks"),
    (samples, "make_chunk", "generators, assembling the block"),
]


class Clock:
    """CPU seconds per stage, each without the stages it calls."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner: list[float] = []

    def wrap(self, function: Callable, stage: str) -> Callable:
        def call(*args, **kwargs):
            start = time.process_time()
            self._inner.append(0.0)
            try:
                return function(*args, **kwargs)
            finally:
                spent = time.process_time() - start
                self.seconds[stage] += spent - self._inner.pop()
                if self._inner:
                    self._inner[-1] += spent

        return call


def make(config: TrainConfig, plan: order.Plan, made: Manifest, chunks: range) -> int:
    """Make some chunks in this process; returns the number of samples."""
    count = 0
    for index in chunks:
        chunk = plan[index]
        rows = manifest.read_group(config.data.train, made.shards[chunk.shard].path, chunk.group)
        count += len(samples.make_chunk(rows, config, index)["image"])
    return count


def one_core(config: TrainConfig, made: Manifest, chunks: int) -> list[tuple[str, float, float]]:
    """Rows (stage, CPU ms per sample, 0) and, last, (whole, CPU ms, wall ms) without the clock's own cost."""
    plan = order.Plan([s.row_groups for s in made.shards], [s.weights for s in made.shards], config.seed)
    make(config, plan, made, range(2))
    cpu, wall = time.process_time(), time.perf_counter()
    count = make(config, plan, made, range(chunks))
    whole = ("whole", 1e3 * (time.process_time() - cpu) / count, 1e3 * (time.perf_counter() - wall) / count)
    clock = Clock()
    for module, name, stage in STAGES:
        setattr(module, name, clock.wrap(getattr(module, name), stage))
    count = make(config, plan, made, range(chunks))
    return [*((stage, 1e3 * clock.seconds[stage] / count, 0.0) for _, _, stage in STAGES), whole]


def through_ray(config: TrainConfig, made: Manifest, steps: int) -> float:
    """Samples per wall second that arrive from Ray Data with one task at a time, after the first batch."""
    batches = stream.batches(config, made, order.Position(), 0, 1, steps)
    first = len(next(batches)["image"])
    start = time.perf_counter()
    count = sum(len(batch["image"]) for batch in batches)
    return (count if count else first) / (time.perf_counter() - start)


def commit() -> str:
    found = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "no commit"


def processor() -> str:
    if os.path.exists("/proc/cpuinfo"):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(os.environ.get("CFR_ICL_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    parser.add_argument("--root", default=str(shared / "data" / "sample"), help="folder in the COCO+LVIS layout")
    parser.add_argument("--samples", type=int, default=640)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    connect(4)
    with tempfile.TemporaryDirectory() as folder:
        made = write_shards(open_reader("coco-lvis", options.root, "train"), folder, "train")
        config = TrainConfig(data=Data(train=folder, workers=1), suem=Suem(), train=Train(batch=32))
        chunks = max(4, options.samples // config.data.chunk)
        rate = through_ray(config, made, chunks)
        *stages, (_, cpu, wall) = one_core(config, made, chunks)
    print(
        f"{processor()}, {os.cpu_count()} cores; Python {platform.python_version()}, OpenCV {cv2.__version__}, ", end=""
    )
    print(f"NumPy {np.__version__}; commit {commit()}")
    what = f"{made.rows} photographs, {made.objects} objects; crop {config.data.crop}"
    print(f"{what}, {chunks * config.data.chunk} samples\n")
    print("| stage | CPU ms per sample | share |\n|---|---:|---:|")
    total = sum(ms for _, ms, _ in stages)
    for stage, ms, _ in stages:
        print(f"| {stage} | {ms:.2f} | {ms / total:.0%} |")
    print("\n| whole sample | samples/s |\n|---|---:|")
    print(f"| one core, by CPU time | {1e3 / cpu:.0f} |\n| one core, by wall time | {1e3 / wall:.0f} |")
    print(f"| Ray Data, one task at a time, by wall time at the consumer | {rate:.0f} |")


if __name__ == "__main__":
    main()
