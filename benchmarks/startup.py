"""Where the seconds go that are not work: small jobs as a user starts them, line by line.

    python -m benchmarks.startup [--rounds 3]

Drawn data: 24 raw images to prepare, 12 objects to evaluate with the checkpoint of a run of one step, tiny to its first
step. Each row is a line that the job prints and the seconds until it comes (median of the rounds), with the CPU seconds
that all processes of the machine used from the start: run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.stream import commit
from pipeline.data.readers.synthetic import write_synthetic

JOBS = ("prepare", "train", "tune", "evaluate", "demo", "track_sync", "import_checkpoint", "export_checkpoint")


def busy() -> float:
    """CPU seconds that all processes of the machine have used since it was started (Linux)."""
    user, nice, system = map(int, Path("/proc/stat").read_text().split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def timeline(words: Sequence[str]) -> list[tuple[str, float, float]]:
    """(line, seconds, CPU seconds) of a job from its start, its end last."""
    start, used = time.monotonic(), busy()
    command = [sys.executable, "-m", *words]
    job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1)
    assert job.stdout is not None
    lines = [(line.strip(), time.monotonic() - start, busy() - used) for line in job.stdout if line.strip()]
    if job.wait():
        raise SystemExit("\n".join(line for line, _, _ in lines))
    return [*lines, ("end", time.monotonic() - start, busy() - used)]


def table(name: str, marks: dict[str, str], rounds: list[list[tuple[str, float, float]]]) -> None:
    """Print when each mark's line came: the first that holds the words, median of the rounds."""
    print(f"\n### {name}\n\n| until | s | CPU s |\n|---|---:|---:|")
    for words, meaning in marks.items():
        seen = [next((at for at in lines if words in at[0]), None) for lines in rounds]
        times = [at for at in seen if at is not None]
        if times:
            wall, cpu = statistics.median(at[1] for at in times), statistics.median(at[2] for at in times)
            print(f"| {meaning} | {wall:.1f} | {cpu:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = range(parser.parse_args().rounds)
    print(f"{platform.machine()}, {os.cpu_count()} cores; Python {platform.python_version()}; commit {commit()}")
    with tempfile.TemporaryDirectory() as folder:
        raw = f"{folder}/raw"
        write_synthetic(raw, train=24, val=4, seed=0, evaluation=12)
        print("\n### --help\n\n| job | s |\n|---|---:|")
        for job in JOBS:
            times = [timeline([f"jobs.{job}", "--help"])[-1][1] for _ in rounds]
            print(f"| {job} | {statistics.median(times):.1f} |")
        prepare = [
            timeline(["jobs.prepare", "coco-lvis", "--root", raw, "--split", "train", "--out", f"{folder}/train-{i}"])
            for i in rounds
        ]
        marks = {"images,": "all images converted", "end": "the process has ended"}
        table("jobs.prepare coco-lvis, 24 images", marks, prepare)
        options = ["--train.steps", "10", "--train.log-every", "1", "--data.train", f"{folder}/train-0"]
        options += ["--train.checkpoint-every", "10"]
        train = [timeline(["jobs.train", "tiny", *options, "--out", f"{folder}/run-{i}"]) for i in rounds]
        marks = {"data:": "options and data are checked", "device:": "the engine runs", "workers run": "workers run"}
        marks |= {"step 1 ": "first step", "step 10 ": "last of 10 steps", "end": "the process has ended"}
        table("jobs.train tiny, 10 steps", marks, train)
        asked = ["--checkpoint", f"{folder}/run-0", "--data", f"mine={raw}/eval", "--cfr-steps", "0"]
        evaluate = [timeline(["jobs.evaluate", *asked, "--out", f"{folder}/eval-{i}"]) for i in rounds]
        marks = {"device:": "options and data are checked, the engine runs", "starting": "data are prepared"}
        marks |= {"evaluating": "first object", "data set": "all 12 objects, report", "end": "the process has ended"}
        table("jobs.evaluate, 12 objects, CFR-0", marks, evaluate)


if __name__ == "__main__":
    main()
