"""Objects per second of evaluation at several batch sizes, where the time goes, and how often batches change clicks.

    python -m benchmarks.evaluation [--variants tiny vit_b] [--batches 1 8 16] [--objects N] [--clicks N]
    python -m benchmarks.evaluation --ties [--steps 0 1] [--data FOLDER FOLDER] [--devices cuda]

Objects come from folders of images and masks (`data.readers.folder`); tiny is a checkpoint, vit_b has random weights,
null is no network: a few operations of constant cost at the same shapes, so that its passes per second are what all the
rest allows.
Speed: every object is clicked to the budget, so that all batch sizes do the same work; flip, crop 448, float32. A pass
is one object through the network, with its mirror image. Shares are of busy time, the main loop's and its helper
threads' together; waiting for helpers does not count. Other programs on the machine disturb wall times much, CPU times
(of all threads) little. `--ties` evaluates by the published rules (20 clicks, IoU 95 %) and compares the clicks of
larger batches with those of batch 1; with `--bf16` also those of forward passes in bfloat16.
"""

from __future__ import annotations

import argparse
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.stream import commit, processor
from pipeline.config import Cfr, Eval, Model
from pipeline.data.images import decode_sample
from pipeline.data.readers import open_reader
from pipeline.evaluate import batch, cfr, zoom
from pipeline.evaluate.batch import evaluate_objects
from pipeline.evaluate.metrics import IOU_LEVELS, noc
from pipeline.evaluate.shared import Network, ObjectResult, Target
from pipeline.model.checkpoints import load_model
from pipeline.model.precision import forward_precision, set_float32
from pipeline.model.segmenter import ClickSegmenter

STAGES = ["forward", "crop+resize", "next click", "IoU", "waiting"]
WRAPPED: list[tuple[ModuleType, str, str]] = [
    (zoom, "resize", "crop+resize"),
    (zoom, "resize_back", "crop+resize"),
    (cfr, "next_click_center", "next click"),
    (cfr, "iou", "IoU"),
    (batch, "end_clicks", "next click"),  # on a GPU: distances and IoU of a whole batch
    (batch, "_settle", "waiting"),
]
# Objects (0: all) and clicks of a variant when no option says otherwise: minutes on 2 cores.
WORK = {
    ("null", "cpu"): (64, 3),
    ("tiny", "cpu"): (24, 3),
    ("vit_b", "cpu"): (8, 1),
    ("null", "cuda"): (0, 10),
    ("tiny", "cuda"): (0, 10),
    ("vit_b", "cuda"): (0, 10),
}


class Clock:
    """Wall seconds inside of functions, summed over threads."""

    def __init__(self, device: str) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._device, self._lock = device, threading.Lock()

    def wrap(self, function: Callable, stage: str) -> Callable:
        on_device = self._device == "cuda" and stage in ("forward", "crop+resize")

        def call(*args, **kwargs):
            if on_device:
                torch.cuda.synchronize()
            start = time.perf_counter()
            result = function(*args, **kwargs)
            if on_device:
                torch.cuda.synchronize()
            with self._lock:
                self.seconds[stage] += time.perf_counter() - start
            return result

        return call

    @contextmanager
    def running(self) -> Iterator[None]:
        """Time the functions of `WRAPPED` inside of the block."""
        own = [getattr(module, name) for module, name, _ in WRAPPED]
        try:
            for (module, name, stage), function in zip(WRAPPED, own):
                setattr(module, name, self.wrap(function, stage))
            yield
        finally:
            for (module, name, _), function in zip(WRAPPED, own):
                setattr(module, name, function)


def read_targets(folder: str) -> list[Target]:
    """All objects of a folder; key: (folder, image, object)."""
    reader = open_reader("folder", folder)
    samples = [decode_sample(reader.read(item)) for item in reader.items()]
    return [Target((folder, s.image_id, k), s.image, s.target(k)) for s in samples for k in range(len(s.objects))]


class Null(torch.nn.Module):
    """Smooth blobs from the image's brightness, at the cost of shrinking and growing one channel."""

    def forward(self, image: torch.Tensor, prev_mask: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        small = F.avg_pool2d(image[:, :1], 32)
        logits = 16 * (small - small.mean(dim=(2, 3), keepdim=True))
        return F.interpolate(logits, size=prev_mask.shape[2:], mode="bilinear", align_corners=False)


def network(variant: str, checkpoint: str, device: str) -> Network:
    if variant == "null":
        return Null().eval().to(device)
    if variant == "tiny":
        return load_model(checkpoint)[0].eval().to(device)
    torch.manual_seed(0)
    return ClickSegmenter(Model()).eval().to(device)


def measure(model: Network, targets: Sequence[Target], rules: Eval, size: int, device: str) -> list[float]:
    """[objects/s, passes/s, seconds/click, CPU seconds/pass, shares of forward, crop+resize, next click, IoU, rest]."""
    clock = Clock(device)
    with clock.running():
        start, cpu = time.perf_counter(), time.process_time()
        timed = clock.wrap(model, "forward")
        results = list(evaluate_objects(timed, targets, Cfr(), rules, size, device, threads=cores()))
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    spent = clock.seconds
    rest = max(0.0, wall - spent["forward"] - spent["crop+resize"] - spent.pop("waiting"))
    parts = np.array([*spent.values(), rest])
    passes, clicks = (sum(sum(r.forwards) for r in results), sum(len(r.clicks) for r in results))
    return [len(results) / wall, passes / wall, wall / clicks, cpu / passes, *(parts / parts.sum()).tolist()]


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def speed(options: argparse.Namespace, targets: list[Target]) -> None:
    """One table: a row for each variant, device and batch size."""
    shares = ["forward", "crop+resize", "distance maps, next click", "IoU", "rest"]
    heads = [
        "network",
        "device",
        "batch",
        "objects",
        "clicks",
        "objects/s",
        "passes/s",
        "s/click",
        "CPU s/pass",
        *shares,
    ]
    print(f"| {' | '.join(heads)} |\n|---|---|{'---:|' * (len(heads) - 2)}")
    for device in options.devices:
        for variant in options.variants:
            model = network(variant, options.checkpoint, device)
            objects, clicks = WORK[variant, device]
            objects, clicks = options.objects or objects or len(targets), options.clicks or clicks
            rules = Eval(max_clicks=clicks, full_curve=True)
            for size in options.batches:
                few = [targets[i % len(targets)] for i in range(max(objects, size))]
                measure(model, few[:1], Eval(max_clicks=1), 1, device)  # warm up
                rate, passes, click, cpu, *parts = measure(model, few, rules, size, device)
                row = [variant, device, str(size), str(len(few)), str(clicks)]
                row += [
                    f"{rate:.3g}",
                    f"{passes:.3g}",
                    f"{click:.3g}",
                    f"{cpu:.3g}",
                    *(f"{part:.1%}" for part in parts),
                ]
                print(f"| {' | '.join(row)} |", flush=True)


def first_difference(one: ObjectResult, other: ObjectResult) -> int:
    """Number (from 1) of the first click that differs or that only one of the two has; 0: none."""
    for number, (a, b) in enumerate(zip(one.clicks, other.clicks), start=1):
        if a != b:
            return number
    shorter = min(len(one.clicks), len(other.clicks))
    return 0 if len(one.clicks) == len(other.clicks) else shorter + 1


def ties(options: argparse.Namespace, targets: list[Target]) -> None:
    """One table: a row for each folder, CFR-n and batch size; then the objects that differ."""
    device = options.devices[-1]
    model = network("tiny", options.checkpoint, device)
    sizes = sorted({1, *options.batches})
    rules = Eval(max_clicks=options.clicks or 20)
    noc_heads = " | ".join(f"NoC@{level} (difference)" for level in IOU_LEVELS)
    print(
        f"| objects of | CFR-n | batch | objects | clicks differ | {noc_heads} | largest IoU difference, same clicks |"
        " CPU ms/pass |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    notes = []
    for steps in options.steps:
        alone: dict[tuple[str, str, int], ObjectResult] = {}
        for size, half in [*((size, False) for size in sizes), *((size, True) for size in sizes if options.bf16)]:
            used = time.process_time()
            with forward_precision("bf16" if half else "fp32", torch.device(device)):
                results = evaluate_objects(
                    model, targets, Cfr(steps=steps, crop=options.crop), rules, size, device, threads=cores()
                )
                found = {r.key: r for r in results}
            passes = sum(sum(r.forwards) for r in found.values())
            cost = f"{1e3 * (time.process_time() - used) / passes:.1f}"
            label = f"{size}, bf16" if half else str(size)
            alone = alone or found
            first = {key: first_difference(alone[key], found[key]) for key in alone}
            notes += [f"CFR-{steps}, batch {label}: {key[1]} from click {n}" for key, n in first.items() if n]
            for folder in [*options.data, "all"]:
                keys = [key for key in alone if folder in (key[0], "all")]
                if not keys:
                    continue
                name = "all" if folder == "all" else "/".join(Path(folder).parts[-2:])
                row = [name, str(steps), label, str(len(keys)), str(sum(first[key] > 0 for key in keys))]
                for level in IOU_LEVELS:
                    own, base = (
                        np.mean([noc(r[key].ious, level, rules.max_clicks) for key in keys]) for r in (found, alone)
                    )
                    row.append(f"{own:.3f} ({own - base:+.3f})")
                same = [key for key in keys if not first[key]]
                gaps = [np.abs(np.subtract(alone[key].ious, found[key].ious)).max() for key in same]
                print(f"| {' | '.join(row)} | {max(gaps, default=0.0):.1e} | {cost} |", flush=True)
    print("\nFirst differing clicks: " + ("; ".join(notes) or "none") + ".")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(os.environ.get("CFR_ICL_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    sample, golden = shared / "data" / "sample" / "eval", shared / "golden" / "public"
    parser.add_argument("--checkpoint", default=str(golden / "tiny.pth"), help="of the variant tiny")
    parser.add_argument("--data", nargs="+", default=[], help="folders of images and masks")
    parser.add_argument("--variants", nargs="+", default=["tiny", "vit_b"], choices=["null", "tiny", "vit_b"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 16])
    parser.add_argument("--objects", type=int, default=0, help="0: by variant; at least one batch; repeated if too few")
    parser.add_argument("--clicks", type=int, default=0, help="click budget; 0: by variant, 20 with --ties")
    parser.add_argument("--ties", action="store_true", help="compare clicks between batch sizes instead")
    parser.add_argument("--bf16", action="store_true", help="with --ties: compare bfloat16 passes too")
    parser.add_argument("--steps", nargs="+", type=int, default=[0, 1], help="n of CFR-n with --ties")
    parser.add_argument("--crop", type=int, default=Cfr().crop, help="pixels a side with --ties; 128 for small")
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    parser.add_argument("--devices", nargs="+", default=devices, choices=devices, help="--ties takes the last")
    options = parser.parse_args()
    set_float32(tf32=False)
    options.data = options.data or [str(sample), *([str(golden / "eval")] if options.ties else [])]
    torch.set_num_threads(cores())
    targets = [target for folder in options.data for target in read_targets(folder)]
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    print(f"{processor()}, {cores()} cores{gpu}; Python {platform.python_version()}, ", end="")
    print(f"torch {torch.__version__}, OpenCV {cv2.__version__}; commit {commit()}\n")
    if options.ties:
        ties(options, targets[: options.objects or None])
    else:
        speed(options, targets)


if __name__ == "__main__":
    main()
