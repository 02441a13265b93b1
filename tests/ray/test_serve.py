"""`jobs.serve` as a command: the masks of an evaluation over HTTP, a lost replica, what it refuses, and a clean end."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import requests

from jobs import evaluate, prepare
from jobs import serve as command
from pipeline import Predictor
from pipeline.config import Eval
from pipeline.data.images import decode_sample
from pipeline.data.manifest import load_manifest, read_group
from pipeline.data.readers import open_reader
from pipeline.engine import lease
from pipeline.errors import UserError
from pipeline.evaluate.batch import evaluate_objects
from pipeline.evaluate.cfr import Replay, Session
from pipeline.evaluate.results import decode_mask
from pipeline.evaluate.shared import Target
from tests.conftest import ROOT, Exits

CLICKS, CLIENTS = 3, 4


Objects = list[tuple[str, list[dict[str, Any]], list[np.ndarray]]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def served(*words: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The URL and the process of a server of `small`."""
    given = ["--checkpoint", "small", "--port", str(free_port()), *words]
    job = subprocess.Popen([sys.executable, "-m", "jobs.serve", *given], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert job.stdout is not None
        url = next(line.split()[1] for line in job.stdout if line.startswith("Annotator: "))
        yield url.rstrip("/"), job
    finally:
        if job.poll() is None:
            job.send_signal(signal.SIGINT)
        job.wait(timeout=120)


def ask(url: str, name: str, image: str, clicks: list[dict[str, Any]], **more: Any) -> requests.Response:
    return requests.post(f"{url}/api/masks", json={"image": image, "name": name, "clicks": clicks, **more}, timeout=120)


def whole(answer: dict[str, Any], size: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(size, np.bool_)
    x, y, width, height = answer["box"]
    if width:
        mask[y : y + height, x : x + width] = decode_mask(base64.b64decode(answer["png"]))
    return mask


def recorded(photos: Path) -> Objects:
    """File, clicks and masks after each click of every photograph's object, as `jobs.evaluate` computes them."""
    reader = open_reader("folder", str(photos))
    samples = [decode_sample(reader.read(item)) for item in reader.items()]
    predictor = Predictor.load("small")
    found: dict[int, tuple[list[Any], list[np.ndarray]]] = {n: ([], []) for n in range(len(samples))}

    def keep(number: int, session: Session | Replay) -> None:
        clicks, masks = found[number]
        clicks[:] = session.clicks
        masks.append(session.mask.copy())

    targets = [Target(n, sample.image, sample.target(0)) for n, sample in enumerate(samples)]
    list(
        evaluate_objects(
            predictor.network, targets, predictor.cfr, Eval(max_clicks=CLICKS, full_curve=True), observe=keep
        )
    )
    files = {path.stem: path.name for path in (photos / "img").iterdir()}
    return [
        (
            files[sample.image_id],
            [{"x": c.col, "y": c.row, "positive": c.positive} for c in found[n][0][:CLICKS]],
            found[n][1],
        )
        for n, sample in enumerate(samples)
    ]


def test_masks_of_an_evaluation_by_several_people_and_over_a_lost_replica(
    shared: Path, ray_session: None, exits: Exits, tmp_path: Path
) -> None:
    photos, out = shared / "data" / "sample" / "eval", tmp_path / "out"
    objects = recorded(photos)
    with served("--images", str(photos / "img"), "--out", str(out), "--replicas", "2") as (url, job):
        images = {name: requests.get(f"{url}/api/images/{name}", timeout=60) for name, _, _ in objects}
        shas = {name: answer.headers["X-Image"] for name, answer in images.items()}

        def click(number: int) -> None:
            """Click by click, then all at once, then as an upload that other replicas have not seen."""
            name, clicks, masks = objects[number]
            for count, mask in enumerate(masks, 1):
                answer = ask(url, name, shas[name], clicks[:count]).json()
                assert np.array_equal(whole(answer, mask.shape), mask)
            headers = {"Content-Type": "application/octet-stream"}
            sent = requests.put(f"{url}/api/uploads", images[name].content, headers=headers, timeout=60).json()
            assert sent["image"] == shas[name]
            body = {"image": shas[name], "clicks": clicks, "label": "thing", "version": None}
            saved = requests.put(f"{url}/api/results/{name}/one", json=body, timeout=120)
            assert saved.status_code == 200, saved.text

        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(click, range(len(objects))))
        with pytest.raises(UserError, match="is being written by"), lease.held(str(out), "a test"):
            pass
        kill_replica(job.pid)
        name, clicks, masks = objects[0]
        until, answer = time.monotonic() + 120, None
        while answer is None or answer.status_code >= 500:  # what a client does: the same again
            assert time.monotonic() < until
            with contextlib.suppress(requests.ConnectionError):
                answer = ask(url, name, shas[name], clicks)
        assert np.array_equal(whole(answer.json(), masks[-1].shape), masks[-1])
        job.send_signal(signal.SIGINT)
        assert job.wait(timeout=120) == 0
    with pytest.raises(requests.ConnectionError):
        requests.get(url, timeout=10)
    assert not (out / lease.FILE).exists()
    assert len(json.loads((out / "annotations.json").read_text())["annotations"]) == len(objects) == 24
    read_back(out, objects, exits, tmp_path)


def read_back(out: Path, objects: Objects, exits: Exits, tmp_path: Path) -> None:
    """What was saved is a data set for the commands that the server names at its end."""
    shards, evaluation = str(tmp_path / "shards"), tmp_path / "evaluation"
    code, _, said = exits(prepare.job, "coco-instances", "--root", str(out), "--out", shards)
    assert code == 0, said
    rows = [row for shard in load_manifest(shards).shards for row in read_group(shards, shard.path, 0)]
    read = {row.image_id: decode_sample(row).target(0) == 1 for row in rows}
    assert len(read) == len(objects)
    for name, _, masks in objects:
        assert np.array_equal(next(read[key] for key in (name, Path(name).stem) if key in read), masks[-1])
    words = ["--checkpoint", "small", "--data", f"mine={shards}", "--cfr-steps", "0", "--max-clicks", "2"]
    code, _, said = exits(evaluate.job, *words, "--no-tracking", "--out", str(evaluation))
    assert code == 0, said
    assert pq.read_table(evaluation / "objects.parquet").num_rows == len(objects)


def kill_replica(job: int) -> None:
    """End the first process below a server that answers clicks."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    below = {str(job)}
    for _ in range(5):  # the driver, its raylet, their workers
        below |= {pid for pid, parent, _ in rows if parent in below}
    os.kill(int(next(pid for pid, _, args in rows if pid in below and "ServeReplica" in args)), signal.SIGKILL)


def test_what_is_refused_before_anything_starts(exits: Exits, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = str(taken.getsockname()[1])
        (tmp_path / "short").write_text("abc")
        for words, message in (
            (["--checkpoint", "small", "--port", busy], "choose another --port"),
            (["--checkpoint", "nowhere"], "nowhere"),
            (["--checkpoint", "small", "--images", str(tmp_path / "none")], "There is no folder of images"),
            (["--checkpoint", "small", "--host", "192.0.2.77"], "choose another --port or --host"),
            (["--checkpoint", "small", "--token-file", str(tmp_path / "short")], "at least 16"),
            (["--checkpoint", "small", "--crop", "450"], "crop"),
        ):
            code, _, said = exits(command.job, *words)
            assert code == 2 and message in said and "Traceback" not in said
    held = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "out")], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert held.stdout is not None and held.stdout.readline()
        code, _, said = exits(command.job, "--checkpoint", "small", "--out", str(tmp_path / "out"))
        assert code == 2 and "is being written by" in said
    finally:
        held.kill()
        held.wait()


HOLD = """
import sys, time
from pipeline.engine import lease
with lease.held(sys.argv[1], "jobs.serve"):
    print("held", flush=True)
    time.sleep(600)
"""
