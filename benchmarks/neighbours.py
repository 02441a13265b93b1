"""Two jobs at once on one machine against each alone: two trainings of tiny; an evaluation beside a training.

    python -m benchmarks.neighbours [--root ../shared/data/sample] [--steps 120]

Samples per second are medians of what the runs log, without their first 20 steps; an evaluation's rate is the clicks
per second of its summary (24 photographs, CFR-0 to CFR-2 of `small`). The training beside it lasts longer, and what
counts of it are the steps that it logs while the evaluation clicks. Waiting threads that spin take the cores from the
other run: GOMP_SPINCOUNT in the environment says for how long they do (`pipeline/engine/__init__.py`).
"""

from __future__ import annotations

import argparse
import atexit
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jobs  # noqa: F401, sets what the runs find in their environment
from benchmarks.stream import commit, processor
from pipeline.data.readers import open_reader
from pipeline.data.shards import write_shards

START = 10.0  # seconds until an evaluation clicks


def training(data: str, out: str, steps: int) -> list[str]:
    options = ["--train.steps", str(steps), "--train.log-every", "20", "--no-tracking", "--data.train", data]
    return ["jobs.train", "tiny", *options, "--out", out]


def evaluation(root: str, out: str) -> list[str]:
    options = ["--checkpoint", "small", "--data", f"sample={root}/eval", "--cfr-steps", "0", "1", "2"]
    return ["jobs.evaluate", *options, "--no-tracking", "--out", out]


def started(words: list[str], **more: Any) -> subprocess.Popen[str]:
    """A job, in a session of its own as in a terminal of its own: Linux shares the cores between sessions first."""
    options = {"text": True, "start_new_session": True, "stdout": subprocess.DEVNULL, **more}
    run = subprocess.Popen([sys.executable, "-m", *words], **options)
    atexit.register(run.terminate)  # Ctrl-C is not heard in another session
    return run


def ended(*runs: subprocess.Popen[str]) -> None:
    if any(run.wait() for run in runs):
        raise SystemExit("a job failed")


def evaluated_beside(evaluation: list[str], training: list[str]) -> tuple[float, float]:
    """Evaluate while a training is at work, and wait for both; when the evaluation clicked, by the clock."""
    run = started(training, stdout=subprocess.PIPE)
    assert run.stdout is not None
    next(line for line in run.stdout if line.startswith("training: "))
    since = time.time() + START
    ended(started(evaluation))
    until = time.time()
    if run.poll() is not None:
        raise SystemExit("The training ended before the evaluation: --steps has to be larger.")
    run.communicate()
    ended(run)
    return since, until


def samples_per_second(run: str, since: float = 0.0, until: float = math.inf) -> float:
    """The median of what a training logged between two times of the clock."""
    rows = [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]
    logged = [
        row["time/samples_per_s"] for row in rows if "time/samples_per_s" in row and since < row["time"] / 1e3 < until
    ]
    if len(logged) < 2:
        raise SystemExit("A training logged too little while the evaluation clicked.")
    return statistics.median(logged if since else logged[1:])


def clicks_per_second(out: str) -> float:
    results = json.loads(Path(out, "summary.json").read_text())["results"]
    return len(results) / sum(result["seconds_per_click"] for result in results)


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
        out = {name: f"{folder}/{name}" for name in ("alone", "first", "second", "beside", "one", "other")}
        ended(started(training(data, out["alone"], options.steps)))
        ended(*(started(training(data, out[name], options.steps)) for name in ("first", "second")))
        ended(started(evaluation(options.root, out["one"])))
        longer = training(data, out["beside"], 4 * options.steps)
        since, until = evaluated_beside(evaluation(options.root, out["other"]), longer)
        alone, beside = samples_per_second(out["alone"]), samples_per_second(out["beside"], since, until)
        both = [samples_per_second(out[name]) for name in ("first", "second")]
        clicking, clicking_beside = clicks_per_second(out["one"]), clicks_per_second(out["other"])
    print("| GOMP_SPINCOUNT | alone, samples/s | two at once | their sum | of one alone |\n|---:|---:|---:|---:|---:|")
    spin, each = os.environ.get("GOMP_SPINCOUNT", "-"), " + ".join(f"{rate:.1f}" for rate in both)
    print(f"| {spin} | {alone:.1f} | {each} | {sum(both):.1f} | {sum(both) / alone:.0%} |")
    print(
        "\n| evaluation alone, clicks/s | beside a training | the training beside it, samples/s | sum of the shares |"
    )
    shares = clicking_beside / clicking + beside / alone
    print(f"|---:|---:|---:|---:|\n| {clicking:.1f} | {clicking_beside:.1f} | {beside:.1f} | {shares:.0%} |")


if __name__ == "__main__":
    main()
