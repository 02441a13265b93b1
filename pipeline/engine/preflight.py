"""What the cluster can give and what its machines see, checked before work starts."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import uuid
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline import storage
from pipeline.engine.capacity import Node, growth, refuse
from pipeline.errors import Unavailable, UserError

NODE_CHECK_SECONDS = 120.0  # a machine that has not looked at the storage by then is reported


def nodes() -> list[Node]:
    """The machines of the cluster that are alive."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Node(resources.get("CPU", 0.0), resources.get("GPU", 0.0)) for resources in alive]


def capacity() -> list[Node]:
    """What work may ask for: the machines there are, or all that an autoscaling cluster can grow to, as one.

    Ray does not tell how far an autoscaler may go; such a cluster says it in CFR_ICL_GROWS_TO (`cluster.growth`).
    """
    limit = os.environ.get("CFR_ICL_GROWS_TO", "")
    return [growth(limit)] if limit else nodes()


def require(cpus: float, gpus: float, what: str) -> None:
    """Fail at once when the cluster can never give what a job asks for (Ray would wait for ever).

    Raises:
        UserError: naming what was asked for and what there is.
    """
    refuse(capacity(), cpus, gpus, what)
    await_machines(cpus, gpus)


def await_machines(cpus: float, gpus: float) -> None:
    """Say that work waits for machines which an autoscaler adds, if it does."""
    now = nodes()
    if cpus > sum(node.cpus for node in now) + 1e-6 or gpus > sum(node.gpus for node in now) + 1e-6:
        print("waiting for the cluster to add machines, which takes some minutes", file=sys.stderr, flush=True)


def check_everywhere(inputs: Sequence[str], out: str = "") -> None:
    """Make sure that every machine of the cluster sees the inputs and the output folder, before work starts.

    A local path that is not on a shared file system, or credentials that only the driver has, would otherwise be found
    when the work has been running for hours.

    Args:
        inputs: files or folders that exist for this process.
        out: folder that this process writes to, and other machines will; "": none.

    Raises:
        UserError: naming the machine and what it does not see.
    """
    alive = [node for node in ray.nodes() if node["Alive"]]
    if len(alive) < 2:
        return
    marker = storage.join(out, f".seen-{uuid.uuid4().hex}") if out else ""
    if marker:
        storage.write_bytes(marker, b"")
    try:
        look: Any = ray.remote(num_cpus=0)(_unseen)
        asked = {
            look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                [*inputs, *([marker] if marker else [])]
            ): node["NodeManagerAddress"]
            for node in alive
        }
        waiting = list(asked)
        deadline = time.monotonic() + NODE_CHECK_SECONDS
        while waiting:
            ready, waiting = ray.wait(waiting, timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                raise UserError(
                    f"Machine {asked[waiting[0]]} of the cluster did not answer within {NODE_CHECK_SECONDS:g} s. "
                    "Look at its log, or remove it."
                )
            with contextlib.suppress(RayError):  # a machine lost meanwhile does no work
                missing = ray.get(ready[0])
                if missing:
                    raise UserError(_unshared(missing, marker, out, asked[ready[0]]))
    finally:
        if marker:
            storage.remove(marker)


def _unseen(uris: list[str]) -> str:
    """The first URI that does not exist on this machine, with the storage's complaint if it has one; "" if all do."""
    for uri in uris:
        try:
            if not storage.exists(uri):
                return uri
        except (UserError, Unavailable) as error:
            return f"{uri} ({error})"
    return ""


def _unshared(missing: str, marker: str, out: str, address: str) -> str:
    what = out if marker and missing.startswith(marker) else missing
    return (
        f"Machine {address} of the cluster does not see {what}, which this machine does. On several machines every "
        "path must be on a shared file system or on object storage (s3://, gs://), and all need the credentials."
    )
