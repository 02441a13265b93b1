"""One object under many CFR settings at once: forward passes that settings have in common are computed once.

The settings' sessions advance in lockstep, one forward pass each in a round. Two sessions want the same pass exactly
when they look at the same thing (ROI, clicks, crop, flip: `cfr.Look`) with the same map before them; which map that is
follows from the pass that made it, so no pixels are compared. CFR-4's first runs are CFR-1's, and settings that differ
in a threshold, the zoom-in, the refinement or its adaptive stop share passes for as long as their clicks and ROIs
coincide.

Every session makes one pass in a round, so sessions that hold the map of one pass ask for its successors in the same
round: looking for equal passes within a round finds them all, and a map lives only while a session holds it.

Results are those of `batch.evaluate_objects` with each setting alone: equal to the bit with `batch_size` 1. In larger
batches matrix products may round differently, as there.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch

from pipeline.config import Cfr, Eval
from pipeline.evaluate.batch import Network, ObjectResult, Observer, Target, join_points
from pipeline.evaluate.cfr import Look, Session, image_tensor

MAX_ERROR = 500  # characters kept of an error


@dataclass(frozen=True)
class SettingResult:
    """One object under one setting.

    Attributes:
        result: of a finished object; None when the setting failed.
        error: what it failed with; "" when it did not.
        forwards: forward passes that the setting asked for, those before a failure included.
        computed: its share of the passes that were computed: a pass that m settings asked for counts 1 / m for each.
            The shares of all settings add up to the passes computed for the object.
    """

    result: ObjectResult | None
    error: str
    forwards: int
    computed: float


@dataclass(frozen=True)
class SharedResult:
    """One object under all settings.

    Attributes:
        settings: by the name of the setting, in the order they were given.
        computed: forward passes that were computed.
        separate: forward passes that evaluating each setting alone would have taken.
    """

    key: Any
    settings: dict[Hashable, SettingResult]
    computed: int
    separate: int


@dataclass
class _Entry:
    """A setting's session with what is counted for it."""

    name: Hashable
    session: Session
    seconds: float
    parent: int | None = None  # number of the pass that made the session's map
    forwards: int = 0
    computed: float = 0.0
    error: str = ""


@dataclass
class _Pass:
    """One forward pass of a round and the sessions that asked for it; the first of them makes its input."""

    entries: list[_Entry] = field(default_factory=list)
    probability: torch.Tensor | None = None
    seconds: float = 0.0
    error: str = ""


def evaluate_shared(
    model: Network,
    targets: Iterable[Target],
    settings: Mapping[Any, Cfr],
    rules: Eval,
    batch_size: int = 1,
    device: torch.device | str = "cpu",
    threads: int = 1,
    observe: Observer | None = None,
) -> Iterator[SharedResult]:
    """Evaluate objects in their order, each under all settings.

    Seconds of a setting are what it would have taken alone: a pass (its input, the network, its map) counts in full for
    every setting that asked for it, and so do the decoding of the object, the next click and the IoU. They are measured
    without overlap, where `evaluate_objects` computes the clicks of some objects beside the passes of others. A pass in
    a batch counts its even part of the batch's time.

    A setting whose pass raises (a crop that the network refuses, no memory) has failed on that object; the others go
    on. A batch that raises is tried again pass by pass.

    Args:
        model: in evaluation mode, on `device`.
        targets: taken one after the other, so they can be decoded on the way.
        settings: by a name that the caller knows them by.
        rules: click budget and target, the same for all.
        batch_size: different passes of a round that may be computed together; above 1 clicks may differ by rounding.
        device: of the model.
        threads: helpers that compute clicks and IoUs of different masks.
        observe: called with (target's key, setting's name) and the session after each finished click (`Observer`).
    """
    waiting = iter(targets)
    with ThreadPoolExecutor(max(1, threads)) as pool:
        while True:
            begin = time.perf_counter()
            target = next(waiting, None)
            if target is None:
                return
            entries = _begin(target, settings, rules, device, begin)
            computed = 0
            active = entries
            while active:
                passes = _passes_of(active)
                for number, one in enumerate(_compute(model, passes, batch_size, device), start=computed):
                    _deliver(one, number)
                computed += len(passes)
                _end_clicks(active, target.key, observe, pool)
                active = [entry for entry in active if not entry.session.done and not entry.error]
            found = {entry.name: _setting_result(target.key, entry) for entry in entries}
            yield SharedResult(target.key, found, computed, sum(entry.forwards for entry in entries))


def _begin(
    target: Target, settings: Mapping[Any, Cfr], rules: Eval, device: torch.device | str, begin: float
) -> list[_Entry]:
    """A session for each setting; the image is converted and the first click placed once."""
    image = image_tensor(target.image, device)
    sessions: list[Session] = []
    for cfr in settings.values():
        first = sessions[0].clicks[0] if sessions else None
        sessions.append(Session(image, target.truth, cfr, rules, device, first))
    seconds = time.perf_counter() - begin
    return [_Entry(name, session, seconds) for name, session in zip(settings, sessions, strict=True)]


def _passes_of(active: Sequence[_Entry]) -> list[_Pass]:
    """The different passes that the sessions ask for, in the order of the first to ask."""
    passes: dict[tuple[int | None, Look], _Pass] = {}
    with torch.inference_mode():
        for entry in active:
            begin = time.perf_counter()
            key = (entry.parent, entry.session.look())
            entry.seconds += time.perf_counter() - begin
            passes.setdefault(key, _Pass()).entries.append(entry)
    return list(passes.values())


def _compute(model: Network, passes: list[_Pass], batch_size: int, device: torch.device | str) -> list[_Pass]:
    """Fill in maps, times and errors; passes of one input shape are batched."""
    shapes: dict[tuple[int, bool], list[_Pass]] = {}
    for one in passes:
        cfr = one.entries[0].session.cfr
        shapes.setdefault((cfr.crop, cfr.flip), []).append(one)
    for alike in shapes.values():
        for start in range(0, len(alike), batch_size):
            _forward(model, alike[start : start + batch_size], device)
    return passes


def _forward(model: Network, passes: Sequence[_Pass], device: torch.device | str) -> None:
    begin = time.perf_counter()
    try:
        with torch.inference_mode():
            runs = [one.entries[0].session.cut() for one in passes]
            images = torch.cat([run.image for run in runs])
            prev_masks = torch.cat([run.prev_mask for run in runs])
            logits = model(images, prev_masks, join_points(runs).to(device))
            parts = logits.float().split([len(run.image) for run in runs])
            maps = [one.entries[0].session.paste(part) for one, part in zip(passes, parts, strict=True)]
            if images.is_cuda:
                torch.cuda.synchronize(images.device)  # the pass's time is its own
    except Exception as error:  # of whatever kind: it belongs to these settings, and the others go on
        if len(passes) == 1:
            passes[0].error = describe(error)
            return
        del error
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        for one in passes:
            _forward(model, [one], device)
        return
    seconds = (time.perf_counter() - begin) / len(passes)
    for one, probability in zip(passes, maps, strict=True):
        one.probability, one.seconds = probability, seconds


def describe(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:MAX_ERROR]


def _deliver(one: _Pass, number: int) -> None:
    """Give a pass's map, or its error, to every session that asked for it."""
    for entry in one.entries:
        entry.forwards += 1
        entry.computed += 1 / len(one.entries)
        if one.probability is None:
            entry.error = one.error
            continue
        begin = time.perf_counter()
        with torch.inference_mode():
            entry.session.take(one.probability)
        entry.parent = number
        entry.seconds += one.seconds + time.perf_counter() - begin


def _end_clicks(active: Sequence[_Entry], key: Any, observe: Observer | None, pool: ThreadPoolExecutor) -> None:
    """End the clicks whose last run is in; sessions with the same mask (pass and threshold) find the same."""
    groups: dict[tuple[int | None, float], list[_Entry]] = {}
    for entry in active:
        if entry.session.run_ended:
            groups.setdefault((entry.parent, entry.session.cfr.threshold), []).append(entry)
    for entries in pool.map(_end_click, groups.values()):
        for entry in entries:
            if observe is not None:
                observe((key, entry.name), entry.session)


def _end_click(entries: list[_Entry]) -> list[_Entry]:
    first, *others = entries
    begin = time.perf_counter()
    first.session.end_click()
    seconds = time.perf_counter() - begin
    for entry in others:
        entry.session.end_click_like(first.session)
    for entry in entries:
        entry.seconds += seconds
    return entries


def _setting_result(key: Any, entry: _Entry) -> SettingResult:
    s = entry.session
    result = None if entry.error else ObjectResult(key, s.clicks, s.ious, s.forwards, s.rois, entry.seconds)
    return SettingResult(result, entry.error, entry.forwards, entry.computed)
