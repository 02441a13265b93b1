"""Many objects advance together, each with its own clicks, ROI and stopping point; the next takes an ended one's slot.

Two groups of `batch_size` slots take turns: while the network runs on one group, the distance maps and IoUs of the
other are computed in threads. Who shares a forward pass with whom depends only on the order of the targets, never on
timing, and `batch_size` 1 gives exactly the result of one object at a time. In larger batches matrix products may round
differently.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from pipeline.clicks.encode import Click, empty
from pipeline.config import Cfr, Eval
from pipeline.evaluate.cfr import RunInput, Session
from pipeline.evaluate.zoom import Box

Observer = Callable[[Any, Session], None]
"""Called with a target's key and its session after each finished click, `len(session.ious)` of them so far
(`session.clicks` may hold the next one already), before the session runs again; must not change the session."""


class Network(Protocol):
    """`pipeline.model.segmenter.ClickSegmenter`, or a stand-in: (B,3,S,S), (B,1,S,S), (B,2N,3) -> logits (B,1,S,S)."""

    def __call__(self, image: torch.Tensor, prev_mask: torch.Tensor, points: torch.Tensor) -> torch.Tensor: ...


@dataclass(frozen=True)
class Target:
    """One object to evaluate.

    Attributes:
        key: whatever the caller knows it by; comes back in the result.
        image: (H, W, 3) uint8 RGB.
        truth: (H, W) int8, 1 object (at least one pixel), 0 background, -1 ignore.
    """

    key: Any
    image: np.ndarray
    truth: np.ndarray


@dataclass(frozen=True)
class ObjectResult:
    """One evaluated object.

    Attributes:
        clicks, ious, forwards, rois: one entry per click; IoUs in double precision.
        seconds: its share of the wall time of the whole loop (every object in a slot gets an equal part of each turn):
            the seconds of all objects add up to the time the loop took.
    """

    key: Any
    clicks: list[Click]
    ious: list[float]
    forwards: list[int]
    rois: list[Box]
    seconds: float


@dataclass
class _Slot:
    key: Any
    session: Session
    seconds: float = 0.0
    pending: Future[None] | None = None


@dataclass
class _Group:
    slots: list[_Slot] = field(default_factory=list)


def evaluate_objects(
    model: Network,
    targets: Iterable[Target],
    cfr: Cfr,
    rules: Eval,
    batch_size: int = 1,
    device: torch.device | str = "cpu",
    threads: int = 1,
    observe: Observer | None = None,
) -> Iterator[ObjectResult]:
    """Evaluate objects, yielding each when it ends (with batch_size > 1 not in the order of `targets`).

    Args:
        model: in evaluation mode, on `device`.
        targets: taken as slots become free, so they can be decoded on the way.
        cfr: inner loop, zoom-in and crop; the same for all objects.
        rules: click budget and target.
        batch_size: objects that share a forward pass (each is two images when cfr.flip).
        device: of the model.
        threads: helpers that compute distance maps beside the forward pass; 0: one group only, nothing overlaps.
        observe: see `Observer`; called from helper threads.
    """
    waiting = iter(targets)
    groups = [_Group(), _Group()] if threads > 0 else [_Group()]
    with ThreadPoolExecutor(max(1, threads)) as pool:
        prepared: deque[tuple[Any, Future[Session]]] = deque()

        def prepare() -> None:
            """Keep as many sessions with their first click ready as one group may need."""
            while len(prepared) < batch_size and (target := next(waiting, None)) is not None:
                future = pool.submit(Session, target.image, target.truth, cfr, rules, device)
                prepared.append((target.key, future))

        last = time.perf_counter()
        while True:
            for group in groups:
                prepare()
                ended = _settle(group)
                while len(group.slots) < batch_size and prepared:
                    key, future = prepared.popleft()
                    group.slots.append(_Slot(key, future.result()))
                    prepare()
                if group.slots:
                    _advance(model, group.slots, device)
                    for slot in group.slots:
                        if slot.session.run_ended:
                            slot.pending = pool.submit(_end_click, slot, observe)
                now = time.perf_counter()
                active = ended + [slot for each in groups for slot in each.slots]
                for slot in active:
                    slot.seconds += (now - last) / len(active)
                for slot in ended:
                    yield _result(slot)
                last = time.perf_counter()
            if not any(group.slots for group in groups) and not prepared:
                return


def _settle(group: _Group) -> list[_Slot]:
    """Wait for the group's clicks; take out and return the slots whose object ended."""
    for slot in group.slots:
        if slot.pending is not None:
            slot.pending.result()
            slot.pending = None
    ended = [slot for slot in group.slots if slot.session.done]
    group.slots = [slot for slot in group.slots if not slot.session.done]
    return ended


def _end_click(slot: _Slot, observe: Observer | None) -> None:
    slot.session.end_click()
    if observe is not None:
        observe(slot.key, slot.session)


def _advance(model: Network, slots: list[_Slot], device: torch.device | str) -> None:
    """One forward pass over the slots."""
    with torch.inference_mode():
        runs = [slot.session.next_input() for slot in slots]
        images = torch.cat([run.image for run in runs])
        prev_masks = torch.cat([run.prev_mask for run in runs])
        logits = model(images, prev_masks, join_points(runs).to(device))
        parts = logits.float().split([len(run.image) for run in runs])
        for slot, part in zip(slots, parts, strict=True):
            slot.session.accept(part)


def join_points(runs: Sequence[RunInput]) -> torch.Tensor:
    """Click tensors of several runs as one (sum of K, 2 N, 3) tensor, N being the largest; the rest is unused rows."""
    n = max(run.points.shape[1] for run in runs) // 2
    joined = np.tile(empty(n)[None], (sum(len(run.points) for run in runs), 1, 1))
    at = 0
    for run in runs:
        points, own = run.points.numpy(), run.points.shape[1] // 2
        joined[at : at + len(points), :own] = points[:, :own]
        joined[at : at + len(points), n : n + own] = points[:, own:]
        at += len(points)
    return torch.from_numpy(joined)


def _result(slot: _Slot) -> ObjectResult:
    s = slot.session
    return ObjectResult(slot.key, s.clicks, s.ious, s.forwards, s.rois, slot.seconds)
