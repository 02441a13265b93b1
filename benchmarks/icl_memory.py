"""Peak memory of an ICL step: three clicks with backward per step, one click, and one backward at the end.

    python benchmarks/icl_memory.py [--variant base|tiny] [--batch 2]

Each case runs in a process of its own; "step" is the peak above what is resident before the step (weights, gradients
and Adam's moments are allocated by then).
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from pipeline.config import TrainConfig
    from pipeline.train.icl import ClickBatch

CASES = {"1 click": (1, True), "3 clicks": (3, True), "3 clicks, one backward at the end": (3, False)}


STEPS = 3  # a training run's peak, not the first step's: the allocator's fragmentation is part of it


def made_batch(run: TrainConfig, size: int, device: torch.device) -> ClickBatch:
    """Noise with a disc as the object and a first click in it."""
    import numpy as np
    import torch

    from pipeline.train.icl import ClickBatch

    side, rng = run.data.crop, np.random.default_rng(0)
    rows, cols = np.ogrid[:side, :side]
    disc = (rows - side / 2) ** 2 + (cols - side / 3) ** 2 <= (side / 5) ** 2
    target = np.broadcast_to(disc, (size, 1, side, side)).astype(np.int8)
    points = np.full((size, 2 * run.clicks.max_points, 3), -1, np.float32)
    points[:, 0] = (side // 2, side // 3, 0)
    image = rng.integers(0, 256, (size, 3, side, side), dtype=np.uint8)
    arrays = [torch.from_numpy(array).to(device) for array in (image, target, points)]
    return ClickBatch(arrays[0], arrays[1], arrays[2], [(0, 0, i) for i in range(size)])


def measure(variant: str, batch_size: int, clicks: int, per_step: bool) -> dict[str, float]:
    """One case in this process: peak over `STEPS` steps, seconds per step."""
    import torch

    from jobs.recipes import RECIPES
    from pipeline import config
    from pipeline.model.segmenter import ClickSegmenter
    from pipeline.train import icl
    from pipeline.train.optim import build_optimizer

    run = RECIPES["tiny"].config if variant == "tiny" else config.TrainConfig()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    model = ClickSegmenter(run.model).to(device).train()
    optimizer = build_optimizer(model, run.optim, run.model.depth)
    batch = made_batch(run, batch_size, device)

    def step(count: int, at_once: bool) -> None:
        losses: list[torch.Tensor] = []
        icl.icl_step(model, batch, run.loss, count, backward=torch.Tensor.backward if at_once else losses.append)
        if losses:
            torch.stack(losses).sum().backward()
        optimizer.step()

    # Gradients and moments exist before the measured steps.
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = resident(device)
    begin = time.perf_counter()
    for _ in range(STEPS):
        step(clicks, per_step)
    seconds = (time.perf_counter() - begin) / STEPS
    peak = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else peak_resident()
    return {"before": before, "peak": peak, "seconds": seconds}


def resident(device: object) -> float:
    """MiB in use now: on the GPU what torch has allocated, else the resident set."""
    import torch

    if str(device).startswith("cuda"):
        return torch.cuda.memory_allocated() / 2**20
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def peak_resident() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=("tiny", "base"), default="base")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(measure(args.variant, args.batch, *CASES[args.case])))
        return
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(
        f"ICL memory, {args.variant}, batch {args.batch}; {platform.processor() or platform.machine()}, commit {commit}"
    )
    print(f"{'case':<36}{'before MiB':>12}{'peak MiB':>10}{'step MiB':>10}{'seconds':>9}{'step / 1 click':>16}")
    one = 0.0
    for case in CASES:
        command = [sys.executable, __file__, "--variant", args.variant, "--batch", str(args.batch), "--case", case]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        r = json.loads(done.stdout.splitlines()[-1])
        own = r["peak"] - r["before"]
        one = one or own
        print(f"{case:<36}{r['before']:>12.0f}{r['peak']:>10.0f}{own:>10.0f}{r['seconds']:>9.1f}{own / one:>16.2f}")


if __name__ == "__main__":
    main()
