"""Two trainings at once on one machine against one alone: the recipe tiny, as a user starts it.

    python -m benchmarks.neighbours [--root ../shared/data/sample] [--steps 120]

Samples per second are medians of what the runs log, without their first 20 steps. Waiting threads that spin take the
cores from the other run: GOMP_SPINCOUNT in the environment says for how long they do (`pipeline/engine/__init__.py`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import jobs  # noqa: F401, sets what the runs find in their environment
from benchmarks.stream import commit, processor
from pipeline.data.readers import open_reader
from pipeline.data.shards import write_shards


def train(data: str, folder: str, names: list[str], steps: int) -> list[float]:
    """Samples per second of runs that are started at once."""
    options = ["--train.steps", str(steps), "--train.log-every", "20", "--no-tracking", "--data.train", data]
    command = [sys.executable, "-m", "jobs.train", "tiny", *options]
    runs = [subprocess.Popen([*command, "--out", f"{folder}/{name}"], stdout=subprocess.DEVNULL) for name in names]
    ended = [run.wait() for run in runs]
    if any(ended):
        raise SystemExit("a run failed")
    rates = []
    for name in names:
        rows = [json.loads(line) for line in Path(folder, name, "metrics.jsonl").read_text().splitlines()]
        logged = [value for row in rows for key, value in row.items() if "samples" in key]
        rates.append(statistics.median(logged[1:]))
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(os.environ.get("CFR_ICL_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    parser.add_argument("--root", default=str(shared / "data" / "sample"), help="folder in the COCO+LVIS layout")
    parser.add_argument("--steps", type=int, default=120)
    options = parser.parse_args()
    print(f"{processor()}, {os.cpu_count()} cores; Python {platform.python_version()}; commit {commit()}\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        data = f"{folder}/data"
        write_shards(open_reader("coco-lvis", options.root, "train"), data, "train")
        (alone,) = train(data, folder, ["alone"], options.steps)
        both = train(data, folder, ["first", "second"], options.steps)
    print("| GOMP_SPINCOUNT | alone, samples/s | two at once | their sum | of one alone |\n|---:|---:|---:|---:|---:|")
    spin, each = os.environ.get("GOMP_SPINCOUNT", "-"), " + ".join(f"{rate:.1f}" for rate in both)
    print(f"| {spin} | {alone:.1f} | {each} | {sum(both):.1f} | {sum(both) / alone:.0%} |")


if __name__ == "__main__":
    main()
