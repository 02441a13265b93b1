"""A training step on this machine's GPU: samples per second, where the time goes, memory; and whole training jobs.

    python -m benchmarks.training [--variants vit_b vit_l vit_h] [--precisions fp32 bf16] [--batches 32] [--steps 10]
    python -m benchmarks.training --job [--root ../shared/data/sample] [--variants vit_b] [--precisions fp32 bf16]

Step: three clicks of the iterative click loss at 448 pixels, forward and backward after each, two simulated clicks
between them, Adam; random weights, of which nearly every pixel is wrong, so that the distance maps of the clicks are as
large as they get. Their share is what a step takes longer than one that draws none. FLOPs are those of the matrix
products and convolutions, forward and backward, counted by torch; MFU is their share of the GPU's bf16 peak over the
whole step. A precision may end in +compile (`--train.compile`) or +checkpointing.
Job: `jobs.train` from start to end, samples made beside it from the photographs of a COCO+LVIS folder; samples per
second and the share of the time spent waiting for data are those it logs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.icl_memory import made_batch
from benchmarks.stream import commit, processor
from jobs.recipes.presets import ICL
from jobs.recipes.presets import MODELS as PUBLISHED
from pipeline import config
from pipeline.model.precision import forward_precision, set_float32
from pipeline.model.segmenter import ClickSegmenter
from pipeline.stream import order
from pipeline.train import icl
from pipeline.train.optim import build_optimizer
from pipeline.train.state import TrainState, publish, take_snapshot, write_parts

MODELS = {"vit_b": PUBLISHED["base"], "vit_l": PUBLISHED["large"], "vit_h": PUBLISHED["huge"]}
RECIPES = {"vit_b": "icl_suem_base_cocolvis", "vit_l": "icl_suem_large_cocolvis", "vit_h": "cfr_icl_huge_cocolvis"}
CLICKS = 3
PEAKS = {"H200": 989, "H100": 989, "A100": 312, "L40S": 362, "L4": 121}  # TFLOP/s of dense bf16 products, as sold


class Clock:
    """Seconds in one function: with the work it gives the device, without what the device still had to do before."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            torch.cuda.synchronize()
            start = time.perf_counter()
            result = function(*args)
            torch.cuda.synchronize()
            self.seconds += time.perf_counter() - start
            return result

        return call


def flops_per_sample(model: ClickSegmenter, batch: icl.ClickBatch) -> float:
    """Of one forward and backward pass."""
    with FlopCounterMode(display=False) as counter:
        model(batch.image[:1], batch.target[:1].float(), batch.points[:1]).mean().backward()
    return float(counter.get_total_flops())


def measure(variant: str, precision: str, size: int, steps: int) -> dict[str, float]:
    """Means over `steps` steps after two to warm up."""
    torch.manual_seed(0)
    precision, *extras = precision.split("+")
    run = config.TrainConfig(
        model=replace(MODELS[variant], activation_checkpointing="checkpointing" in extras),
        train=config.Train(precision=cast(Any, precision), batch=size),
        loss=ICL,
    )
    set_float32(tf32=run.train.precision == "tf32")
    model = ClickSegmenter(run.model).cuda().train()
    optimizer = build_optimizer(model, run.optim, run.model.depth)
    batch = made_batch(run, size, torch.device("cuda"))
    work = flops_per_sample(model, batch)
    if "compile" in extras:
        model.compile_parts()
    adam = Clock()
    own = icl.begin_training_clicks

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with forward_precision(run.train.precision, torch.device("cuda")):
            icl.icl_step(model, batch, run.loss, CLICKS, backward=torch.Tensor.backward)
        adam.around(optimizer.step)()

    def timed() -> float:
        adam.seconds = 0.0
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(steps):
            step()
        torch.cuda.synchronize()
        return (time.perf_counter() - start) / steps

    for _ in range(2):
        step()
    torch.cuda.reset_peak_memory_stats()
    seconds = timed()
    icl.begin_training_clicks = lambda *args: lambda: args[2]  # no new click
    try:
        without = timed()
    finally:
        icl.begin_training_clicks = own
    network = without - adam.seconds / steps
    return {
        "rate": size / seconds,
        "seconds": seconds,
        "network": network / seconds,
        "clicks": (seconds - without) / seconds,
        "adam": adam.seconds / steps / seconds,
        "tflops": CLICKS * size * work / network / 1e12,
        "mfu": CLICKS * size * work / seconds / 1e12 / peak_tflops(),
        "peak": torch.cuda.max_memory_allocated() / 1e9,
    }


def peak_tflops() -> float:
    """Of this GPU in bf16; NaN where it is none of the known ones."""
    return next((peak for name, peak in PEAKS.items() if name in torch.cuda.get_device_name()), math.nan)


def steps_table(options: argparse.Namespace) -> None:
    heads = (
        "network|precision|batch|samples/s|s per step|network|simulated clicks|Adam|TFLOP/s of the network|MFU|peak GB"
    )
    print(f"| {heads.replace('|', ' | ')} |\n|---|---|{'---:|' * 9}")
    for variant in options.variants:
        for precision in options.precisions:
            for size in options.batches:
                try:
                    r = measure(variant, precision, size, options.steps)
                    cells = f"{r['rate']:.1f} | {r['seconds']:.3f} | {r['network']:.0%} | {r['clicks']:.0%} | "
                    cells += f"{r['adam']:.0%} | {r['tflops']:.0f} | {r['mfu']:.2f} | {r['peak']:.1f}"
                except torch.cuda.OutOfMemoryError:
                    cells = "does not fit | | | | | | |"
                torch.cuda.empty_cache()
                print(f"| {variant} | {precision} | {size} | {cells} |", flush=True)


def jobs_table(options: argparse.Namespace) -> None:
    heads = "network|precision|batch|samples/s|waiting for data|checkpoint, s beside training|peak GB"
    print(f"| {heads.replace('|', ' | ')} |\n|---|---|{'---:|' * 5}")
    with tempfile.TemporaryDirectory() as folder:
        made = ["coco-lvis", "--root", options.root, "--split", "train", "--out", f"{folder}/train"]
        subprocess.run([sys.executable, "-m", "jobs.prepare", *made], check=True, stdout=subprocess.DEVNULL)
        for variant in options.variants:
            for precision in options.precisions:
                for size in options.batches:
                    job_row(folder, variant, precision, size, options.steps)


def random_start(folder: str, variant: str) -> str:
    """A checkpoint of random weights: the recipes do not begin without a start."""
    torch.manual_seed(0)
    run = config.TrainConfig(out=f"{folder}/start-{variant}", model=MODELS[variant])
    model = ClickSegmenter(run.model)
    state = TrainState(model, build_optimizer(model, run.optim, run.model.depth), 0, order.Position())
    snapshot = take_snapshot(state, run, 1, writes=True)
    publish(snapshot, write_parts(snapshot, 0))
    return run.out


def job_row(folder: str, variant: str, precision: str, size: int, steps: int) -> None:
    out = f"{folder}/{variant}-{precision}-{size}"
    args = [RECIPES[variant], "--data.train", f"{folder}/train", "--out", out, "--train.gpu"]
    args += ["--model.start", random_start(folder, variant)]
    args += ["--train.steps", str(2 * steps), "--train.log-every", str(steps), "--train.checkpoint-every", str(steps)]
    args += [
        "--train.precision",
        precision.removesuffix("+compile"),
        "--train.batch",
        str(size),
        "--tracking.no-enabled",
    ]
    args += ["--train.compile"] if precision.endswith("+compile") else []
    done = subprocess.run([sys.executable, "-m", "jobs.train", *args], capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stdout[-2000:] + done.stderr[-4000:], file=sys.stderr)
        raise SystemExit(f"jobs.train ended with {done.returncode}")
    rows = [json.loads(line) for line in Path(out, "metrics.jsonl").read_text().splitlines()]
    last = next(row for row in reversed(rows) if "time/samples_per_s" in row)
    peak = next(row for row in reversed(rows) if "device/peak_gb" in row)["device/peak_gb"]
    written = last.get("time/checkpoint_s", float("nan"))
    cells = f"{last['time/samples_per_s']:.1f} | {last['time/data_wait_share']:.1%} | {written:.1f} | {peak:.1f}"
    print(f"| {variant} | {precision} | {size} | {cells} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(os.environ.get("CFR_ICL_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    parser.add_argument("--variants", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--precisions", nargs="+", default=["fp32", "tf32", "bf16"])
    parser.add_argument("--batches", nargs="+", type=int, default=[32])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--job", action="store_true", help="whole training jobs instead")
    parser.add_argument("--root", default=str(shared / "data" / "sample"), help="folder in the COCO+LVIS layout")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("This benchmark needs a CUDA GPU.")
    print(f"{torch.cuda.get_device_name()}; {processor()}, {len(os.sched_getaffinity(0))} cores; ", end="")
    print(f"Python {platform.python_version()}, torch {torch.__version__}; commit {commit()}\n")
    (jobs_table if options.job else steps_table)(options)


if __name__ == "__main__":
    main()
