"""Training end to end on a real Ray: kill and continue, two workers, `ray job submit`, mistakes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.data.readers.synthetic import write_synthetic
from pipeline.model.checkpoints import load_model
from pipeline.train.state import complete_checkpoints

ROOT = Path(__file__).resolve().parents[2]
STEPS = 8
SMALL = [
    *("--data.crop", "64", "--data.min-object-area", "20", "--data.chunk", "8", "--cfr.crop", "64"),
    *("--model.train-size", "64", "--model.dim", "48", "--train.batch", "4", "--train.log-every", "2"),
    *("--train.steps", str(STEPS), "--train.checkpoint-every", "3", "--train.val-every", "4"),
    *("--train.val-objects", "2", "--eval.max-clicks", "3"),
]

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def run_job(*args: str, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *args]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=280)
    if check and done.returncode:
        raise AssertionError(f"{command} exited {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}")
    return done


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Small prepared training and validation sets."""
    folder = tmp_path_factory.mktemp("shards")
    write_synthetic(str(folder / "raw"), train=24, val=6, seed=1, size=(96, 120))
    for split in ("train", "val"):
        root = ["--root", str(folder / "raw"), "--split", split, "--out", str(folder / split)]
        run_job("-m", "jobs.prepare", "coco-lvis", *root, cwd=folder)
    return str(folder / "train"), str(folder / "val")


def train_args(shards: tuple[str, str], out: Path, *more: str) -> list[str]:
    data = ["--data.train", shards[0], "--data.val", shards[1]]
    return ["tiny", *data, "--out", str(out), *SMALL, *more]


@pytest.fixture(scope="session")
def clean_run(shards: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("clean")
    run_job("-m", "jobs.train", *train_args(shards, folder / "run"), cwd=folder)
    return folder / "run"


def final_weights(out: Path) -> bytes:
    return (out / "checkpoints" / f"step_{STEPS:08d}" / "model.safetensors").read_bytes()


def test_a_run_leaves_what_it_promises(clean_run: Path) -> None:
    assert json.loads((clean_run / "config.json").read_text())["recipe"] == "tiny"
    lines = [json.loads(line) for line in (clean_run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in lines if "train/loss" in row] == [2, 4, 6, 8]
    assert [row["step"] for row in lines if "val/noc90" in row] == [4, 8]
    assert list((clean_run / "pictures").glob("samples_*.png"))
    model, info = load_model(str(clean_run))
    assert info.step == STEPS
    assert info.mlflow_run
    assert model.config.dim == 48


def test_kill_and_continue_ends_with_the_same_weights(clean_run: Path, shards: tuple[str, str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    args = [sys.executable, "-m", "jobs.train", *train_args(shards, out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (tmp_path / "log").open("wb") as log:
        driver = subprocess.Popen(args, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + 200
    while not any(c.endswith("step_00000003") for c in complete_checkpoints(str(out))):
        assert driver.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.05)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    assert not (out / "checkpoints" / f"step_{STEPS:08d}").exists(), "killed too late to prove anything"

    done = run_job(*args[1:], cwd=tmp_path)
    assert "continuing tiny at step" in done.stdout
    assert final_weights(out) == final_weights(clean_run)
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))


def test_the_same_command_after_the_end_does_nothing(clean_run: Path, shards: tuple[str, str]) -> None:
    done = run_job("-m", "jobs.train", *train_args(shards, clean_run), cwd=clean_run.parent)
    assert "is complete" in done.stdout


def test_two_workers(shards: tuple[str, str], tmp_path: Path) -> None:
    run_job("-m", "jobs.train", *train_args(shards, tmp_path / "run", "--train.workers", "2"), cwd=tmp_path)
    state = json.loads((tmp_path / "run" / "checkpoints" / f"step_{STEPS:08d}" / "state.json").read_text())
    # 8 steps of 4 samples over 2 ranks, chunks of 8: two rounds of two chunks are consumed.
    assert state["position"] == {"chunk": 4, "row": 0, "world": 2, "rest": []}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--train.cpus-per-worker", "1000"], "asks for 1001 CPUs"),
        (["--train.gpu"], "asks for 1 GPUs"),
        (["--data.train", "/no/such/folder"], "/no/such/folder"),
        (["--optim.lrr", "1"], "optim.lr"),
        (["--model.start", "/no/such/checkpoint"], "There is no checkpoint"),
        (["--data.crop", "72"], "patch"),
    ],
)
def test_mistakes_are_one_message_and_exit_2(
    shards: tuple[str, str], tmp_path: Path, change: list[str], message: str
) -> None:
    done = run_job("-m", "jobs.train", *train_args(shards, tmp_path / "run", *change), cwd=tmp_path, check=False)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_unknown_recipe_names_the_nearest(tmp_path: Path) -> None:
    done = run_job("-m", "jobs.train", "tinny", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "Did you mean 'tiny'?" in done.stderr


def test_a_folder_with_another_run_is_refused(clean_run: Path, shards: tuple[str, str], tmp_path: Path) -> None:
    done = run_job("-m", "jobs.train", *train_args(shards, clean_run, "--optim.lr", "0.5"), cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "optim.lr was 0.003, now 0.5" in done.stderr


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_ray_job_submit_does_what_the_module_does(
    clean_run: Path, shards: tuple[str, str], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from ray.job_submission import JobSubmissionClient

    ports = {name: free_port() for name in ("port", "dashboard-port", "dashboard-agent-listen-port")}
    ports |= {name: free_port() for name in ("metrics-export-port", "runtime-env-agent-port")}
    ports |= {name: free_port() for name in ("dashboard-agent-grpc-port", "ray-client-server-port")}
    ray = str(Path(sys.executable).with_name("ray"))
    temp = tmp_path_factory.getbasetemp().parent / f"r{os.getpid()}"
    command = [ray, "start", "--head", "--block", "--num-cpus", "4", "--object-store-memory", "300000000"]
    command += ["--disable-usage-stats", "--temp-dir", str(temp), "--dashboard-host", "127.0.0.1"]
    command += [f"--{name}={port}" for name, port in ports.items()]
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    with (tmp_path / "head.log").open("wb") as log:
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        client = wait_for_jobs_api(f"http://127.0.0.1:{ports['dashboard-port']}", tmp_path / "head.log")
        out = tmp_path / "run"
        job = client.submit_job(
            entrypoint=" ".join([sys.executable, "jobs/train.py", *train_args(shards, out)]),
            runtime_env={"working_dir": str(ROOT), "excludes": [".git", ".venv", "docs", "tests/golden/data"]},
        )
        deadline = time.monotonic() + 240
        while not client.get_job_status(job).is_terminal():
            assert time.monotonic() < deadline, client.get_job_logs(job)
            time.sleep(1)
        assert client.get_job_status(job).value == "SUCCEEDED", client.get_job_logs(job)
        assert "steps" in client.get_job_logs(job)
        assert isinstance(client, JobSubmissionClient)
        assert final_weights(out) == final_weights(clean_run)
        assert (tmp_path / "mlflow.db").exists(), "without a tracking URI the store lies beside the run"
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        try:
            head.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)


def wait_for_jobs_api(address: str, log: Path):
    from ray.job_submission import JobSubmissionClient

    deadline = time.monotonic() + 120
    while True:
        try:
            return JobSubmissionClient(address)
        except (ConnectionError, RuntimeError):
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(1)
