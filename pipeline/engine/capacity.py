"""What a cluster's machines are used for: pure arithmetic over their shapes, which `preflight` reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.config import Train
from pipeline.errors import UserError

ENOUGH_CPUS = 4
"""CPUs for each training GPU with which the CPU-only machines make all samples: a core makes 166 samples of 448 pixels
a second (benchmarks/results.md), more than one GPU trains on."""


@dataclass(frozen=True)
class Node:
    """A machine that is alive, by the resources it was started with."""

    cpus: float
    gpus: float = 0.0


def growth(text: str) -> Node:
    """All that an autoscaling cluster may grow to, as one machine: 'CPU=160,GPU=2' (CFR_ICL_GROWS_TO).

    Raises:
        UserError: something else.
    """
    try:
        limits = {kind.strip(): float(most) for kind, most in (part.split("=") for part in text.split(","))}
        return Node(limits.pop("CPU"), limits.pop("GPU", 0.0))
    except (ValueError, KeyError) as error:
        raise UserError(f"CFR_ICL_GROWS_TO is {text!r}; it should read like CPU=160,GPU=2.") from error


def refuse(nodes: Sequence[Node], cpus: float, gpus: float, what: str) -> None:
    """Refuse more CPUs or GPUs than all machines have.

    Raises:
        UserError: naming what was asked for and what there is.
    """
    have = {"CPU": sum(node.cpus for node in nodes), "GPU": sum(node.gpus for node in nodes)}
    for kind, other, asked in (("GPU", "CPU", gpus), ("CPU", "GPU", cpus)):
        if asked > have[kind] + 1e-6:
            raise UserError(
                f"{what} asks for {asked:g} {kind}s, but the cluster has {have[kind]:g} "
                f"(and {have[other]:g} {other}s). Ask for fewer, or add machines."
            )


def stream_cpus(nodes: Sequence[Node], train: Train, world: int) -> float:
    """CPUs that make samples while `world` workers train.

    GPU machines train; where CPU-only machines have enough CPUs, they alone make the samples (the engine prefers them
    for tasks without a GPU). Elsewhere every CPU that training leaves free makes samples.
    """
    free = sum(node.cpus for node in nodes) - world * train.cpus_per_worker
    aside = sum(node.cpus for node in nodes if not node.gpus)
    return aside if train.gpu and aside >= ENOUGH_CPUS * world else free


def stream_tasks(nodes: Sequence[Node], train: Train, world: int, wanted: int = 0) -> int:
    """Augmentation tasks that may run at once for each of `world` training workers.

    Args:
        wanted: what the user asks for; 0: as many as the cluster's shape suggests.

    Raises:
        UserError: the training workers leave no CPU for the stream (it would wait for ever).
    """
    cpus = stream_cpus(nodes, train, world)
    if cpus < 1:
        raise UserError(
            f"{world} training workers with {train.cpus_per_worker:g} CPUs each leave no CPU of the cluster's "
            f"{sum(node.cpus for node in nodes):g} for making samples: use fewer train.workers or a smaller "
            "train.cpus_per_worker."
        )
    return wanted or max(1, math.floor(cpus / world))


def check_workers(nodes: Sequence[Node], train: Train, workers: int) -> None:
    """Refuse what the cluster can never give: `workers` training workers, and one CPU at least for the stream.

    Args:
        nodes: all machines that there are, or that an autoscaler may add.

    Raises:
        UserError: saying what was asked for, what there is, and what to change.
    """
    what = f"Training with {workers} worker(s) of {train.cpus_per_worker:g} CPU, plus 1 CPU for the data stream,"
    refuse(nodes, workers * train.cpus_per_worker + 1, workers if train.gpu else 0, what)
    room = [_fit(node, train) for node in nodes]
    fit = sum(room)
    if fit < workers:
        raise UserError(
            f"A training worker needs {train.cpus_per_worker:g} CPU{' and 1 GPU' if train.gpu else ''} on one machine, "
            f"and the cluster's {len(nodes)} machines have room for {fit} of {workers}. Ask for fewer, or add machines."
        )
    beside = [_fit(Node(node.cpus - 1, node.gpus), train) if node.cpus >= 1 else -fit for node in nodes]
    if max(fit - own + with_stream for own, with_stream in zip(room, beside, strict=True)) < workers:
        raise UserError(
            f"With {workers} training workers of {train.cpus_per_worker:g} CPUs each no machine has a whole CPU left "
            "for the data stream. Use fewer train.workers, or another train.cpus_per_worker."
        )


def runs_at_once(nodes: Sequence[Node], train: Train) -> int:
    """Training runs of one shape that fit the machines beside one another, each with a CPU for its stream; at least 1.

    Args:
        nodes: for which `check_workers` finds room for one.
    """
    by_workers = sum(_fit(node, train) for node in nodes) // train.workers
    by_cpus = math.floor((sum(node.cpus for node in nodes) + 1e-6) / (train.workers * train.cpus_per_worker + 1))
    return max(1, min(by_workers, by_cpus))


def _fit(node: Node, train: Train) -> int:
    """Training workers that fit one machine."""
    by_cpu = math.floor((node.cpus + 1e-6) / train.cpus_per_worker) if train.cpus_per_worker else 10**6
    return min(by_cpu, math.floor(node.gpus)) if train.gpu else by_cpu
