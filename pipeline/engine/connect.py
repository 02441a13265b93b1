"""Connect to a cluster, or start Ray on this machine."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

import ray
from ray._private import services
from ray._private import worker as ray_worker

from pipeline.engine import machine, stop
from pipeline.errors import Unavailable, UserError
from pipeline.redact import mask_uris

MESSAGE = 400  # characters kept of a message of the engine
NO_NEWS = (
    "worker processes have been started on node",  # our helper processes wait, and take no CPU
    "ServeController.graceful_shutdown failed",  # Serve kills what it has asked to end
)


def connect(min_cpus: int = 4) -> None:
    """Connect to the cluster of RAY_ADDRESS (set inside `ray job submit`), else start Ray on this machine.

    A small machine is given `min_cpus` logical CPUs: a training worker and the stream's tasks need one each, and they
    share the cores well.

    Raises:
        UserError, Unavailable: what `pipeline.engine.machine` finds, or what the engine's error means.
    """
    if ray.is_initialized():
        return
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    machine.check_working_folder()
    machine.raise_open_files()
    address = machine.cluster_address()
    try:
        _start(address, min_cpus)
    except (UserError, Unavailable):
        raise
    except Exception as error:
        meaning = machine.explain(error)
        if address or not isinstance(meaning, Unavailable):
            raise meaning or error from error
        ray.shutdown()
        print("Ray did not start in time; it is tried once more", file=sys.stderr, flush=True)
        try:
            _start(address, min_cpus)
        except Exception as again:
            raise machine.explain(again) or again from again
    stop.listen()  # after ray.init, which sets handlers of its own


def _start(address: str, min_cpus: int) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    ray_worker.print_to_stdstream = tell_plainly
    with _apart():
        if address:
            ray.init(address=address, **quiet)
            return
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # nobody takes this machine away
        ray.init(
            address="local",  # never a cluster that happens to run on this machine: RAY_ADDRESS=auto asks for that
            num_cpus=max(machine.usable_cpus(), min_cpus),
            object_store_memory=machine.store_bytes(),
            include_dashboard=False,
            _temp_dir=machine.engine_folder(),
            **quiet,
        )


def tell_plainly(message: dict[str, Any], ignore_prefix: bool = False) -> None:
    """Print what the engine's daemon tells a driver: one plain line on stderr, in place of coloured paragraphs.

    What is in `NO_NEWS` is left out.

    Args:
        message: "lines": texts.
        ignore_prefix: as the engine calls it; not used.
    """
    for text in message["lines"]:
        line = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split())
        if line and not any(text in line for text in NO_NEWS):
            print(f"engine: {mask_uris(line)[:MESSAGE]}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _apart() -> Iterator[None]:
    """Start the engine's processes in process groups of their own: signals to a job's group are not meant for them."""
    original = services.ConsolePopen

    class Apart(original):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{"process_group": 0, **kwargs})

    services.ConsolePopen = Apart
    try:
        yield
    finally:
        services.ConsolePopen = original
