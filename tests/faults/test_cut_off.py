"""A machine that is cut off from the others, in a network namespace: its work goes to those that are left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.made import rows_of_blobs, write_checkpoint, write_dataset

from .conftest import results
from .local_cluster import ROOT, processes_below, until

HEAD, NODE = "10.213.7.1", "10.213.7.2"
PORT = 20_000 + os.getpid() % 10_000
SPACE = f"cfr{os.getpid()}"
NEAR, FAR = f"{SPACE}a", f"{SPACE}b"
# The engine's own are 3 s, 10 s and 5 times: up to a minute.
PATIENCE = {"health_check_period_ms": 1000, "health_check_timeout_ms": 3000, "health_check_failure_threshold": 3}


def ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True, capture_output=True)


@pytest.fixture
def cable() -> Iterator[None]:
    """A network namespace with an address of its own, and a cable to it."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("a network namespace takes root and iproute2")
    ip(f"netns add {SPACE}")
    try:
        ip(f"link add {NEAR} type veth peer name {FAR} netns {SPACE}")
        ip(f"addr add {HEAD}/24 dev {NEAR}")
        ip(f"link set {NEAR} up")
        ip(f"-n {SPACE} addr add {NODE}/24 dev {FAR}")
        ip(f"-n {SPACE} link set {FAR} up")
        ip(f"-n {SPACE} link set lo up")
        yield
    finally:
        subprocess.run(["ip", "link", "del", NEAR], check=False, capture_output=True)
        ip(f"netns del {SPACE}")


@pytest.fixture
def parts() -> Iterator[Callable[[Sequence[str]], int]]:
    """parts([command, ...]): run a part of the cluster until the test ends, with all that it starts; its process."""
    running: list[subprocess.Popen[bytes]] = []

    def start(command: Sequence[str]) -> int:
        call = [sys.executable, str(ROOT / "cluster" / "local_part.py"), SPACE, *command]
        running.append(subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        return running[-1].pid

    yield start
    for part in running:
        part.send_signal(signal.SIGUSR1)
    for part in running:
        part.wait(60)


def test_an_actor_that_hangs_and_a_node_that_is_cut_off(
    cable: None, parts: Callable[[Sequence[str]], int], tmp_path: Path, noted: Callable[..., None]
) -> None:
    rows = rows_of_blobs(80)
    data, checkpoint, out = write_dataset(tmp_path / "data", rows), write_checkpoint(tmp_path / "run"), tmp_path / "out"
    ray = [str(Path(sys.executable).parent / "ray"), "start", "--block", "--num-cpus", "2", "--disable-usage-stats"]
    ray += ["--object-store-memory", "200000000", "--temp-dir"]
    with tempfile.TemporaryDirectory(prefix="cfr", dir="/tmp") as short:
        head = ["--head", "--port", str(PORT), "--include-dashboard", "false", "--node-ip-address", HEAD]
        started = [parts([*ray, f"{short}/head", *head, "--system-config", json.dumps(PATIENCE)])]
        until(lambda: answers(HEAD, PORT), "the head")
        inside = ["ip", "netns", "exec", SPACE]
        parts([*inside, *ray, f"{short}/node", "--node-ip-address", NODE, "--address", f"{HEAD}:{PORT}"])
        args = ["-m", "jobs.evaluate", "--checkpoint", checkpoint, "--data", f"made={data}", "--out", str(out)]
        args += ["--full-curve", "--no-tracking", "--actors", "4", "--cfr-steps", "0", "4", "--hang-seconds", "20"]
        environment = {**os.environ, "RAY_ADDRESS": f"{HEAD}:{PORT}", "CFR_ICL_GROWS_TO": "CPU=4"}
        log = tmp_path / "log"
        with log.open("wb") as file:
            driver = subprocess.Popen([sys.executable, *args], cwd=ROOT, env=environment, stdout=file, stderr=file)
        try:
            until(lambda: list(out.glob("parts/*.parquet")), "a first part", alive=driver)
            os.kill(processes_below({started[0]}, "InferenceActor")[0], signal.SIGSTOP)
            stopped = time.monotonic()
            ip(f"link set {NEAR} down")
            cut = time.monotonic()
            until(lambda: "an inference actor (process" in log.read_text(), "the message", alive=driver)
            hang = time.monotonic() - stopped
            assert driver.wait(300) == 0, log.read_text()[-5000:]
            seconds = time.monotonic() - cut
        finally:
            driver.kill()
            driver.wait()
    found = [(row["cfr_steps"], row["image_id"], row["object_id"]) for row in results(str(out))]
    assert sorted(found) == sorted((n, row.image_id, k) for n in (0, 4) for row in rows for k in (0, 1))
    said = log.read_text()
    assert "It was killed, and is started again." in said, said[-5000:]
    assert "Its machine does not answer either." in said or "marked dead" in said, said[-5000:]
    noted(
        "SIGSTOP of an inference actor (`--hang-seconds` 20 instead of 600)",
        "it is found by the signs of life it does not give, named and killed; its item goes to another actor",
        "nothing: its item is evaluated again, each object is once in objects.parquet",
        hang,
    )
    noted(
        "a node cut off from the others while it evaluates",
        "the engine gives it up (here after some seconds, by default within a minute); its items go to the actors left",
        "nothing: each object is once in objects.parquet",
        seconds,
    )


def answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True
