"""How CPU time and peak memory grow with the size of the work: one table of exponents.

    python -m benchmarks.growth [--rounds 1] [--only NAME ...]
    python -m benchmarks.growth --cell NAME SIZE

Each cell runs in a process of its own, does a little of the same work first (imports, caches, the tables of a store),
and then counts the CPU seconds of all threads and the peak of resident memory (Linux) over the work alone. Ray's part
is left out: what its tasks and actors do is done here, in the same process, one after the other. Data is drawn; copies
of its shards make larger data sets. The exponent is log10 of the CPU seconds at ten times the size over those at one:
1 means that twice the work takes twice the time. CPU times of a busy machine are too long; at both sizes alike at best.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import torch

from benchmarks import growth_cells as cells
from benchmarks.stream import commit, processor


class Cell(NamedTuple):
    """What is measured: `make` prepares a folder and gives the work of a size."""

    make: Callable[[Path, int], Callable[[], object]]
    unit: str
    size: int
    warm: int


CELLS = {
    "prepare": Cell(cells.prepare, "images", 50, 10),
    "training stream": Cell(cells.stream, "chunks of 32 samples", 10, 1),
    "evaluation": Cell(cells.evaluation, f"objects, {cells.CLICKS} clicks", 50, 10),
    "results and report": Cell(cells.reading, "objects, 20 clicks", 500, 50),
    "sweep report, cfr": Cell(cells.sweep("cfr"), "trials", 100, 20),
    "sweep report, icl": Cell(cells.sweep("icl"), "trials", 100, 20),
    "tracking": Cell(cells.tracking, "metric values", 10_000, 100),
}


def peak_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def measure(name: str, size: int) -> dict[str, float]:
    """CPU seconds and peak MB of a cell, in this process."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    cells.without_engine()
    cell = CELLS[name]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        for part in ("warm", "work"):
            (Path(folder) / part).mkdir()
        cell.make(Path(folder) / "warm", cell.warm)()
        work = cell.make(Path(folder) / "work", size)
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        start = time.process_time()
        work()
        return {"cpu": time.process_time() - start, "peak": peak_mb()}


def apart(name: str, size: int, rounds: int) -> dict[str, float]:
    """The least of some rounds of a cell, each in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.growth", "--cell", name, str(size)]
    found = []
    for _ in range(rounds):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        found.append(json.loads(done.stdout))
    return {what: min(one[what] for one in found) for what in ("cpu", "peak")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1, help="of each cell; the least of its CPU times counts")
    parser.add_argument("--only", nargs="+", choices=CELLS, default=[*CELLS])
    parser.add_argument("--cell", nargs=2, metavar=("NAME", "SIZE"), help="measure one cell here and print it as JSON")
    options = parser.parse_args()
    if options.cell:
        print(json.dumps(measure(options.cell[0], int(options.cell[1]))))
        return
    print(f"{processor()}, {os.cpu_count()} cores; Python {platform.python_version()}; commit {commit()}\n")
    print("| what | size 1 | size 10 | CPU s at 1 | CPU s at 10 | exponent | peak MB at 1 | more at 10 |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name in options.only:
        cell, small, large = CELLS[name], *((CELLS[name].size * times) for times in (1, 10))
        one, ten = (apart(name, size, options.rounds) for size in (small, large))
        row = [f"{name} ({cell.unit})", f"{small:,}", f"{large:,}", f"{one['cpu']:.2f}", f"{ten['cpu']:.2f}"]
        row += [f"{math.log10(ten['cpu'] / one['cpu']):.2f}", f"{one['peak']:.0f}", f"{ten['peak'] - one['peak']:+.0f}"]
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
