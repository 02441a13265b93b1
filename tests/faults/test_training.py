"""Training through the loss of workers, tasks, nodes and drivers, and through stop signals.

Every run has the reference's options, so nothing lost and nothing doubled means equal weights, bit by bit.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pipeline import storage
from pipeline.model.checkpoints import find_checkpoint, read_state

from .conftest import Reference
from .local import EVERY, ROOT, SMALL, STEPS, UNTRACKED, Local, last_step, until, weights

SAME = "nothing: the same weights as without the fault, bit by bit"
REDONE = f"the steps since the last checkpoint (at most {EVERY} here), done again; {SAME[9:]}"


def train_args(reference: Reference, out: str, *more: str) -> list[str]:
    return ["-m", "jobs.train", "tiny", "--data.train", reference.train, "--out", out, *SMALL, *UNTRACKED, *more]


def running(local: Local, reference: Reference, out: str, log: Path, *more: str) -> subprocess.Popen[bytes]:
    """A run that has written its checkpoint of step 10 and has not ended."""
    driver = local.start(*train_args(reference, out, *more), log=log)
    until(lambda: last_step(out) >= EVERY, "a checkpoint", alive=driver)
    assert last_step(out) < STEPS, "the run ended before anything could happen to it"
    return driver


def next_checkpoint(out: str, since: int, driver: subprocess.Popen[bytes]) -> float:
    """Seconds until there is a newer checkpoint than that of step `since`."""
    start = time.monotonic()
    until(lambda: last_step(out) > since, "the next checkpoint", alive=driver)
    return time.monotonic() - start


def ended_well(driver: subprocess.Popen[bytes], log: Path) -> None:
    assert driver.wait(200) == 0, log.read_text()[-6000:]


def test_loss_of_a_training_worker(
    local: Local, reference: Reference, tmp_path: Path, noted: Callable[..., None]
) -> None:
    out, log = f"{local.bucket}/worker", tmp_path / "log"
    driver = running(local, reference, out, log)
    since = last_step(out)
    local.kill("RayTrainWorker")
    seconds = next_checkpoint(out, since, driver)
    ended_well(driver, log)
    assert weights(out) == weights(reference.run)
    noted("SIGKILL of a training worker", "the engine starts all workers from the last checkpoint", REDONE, seconds)


def test_loss_of_an_augmentation_worker(
    local: Local, reference: Reference, tmp_path: Path, noted: Callable[..., None]
) -> None:
    out, log = f"{local.bucket}/augmentation", tmp_path / "log"
    driver = local.start(*train_args(reference, out), log=log)
    for _ in range(2):
        local.kill("make_block")  # while it makes samples that the first steps wait for
    start = time.monotonic()
    until(lambda: last_step(out) >= EVERY, "a checkpoint", alive=driver)
    seconds = time.monotonic() - start
    ended_well(driver, log)
    assert weights(out) == weights(reference.run)
    noted("SIGKILL of an augmentation worker", "its task is run again in another process", SAME, seconds)


def test_loss_of_a_node_that_is_replaced(
    local: Local, reference: Reference, tmp_path: Path, noted: Callable[..., None]
) -> None:
    out, log = f"{local.bucket}/node", tmp_path / "log"
    driver = running(local, reference, out, log)
    since = last_step(out)
    start = time.monotonic()
    with local.without(local.workers()[0]):
        pass
    next_checkpoint(out, since, driver)
    seconds = time.monotonic() - start
    ended_well(driver, log)
    assert weights(out) == weights(reference.run)
    noted("SIGKILL of a whole node, replaced", "the workers start again when the new node is there", REDONE, seconds)


def test_loss_of_the_driver(local: Local, reference: Reference, tmp_path: Path, noted: Callable[..., None]) -> None:
    out, log = f"{local.bucket}/driver", tmp_path / "log"
    driver = running(local, reference, out, log)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    until(lambda: not local.processes("RayTrainWorker"), "the end of the workers", 60)
    since = last_step(out)
    assert since < STEPS, "the run had ended"
    start = time.monotonic()
    again = local.start(*train_args(reference, out), log=log)
    next_checkpoint(out, since, again)
    seconds = time.monotonic() - start
    ended_well(again, log)
    assert f"continuing tiny at step {since} of {STEPS}" in log.read_text()
    assert weights(out) == weights(reference.run)
    noted("SIGKILL of the driver", "the workers end too; the same command continues", REDONE, seconds)


def test_ray_job_stop_saves_and_the_same_job_continues(
    local: Local, reference: Reference, tmp_path: Path, noted: Callable[..., None]
) -> None:
    from ray.job_submission import JobSubmissionClient

    out = f"{local.bucket}/stopped"
    client = JobSubmissionClient(local.env["RAY_API_SERVER_ADDRESS"])
    args = train_args(reference, out)[2:]
    job = client.submit_job(
        entrypoint=" ".join([sys.executable, "jobs/train.py", *args]),
        runtime_env={"working_dir": str(ROOT), "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60"}},
    )
    until(lambda: last_step(out) >= EVERY, "a checkpoint")
    start = time.monotonic()
    client.stop_job(job)
    until(lambda: client.get_job_status(job).is_terminal(), "the end of the job", 90)
    seconds = time.monotonic() - start
    said = client.get_job_logs(job)
    assert client.get_job_status(job).value == "STOPPED", said
    assert "stopping: saving what is done" in said and "is saved, and the same command continues it" in said
    saved = last_step(out)
    assert EVERY < saved < STEPS and saved % EVERY, f"no checkpoint was made for the stop, the last is of step {saved}"
    local.run(*train_args(reference, out), log=tmp_path / "log")
    assert weights(out) == weights(reference.run)
    noted(
        "SIGTERM (`ray job stop`, the end of a pod)",
        "a checkpoint is written, then the job ends with 143; the same command continues",
        SAME,
        seconds,
    )


def test_too_few_machines_end_with_a_message(
    local: Local, reference: Reference, tmp_path: Path, noted: Callable[..., None]
) -> None:
    """Elastic training goes on with fewer workers; without enough of them the run gives up after its time."""
    out, log = f"{local.bucket}/elastic", tmp_path / "log"
    extra = local.add_node()
    more = ["--train.workers", "3", "--train.min-workers", "2", "--train.batch", "12", "--train.wait-for-workers", "60"]
    driver = local.start(*train_args(reference, out, *more), log=log, RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S="10")
    until(lambda: last_step(out) >= EVERY, "a checkpoint", alive=driver)
    since = last_step(out)
    assert read_state(find_checkpoint(out))["position"]["world"] == 3
    start = time.monotonic()
    local.kill_node(extra)
    next_checkpoint(out, since, driver)
    seconds = time.monotonic() - start
    ended_well(driver, log)
    state = read_state(find_checkpoint(out))
    assert (state["step"], state["position"]["world"]) == (STEPS, 2)
    noted(
        "SIGKILL of a node, not replaced, `train.min_workers` set",
        "training goes on with the workers that are left, the batch unchanged",
        "the steps since the last checkpoint, done again",
        seconds,
    )


def test_a_loss_that_is_no_number_is_kept_for_a_look(
    local: Local, reference: Reference, tmp_path: Path, noted: Callable[..., None]
) -> None:
    out = f"{local.bucket}/nan"
    args = train_args(reference, out, "--optim.lr", "1e18", "--optim.warmup-steps", "0", "--optim.clip-norm", "0")
    said = local.run(*args, log=tmp_path / "log", expect=2)
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "at step" in errors[0] and "samples (chunk/row image)" in errors[0]
    assert "Traceback" not in said
    assert last_step(out) == 0
    (why,) = storage.list_files(f"{out}/failed", ".json")[:1]
    about = json.loads(storage.read_bytes(why))
    folder = why.rsplit("/", 1)[0]
    assert about["samples"] and storage.exists(f"{folder}/model.safetensors")
    assert storage.exists(f"{folder}/batch_rank_{about['rank']}.safetensors")
    noted("a loss that is NaN or explodes", "one message names step and samples; weights and batch are kept", "-")
