"""The driver's side of training: check resources, start the Ray Train workers, pass their news on."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.train import ControllerError, FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline import config, storage
from pipeline.config import io as config_io
from pipeline.engine import stop as stop_signals
from pipeline.engine.capacity import check_workers
from pipeline.engine.preflight import await_machines, capacity, check_everywhere
from pipeline.engine.progress import duration
from pipeline.engine.watch import QUIET_SECONDS, watching
from pipeline.errors import Unavailable, UserError, user_error_in
from pipeline.train.mailbox import Event, Mailbox
from pipeline.train.state import complete_checkpoints, step_of
from pipeline.train.trainer import Validate, train_worker

OnEvent = Callable[[Event], None]
LISTEN_SECONDS = 0.5  # between two looks at the workers' news


def preflight(run: config.TrainConfig) -> None:
    """Refuse what the cluster can never give, and paths that only this machine sees.

    Raises:
        UserError: saying what there is.
    """
    train, workers = run.train, run.train.min_workers or run.train.workers
    check_workers(capacity(), train, workers)
    await_machines(workers * train.cpus_per_worker + 1, workers if train.gpu else 0)
    inputs = [run.data.train, run.data.val, run.model.start_uri]
    check_everywhere([uri for uri in inputs if uri], run.out)


class MistakeEnds(UserCallback):
    """Ends training when a worker has found a user's mistake; the engine would start the workers again."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for error in worker_exceptions.values():
            if mistake := user_error_in(error):
                raise mistake


def deliver(events: list[Event], on_event: OnEvent, failures: list[Exception]) -> None:
    """Pass events on; what fails (a full disk, say) is kept for the end and stops neither training nor later events."""
    for event in events:
        try:
            on_event(event)
        except Exception as error:
            failures.append(error)


def fit(
    run: config.TrainConfig,
    validate: Validate | None,
    on_event: OnEvent,
    mlflow_run: str | None,
    stop: threading.Event | None = None,
) -> bool:
    """Train, or continue training, until `run.total_steps` or until SIGTERM or `stop`, which save first.

    Args:
        run: the complete config; `run.out` holds the checkpoints to continue from.
        validate: see `trainer.Validate`; None: no validation.
        on_event: called in a thread of this process with rank 0's news.
        mlflow_run: noted in the checkpoints.
        stop: set by another thread to end training early.

    Returns:
        Whether all steps are done.

    Raises:
        UserError: a mistake found in a worker, with its message.
        Unavailable: machines that were lost, and not replaced in time; storage that does not answer.
        Exception: the first that `on_event` raised, once training has ended.
    """
    preflight(run)
    # On this machine, so that it lives as long as the driver does.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(Mailbox)
    mailbox = actor.options(num_cpus=0, scheduling_strategy=here).remote()
    engine = storage.join(run.out, "ray")  # the engine's own bookkeeping
    storage.remove(engine)
    job = {"mailbox": mailbox, "validate": validate, "mlflow_run": mlflow_run}
    ended, wish = threading.Event(), stop or threading.Event()
    failures: list[Exception] = []

    def listen() -> None:
        begun = told = time.monotonic()
        deliver([Event("phase", 0, f"starting {run.train.workers} training worker(s)")], on_event, failures)
        heard = False
        while True:
            last = ended.wait(LISTEN_SECONDS)
            if wish.is_set():
                mailbox.stop.remote()
            events = ray.get(mailbox.drain.remote())
            heard, now = heard or bool(events), time.monotonic()
            if not heard and now - told > QUIET_SECONDS:
                told, text = now, f"the workers have not started after {duration(now - begun)}: machines or imports"
                deliver([Event("phase", 0, text)], on_event, failures)
            deliver(events, on_event, failures)
            if events:
                mailbox.acknowledge.remote(len(events))
            if last:
                return

    listener = threading.Thread(target=listen, name="training-events", daemon=True)
    listener.start()
    try:
        with stop_signals.stoppable(wish.set), watching(run.train.hang_seconds) as signs:
            stop_signals.beside(_trainer(run, engine, {**job, "signs": signs}).fit)
    except ControllerError as error:
        raise translate_error(error, run) from error
    finally:
        ended.set()
        listener.join(timeout=60)
    storage.remove(engine)
    if failures:
        raise failures[0]
    checkpoints = complete_checkpoints(run.out)
    return bool(checkpoints) and step_of(checkpoints[-1]) >= run.total_steps


def _trainer(run: config.TrainConfig, engine: str, job: dict[str, Any]) -> TorchTrainer:
    train = run.train
    resources = {"CPU": train.cpus_per_worker, **({"GPU": 1} if train.gpu else {})}
    filesystem, path = storage.arrow_filesystem(engine)
    return TorchTrainer(
        train_worker,
        train_loop_config={"config": config_io.to_dict(run), **job},
        scaling_config=ScalingConfig(
            num_workers=(train.min_workers, train.workers) if train.min_workers else train.workers,
            use_gpu=train.gpu,
            resources_per_worker=resources,
        ),
        run_config=RunConfig(
            name="run",
            callbacks=[MistakeEnds()],
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(
                max_failures=train.max_failures,
                controller_failure_limit=math.ceil(train.wait_for_workers / _start_seconds()),
            ),
        ),
    )


def _start_seconds() -> float:
    """Length of one try of the engine to start the workers (`pipeline.engine` sets it)."""
    return float(os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"])


def translate_error(error: ControllerError, run: config.TrainConfig) -> Exception:
    """What an error of the engine's controller says to a user."""
    cause = error.controller_failure
    if isinstance(cause, UserError):
        return cause
    if "Timeout" in type(cause).__name__:
        return Unavailable(
            f"The machines for {run.train.min_workers or run.train.workers} training worker(s) were not there within "
            f"{run.train.wait_for_workers} s (train.wait_for_workers). The same command continues from what was saved."
        )
    return Unavailable(f"The training engine failed: {' '.join(str(cause).split())[:500]}. The same command continues.")
