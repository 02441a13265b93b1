"""What a click of the annotator takes over HTTP, with eight people clicking for a minute.

    python -m benchmarks.serving --images FOLDER [--checkpoint small] [--clients 8] [--seconds 60] [--side 4000]

Starts `jobs.serve` on loopback. Every client goes through the photographs: it loads one, clicks random places of it up
to ten times, saves the object, and takes the next one. A lost click is one that is answered by anything but a mask.
--side makes photographs of that many pixels a side first, for the time of large ones.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import requests
import torch

from benchmarks.stream import commit, processor
from pipeline import Predictor
from pipeline.data.images import decode_image

CLICKS = 10  # of an object
ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Seen:
    """What one client saw.

    Attributes:
        whole: seconds from sending a click to having its mask; `inside`: what the server says it took of them.
        saves: seconds of saving an object.
    """

    whole: list[float] = field(default_factory=list)
    inside: list[float] = field(default_factory=list)
    saves: list[float] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


@contextlib.contextmanager
def served(checkpoint: str, images: str, out: str, *more: str) -> Iterator[str]:
    """The URL of a server of its own process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    words = ["--checkpoint", checkpoint, "--images", images, "--out", out, "--port", port, *more]
    job = subprocess.Popen([sys.executable, "-m", "jobs.serve", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert job.stdout is not None
        url = next((line.split()[1] for line in job.stdout if line.startswith("Annotator: ")), "")
        if not url:
            raise SystemExit("jobs.serve did not start; what it said stands above.")
        yield url.rstrip("/")
    finally:
        job.send_signal(signal.SIGINT)
        job.wait(timeout=120)


def click_on(url: str, number: int, until: float, seen: Seen) -> None:
    """One client, until a time of the clock."""
    rng, session = random.Random(number), requests.Session()
    names = [one["name"] for one in session.get(f"{url}/api/images?count=1000").json()["images"]]
    rng.shuffle(names)
    turn = 0
    while time.monotonic() < until:
        name = names[turn % len(names)]
        turn += 1
        shown = session.get(f"{url}/api/images/{name}")
        height, width = decode_image(shown.content).shape[:2]
        asked: dict[str, Any] = {"image": shown.headers["X-Image"], "name": name, "clicks": []}
        for count in range(CLICKS):
            if time.monotonic() > until:
                return
            place = {"x": rng.randrange(width // 4, 3 * width // 4), "y": rng.randrange(height // 4, 3 * height // 4)}
            asked["clicks"].append({**place, "positive": count % 3 < 2})
            start = time.perf_counter()
            answer = session.post(f"{url}/api/masks", json=asked)
            seen.whole.append(time.perf_counter() - start)
            if answer.status_code != 200 or "png" not in answer.json():
                seen.lost.append(answer.text)
                continue
            seen.inside.append(answer.json()["milliseconds"] / 1e3)
        start = time.perf_counter()
        saved = session.put(f"{url}/api/results/{name}/{number}-{turn}", json={**asked, "label": "benchmark"})
        seen.saves.append(time.perf_counter() - start)
        if saved.status_code not in (200, 400):  # 400: the random clicks left no pixel
            seen.lost.append(saved.text)


def pass_seconds(checkpoint: str) -> list[float]:
    """CPU seconds of forward passes alone, on one thread: what else the machine does counts for nothing."""
    torch.set_num_threads(1)
    predictor = Predictor.load(checkpoint, device="cpu")
    side = predictor.cfr.crop
    points = torch.tensor([[[side / 2, side / 2, 0.0], [-1.0, -1.0, -1.0]]] * 2)
    inputs = torch.rand(2, 3, side, side), torch.rand(2, 1, side, side), points
    found = []
    with torch.inference_mode():
        for _ in range(60):
            start = time.process_time()
            predictor.network(*inputs)
            found.append(time.process_time() - start)
    return found[10:]


def enlarged(images: str, side: int, folder: str) -> str:
    """A folder of two of the photographs, enlarged to so many pixels of the longer side."""
    for path in sorted(Path(images).iterdir())[:2]:
        picture = cv2.imread(str(path))
        assert picture is not None, f"{path} is no image"
        scale = side / max(picture.shape[:2])
        cv2.imwrite(f"{folder}/{path.stem}.jpg", cv2.resize(picture, None, fx=scale, fy=scale))
    return folder


def row(name: str, seconds: list[float]) -> str:
    found = np.percentile(1e3 * np.array(seconds), [50, 95, 99]) if seconds else [np.nan] * 3
    return f"| {name} | {len(seconds)} | {' | '.join(f'{value:.0f}' for value in found)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True)
    parser.add_argument("--checkpoint", default="small")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--replicas", default="1")
    parser.add_argument("--side", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.mkdir(large := os.path.join(folder, "large"))
        images = enlarged(options.images, options.side, large) if options.side else options.images
        out = os.path.join(folder, "out")
        with served(options.checkpoint, images, out, "--replicas", options.replicas) as url:
            seen = [Seen() for _ in range(options.clients)]
            until = time.monotonic() + options.seconds
            clients = [threading.Thread(target=click_on, args=(url, n, until, one)) for n, one in enumerate(seen)]
            for client in clients:
                client.start()
            for client in clients:
                client.join()
    print(f"{processor()}, {os.cpu_count()} cores; torch {torch.__version__}; commit {commit()}")
    lost = [text for one in seen for text in one.lost]
    print(f"{options.checkpoint}, {options.clients} clients for {options.seconds:g} s; lost: {len(lost)} {lost[:3]}\n")
    print("| | number | p50, ms | p95, ms | p99, ms |")
    print("|---|---:|---:|---:|---:|")
    print(row("a click, over HTTP", [s for one in seen for s in one.whole]))
    print(row("of it, inside the server", [s for one in seen for s in one.inside]))
    print(row("saving an object", [s for one in seen for s in one.saves]))
    print(row("a forward pass alone, CPU time", pass_seconds(options.checkpoint)))
    sys.exit(1 if lost else 0)


if __name__ == "__main__":
    main()
