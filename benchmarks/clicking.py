"""What a click of `Predictor` takes beside its forward passes, by the size of the photograph.

    python -m benchmarks.clicking [--checkpoint small] [--cfr-steps 0] [--clicks 20]

Clicks are spread over random pixels, so that masks and crops change; times are CPU times of all threads, medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

import numpy as np
import torch

from benchmarks.stream import commit, processor
from pipeline import Predictor
from pipeline.evaluate.shared import Network

SIZES = ((480, 640), (1080, 1920), (3000, 4000))


class Timed:
    """A network that adds up its CPU seconds."""

    def __init__(self, network: Network) -> None:
        self.network, self.seconds = network, 0.0

    def __call__(self, image: torch.Tensor, prev_mask: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        start = time.process_time()
        logits = self.network(image, prev_mask, points)
        self.seconds += time.process_time() - start
        return logits


def measure(loaded: Predictor, size: tuple[int, int], clicks: int) -> tuple[float, float, float, float]:
    """CPU ms: of set_image, of a click, of the forward passes in it, of taking one back."""
    timed = Timed(loaded._model)
    predictor = Predictor(timed, loaded.cfr, loaded.device)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (*size, 3), np.uint8)
    start = time.process_time()
    predictor.set_image(pixels)
    setting = time.process_time() - start
    whole, network, back = [], [], []
    for number in range(clicks):
        timed.seconds, start = 0.0, time.process_time()
        predictor.click(int(rng.integers(size[1])), int(rng.integers(size[0])), number % 2 == 0)
        whole.append(time.process_time() - start)
        network.append(timed.seconds)
    for _ in range(5):
        start = time.process_time()
        predictor.undo()
        back.append(time.process_time() - start)
    return (1e3 * setting, *(1e3 * statistics.median(times) for times in (whole, network, back)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="small")
    parser.add_argument("--cfr-steps", type=int, default=0)
    parser.add_argument("--clicks", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1, help="more of them wait for each other on a busy machine")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    loaded = Predictor.load(options.checkpoint, cfr_steps=options.cfr_steps, device="cpu")
    print(f"{processor()}, {os.cpu_count()} cores; torch {torch.__version__}; commit {commit()}")
    print(f"{options.checkpoint}, crop {loaded.cfr.crop}, CFR-{options.cfr_steps}, {options.threads} thread(s)\n")
    print("| photograph | set_image, ms | a click, ms | forward passes in it, ms | beside them | undo, ms |")
    print("|---|---:|---:|---:|---:|---:|")
    for size in SIZES:
        setting, whole, network, back = measure(loaded, size, options.clicks)
        share = whole / network - 1
        name = f"{size[1]} x {size[0]}"
        print(f"| {name} | {setting:.1f} | {whole:.1f} | {network:.1f} | {share:.0%} | {back:.1f} |")


if __name__ == "__main__":
    main()
