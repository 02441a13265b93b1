"""One training job through many faults: after each, its next checkpoint is that of a run nothing happened to.

The tests run in their order on one job; a test whose fault ends the job leaves it to the next to submit it again with
the same command. Each can be run alone.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator

import pytest
from mlflow import MlflowClient

from pipeline import storage
from pipeline.model.checkpoints import find_checkpoint
from pipeline.train.state import complete_checkpoints, step_of
from tests.faulty_s3 import WRITING

from .conftest import Reference, errors_in
from .faulted_run import FaultedRun
from .local_cluster import EVERY, STEPS, Local, contents, last_step, unfinished, until

SAME = "nothing: the next checkpoint equals that of a run without the fault, bit by bit"
REDONE = f"the steps since the last checkpoint (at most {EVERY} here), done again; {SAME[9:]}"
Note = Callable[..., None]


@pytest.fixture(scope="module")
def hurt(local: Local, reference: Reference) -> Iterator[FaultedRun]:
    run = FaultedRun(local, reference.train, reference.run)
    yield run
    run.close()


@pytest.fixture(autouse=True)
def _healed(hurt: FaultedRun) -> Iterator[None]:
    yield
    hurt.s3.heal()
    hurt.mlflow.mode = "on"


def test_loss_of_an_augmentation_worker(hurt: FaultedRun, local: Local, noted: Note) -> None:
    hurt.submit()
    for _ in range(2):
        local.kill("make_block")  # while it makes samples that the first steps wait for
    seconds = hurt.next()
    noted("SIGKILL of an augmentation worker", "its task is run again in another process", SAME, seconds)


def test_503_to_every_third_request(hurt: FaultedRun, noted: Note) -> None:
    since = hurt.going()
    hurt.s3.slow_down_every = 3
    seconds = hurt.next(since + EVERY)  # one that was written wholly under it
    assert hurt.s3.counts["503"] > 5
    noted("S3 answers 503 to every third request", "requests are repeated with growing pauses", SAME, seconds)


def test_connections_cut_in_mid_body(hurt: FaultedRun, noted: Note) -> None:
    since = hurt.going()
    hurt.s3.cut_every = 2
    seconds = hurt.next(since + 2 * EVERY)
    assert hurt.s3.counts["cut"] > 2
    noted("S3 cuts every second answer in mid-body", "the bytes are asked for again", SAME, seconds)


def test_mlflow_stops_and_starts_again(hurt: FaultedRun, noted: Note) -> None:
    hurt.going()
    hurt.mlflow.stop()
    hurt.next()
    seconds = hurt.next()
    until(lambda: "cannot be reached" in hurt.logs(), "the complaint", 30)
    noted(
        "MLflow stops and starts again",
        "training goes on; what was to be logged is kept and sent when the server is back (or by `jobs.track_sync`)",
        "nothing: one run, every value once",
        seconds,
    )


def test_loss_of_a_training_worker(hurt: FaultedRun, local: Local, noted: Note) -> None:
    since = hurt.going()
    local.kill("RayTrainWorker")
    seconds = hurt.next(since)
    noted("SIGKILL of a training worker", "the engine starts all workers from the last checkpoint", REDONE, seconds)


def test_a_training_worker_that_hangs(hurt: FaultedRun, local: Local, noted: Note) -> None:
    since = hurt.going()
    start = time.monotonic()
    local.kill("RayTrainWorker", signal.SIGSTOP)
    pattern = r"rank [01] of training .* has given no sign of life for .*; last it was .* It was killed"
    until(lambda: re.search(pattern, hurt.logs()), "the message", 90)
    hurt.next(since)
    assert "(raylet)" not in hurt.logs() and "\x1b[" not in hurt.logs()
    seconds = time.monotonic() - start
    happens = "it is found by the signs of life it does not give, named, killed and started again like a lost one"
    noted("SIGSTOP of a training worker (`train.hang_seconds` 20 instead of 600)", happens, REDONE, seconds)


def test_an_augmentation_worker_that_hangs(hurt: FaultedRun, local: Local, noted: Note) -> None:
    since = hurt.going()
    local.kill("make_block", signal.SIGSTOP)
    seconds = hurt.next(since + EVERY)
    until(lambda: "an augmentation worker (process" in hurt.logs(), "the message", 60)
    happens = "it is found like that, named and killed; its task is run again in another process"
    noted("SIGSTOP of an augmentation worker (the same)", happens, SAME, seconds)


def test_loss_of_a_node_that_is_replaced(hurt: FaultedRun, local: Local, noted: Note) -> None:
    since = hurt.going()
    with local.without(local.workers()[0]):
        pass
    seconds = hurt.next(since)
    noted("SIGKILL of a whole node, replaced", "the workers start again when the new node is there", REDONE, seconds)


def test_read_only_while_a_checkpoint_is_written(hurt: FaultedRun, noted: Note) -> None:
    since = hurt.going()
    begun: list[str] = []

    def refuse(method: str, path: str) -> bool:
        """From the second file of the next checkpoint on nothing can be written."""
        if method in WRITING and "/optimizer" in path:
            begun.append(path)
        return bool(begun) and method in WRITING

    hurt.s3.refuse = refuse
    said = hurt.ended()
    assert hurt.exit_code == 2
    assert any("optimizer" in e and "cannot be written: access denied" in e for e in errors_in(said))
    saved = last_step(hurt.out)
    (half,) = unfinished(hurt.out)
    assert since <= saved < step_of(half)
    assert [uri.rsplit("/", 1)[1] for uri in storage.list_files(half)] == ["model.safetensors"]
    assert step_of(find_checkpoint(hurt.out)) == saved, "the half-written checkpoint was picked up"
    hurt.s3.heal()
    hurt.going()
    assert unfinished(hurt.out) == []
    noted(
        "S3 turns read-only while a checkpoint is written",
        "one message, exit code 2; the half-written checkpoint does not count; the same command continues",
        REDONE,
    )


def test_ray_job_stop_saves(hurt: FaultedRun, noted: Note) -> None:
    for _ in range(4):
        since = hurt.going()
        hurt.stop()
        said, saved = hurt.logs(), last_step(hurt.out)
        assert "stopping: saving what is done" in said
        assert f"stopped at step {saved}" in said and saved > since
        if saved % EVERY:  # one that came only because of the signal; one time in five it is a regular one too
            break
    else:
        pytest.fail("no checkpoint was made for the signal")
    seconds = hurt.submit_and_next()
    noted(
        "SIGTERM (`ray job stop`, the end of a pod)",
        "a checkpoint is written, the job ends with 143; the same command continues",
        SAME,
        seconds,
    )


def test_loss_of_the_driver(hurt: FaultedRun, local: Local, noted: Note) -> None:
    hurt.going()
    for pid in local.processes(hurt.out):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not local.processes("RayTrainWorker"), "the end of the workers", 60)
    seconds = hurt.submit_and_next()
    noted("SIGKILL of the driver", "its workers end too; the same command continues", REDONE, seconds)


def test_in_the_end_everything_is_as_if_nothing_had_happened(
    hurt: FaultedRun, local: Local, reference: Reference
) -> None:
    if not hurt.runs and last_step(hurt.out) < STEPS:
        hurt.submit()
    said = hurt.ended()
    assert hurt.exit_code == 0, said
    steps = [step_of(uri) for uri in complete_checkpoints(hurt.out)]
    regular = [step for step in steps if step % EVERY == 0]
    assert regular == list(range(0, STEPS + 1, EVERY)) and unfinished(hurt.out) == []
    for step in regular:
        assert contents(hurt.out, step) == contents(reference.run, step), step
    client = MlflowClient(local.env["MLFLOW_TRACKING_URI"])
    experiments = [e.experiment_id for e in client.search_experiments()]
    (run,) = client.search_runs(experiments, f"tags.out = '{hurt.out}'")
    assert run.info.status == "FINISHED"
    logged = [m.step for m in client.get_metric_history(run.info.run_id, "train/loss")]
    assert logged == list(range(5, STEPS + 1, 5))
