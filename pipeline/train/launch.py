"""The driver's side of training: check resources, start the Ray Train workers, pass their news on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from pipeline import config, config_io, runtime, storage
from pipeline.errors import UserError
from pipeline.train.loop import Validate, train_worker
from pipeline.train.relay import Event, Relay

OnEvent = Callable[[Event], None]


def preflight(run: config.TrainConfig) -> None:
    """Refuse what the cluster can never give: training workers, and one CPU at least for the stream.

    Raises:
        UserError: saying what there is.
    """
    workers = run.train.workers
    what = f"Training with {workers} worker(s) of {run.train.cpus_per_worker:g} CPU, plus 1 CPU for the data stream,"
    runtime.require(workers * run.train.cpus_per_worker + 1, workers if run.train.gpu else 0, what)


def deliver(events: list[Event], on_event: OnEvent, failures: list[Exception]) -> None:
    """Pass events on; what fails (a full disk, say) is kept for the end and stops neither training nor later events."""
    for event in events:
        try:
            on_event(event)
        except Exception as error:
            failures.append(error)


def fit(run: config.TrainConfig, validate: Validate | None, on_event: OnEvent, mlflow_run: str | None) -> None:
    """Train, or continue training, until `run.total_steps`; returns when done.

    Args:
        run: the complete config; `run.out` holds the checkpoints to continue from.
        validate: see `loop.Validate`; None: no validation.
        on_event: called in a thread of this process with rank 0's news.
        mlflow_run: noted in the checkpoints.

    Raises:
        UserError: a mistake found in a worker, with its message.
        Exception: the first that `on_event` raised, once training has ended.
    """
    preflight(run)
    relay: Any = ray.remote(Relay).options(num_cpus=0).remote()  # pyright: ignore[reportFunctionMemberAccess]
    resources = {"CPU": run.train.cpus_per_worker, **({"GPU": 1} if run.train.gpu else {})}
    engine = storage.join(run.out, "ray")  # the engine's own bookkeeping
    filesystem, path = storage.filesystem(engine)
    storage.remove(engine)
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={
            "config": config_io.to_dict(run),
            "relay": relay,
            "validate": validate,
            "mlflow_run": mlflow_run,
        },
        scaling_config=ScalingConfig(
            num_workers=run.train.workers, use_gpu=run.train.gpu, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name="run",
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=run.train.max_failures),
        ),
    )
    stop = threading.Event()
    failures: list[Exception] = []

    def listen() -> None:
        while True:
            ended = stop.wait(0.5)
            deliver(ray.get(relay.take.remote()), on_event, failures)
            if ended:
                return

    listener = threading.Thread(target=listen, name="training-events", daemon=True)
    listener.start()
    try:
        trainer.fit()
    finally:
        stop.set()
        listener.join(timeout=60)
        fatal = ray.get(relay.fatal.remote())
        if fatal:
            raise UserError(fatal)
    storage.remove(engine)
    if failures:
        raise failures[0]
