"""Evaluation that loses actors and nodes; MLflow that stops and starts again; a machine that is about to be taken."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from mlflow import MlflowClient

from pipeline import storage
from tests.e2e.conftest import Switch

from .conftest import Reference, evaluation_args
from .local import EVERY, STEPS, Local, last_step, until
from .test_storage import results
from .test_training import train_args

SLOW = ("--full-curve", "--no-tracking", "--actors", "2")  # objects are clicked to the budget: time to hurt it


def evaluated(out: str, steps: tuple[int, ...]) -> list[tuple]:
    rows = results(out)
    keys = [(r["dataset"], r["cfr_steps"], r["image_id"], r["object_id"]) for r in rows]
    assert len(set(keys)) == len(keys), "an object is there twice"
    assert {key[1] for key in keys} == set(steps)
    return keys


def test_loss_of_an_actor_and_of_a_node_in_evaluation(
    local: Local, reference: Reference, tmp_path: Path, noted: Callable[..., None]
) -> None:
    out, log = f"{local.bucket}/hurt-evaluation", tmp_path / "log"
    args = evaluation_args(reference, reference.run, out)
    args[args.index("--max-clicks") + 1] = "20"
    driver = local.start("-m", "jobs.evaluate", *args, *SLOW, log=log)

    def parts() -> int:
        return len(storage.list_files(f"{out}/parts", ".parquet"))

    until(parts, "a first part", alive=driver)
    local.kill("Evaluator")
    start, before = time.monotonic(), parts()
    until(lambda: parts() > before, "the next part", alive=driver)
    actor_seconds = time.monotonic() - start
    with local.without(local.workers()[0]):
        start, before = time.monotonic(), parts()
        until(lambda: parts() > before, "the next part", alive=driver)
        node_seconds = time.monotonic() - start
    assert driver.wait(200) == 0, log.read_text()[-5000:]
    found, expected = results(out), results(reference.evaluation)
    key = ("dataset", "cfr_steps", "image_id", "object_id")
    assert [[row[k] for k in key] for row in found] == [[row[k] for k in key] for row in expected]
    for row, alone in zip(found, expected, strict=True):
        assert row["clicks"][: len(alone["clicks"])] == alone["clicks"]
    assert storage.exists(f"{out}/report.html")
    noted(
        "SIGKILL of an evaluation actor",
        "its item goes to another; each object once in objects.parquet",
        "nothing: the item is evaluated again",
        actor_seconds,
    )
    noted(
        "SIGKILL of a node that evaluates",
        "its items go to the actors that are left",
        "nothing: the items are evaluated again",
        node_seconds,
    )


def test_mlflow_stops_and_starts_again(
    local: Local, reference: Reference, tmp_path: Path, noted: Callable[..., None]
) -> None:
    out, log = f"{local.bucket}/untold", tmp_path / "log"
    address = local.env["MLFLOW_TRACKING_URI"]
    switch = Switch(int(address.rsplit(":", 1)[1]))
    args = [a for a in train_args(reference, out) if a != "--tracking.no-enabled"]
    driver = local.start(*args, "--tracking.uri", switch.uri, log=log)
    until(lambda: last_step(out) >= EVERY, "a checkpoint", alive=driver)
    switch.stop()
    assert driver.wait(200) == 0, log.read_text()[-5000:]
    assert "cannot be reached" in log.read_text() and "track_sync" in log.read_text()
    switch.mode = "on"
    start = time.monotonic()
    said = local.run("-m", "jobs.track_sync", out, "--uri", switch.uri, log=tmp_path / "sync")
    seconds = time.monotonic() - start
    switch.close()
    client = MlflowClient(address)
    experiments = [e.experiment_id for e in client.search_experiments()]
    (found,) = client.search_runs(experiments, f"tags.out = '{out}'")
    assert found.info.status == "FINISHED", said
    history = client.get_metric_history(found.info.run_id, "train/loss")
    assert [m.step for m in history] == list(range(5, STEPS + 1, 5))
    noted(
        "MLflow stops during training, for good or for a while",
        "training goes on; what was to be logged is kept and sent when the server is back, or by `jobs.track_sync`; "
        "one run, every value once",
        "nothing",
        seconds,
    )


def test_a_notice_that_a_machine_will_be_taken(
    local: Local, reference: Reference, tmp_path: Path, noted: Callable[..., None]
) -> None:
    out, log = f"{local.bucket}/noticed", tmp_path / "log"
    node = local.add_node()
    # Three workers, so that one is on the new node; only the notice makes a checkpoint after the first.
    more = [
        "--train.workers",
        "3",
        "--train.batch",
        "12",
        "--train.steps",
        "100000",
        "--train.checkpoint-every",
        "99999",
    ]
    driver = local.start(
        *train_args(reference, out, *more), log=log, RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S="0.5", PYTHONUNBUFFERED="1"
    )
    until(lambda: "steps" in log.read_text(), "some steps", alive=driver)
    local.drain(node)
    start = time.monotonic()
    until(lambda: last_step(out) > 0, "a checkpoint because of the notice", alive=driver)
    seconds = time.monotonic() - start
    assert last_step(out) % 5 == 0
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    local.kill_node(node)
    noted(
        "notice that a machine will be taken (spot, drained node)",
        "a checkpoint is written at once and at every look until the machine goes",
        "at most the steps between two log lines",
        seconds,
    )
