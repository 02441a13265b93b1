"""One object under many CFR settings: forward passes that settings have in common are computed once.

The settings' sessions advance in lockstep, one forward pass each in a round. Two of them want the same pass exactly
when they look at the same thing (ROI, clicks, crop, flip: `Look`) with the same map before them; which map that is
follows from the pass that made it, so no pixels are compared. CFR-4's first runs are CFR-1's, and settings that differ
in a threshold, the zoom-in, the refinement or its adaptive stop share passes for as long as their clicks and ROIs
coincide.

Every session makes one pass in a round, so sessions that hold the map of one pass ask for its successors in the same
round: looking for equal passes within a round finds them all, and a map lives only while a session holds it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from pipeline.clicks.encode import Click, empty
from pipeline.config import Cfr, Eval
from pipeline.errors import describe
from pipeline.evaluate.cfr import Replay, Session
from pipeline.evaluate.refinement import Look, Photo
from pipeline.evaluate.zoom import Box

Observer = Callable[[Any, Session | Replay], None]
"""Called with a key and a session after each of its finished clicks, `len(session.forwards)` of them so far
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
class GivenClicks:
    """One object that somebody has clicked.

    Attributes:
        key: as of a `Target`.
        image: (H, W, 3) uint8 RGB, or a `refinement.Photo` of it on the device, for several objects.
        clicks: at least one, in their order, image coordinates.
    """

    key: Any
    image: np.ndarray | Photo
    clicks: Sequence[Click]


@dataclass(frozen=True)
class ObjectResult:
    """One object evaluated under one setting.

    Attributes:
        clicks, ious, forwards, rois: one entry per click; IoUs in double precision, none where clicks were given.
        seconds: what the setting would have taken alone, see `evaluate_settings`.
    """

    key: Any
    clicks: list[Click]
    ious: list[float]
    forwards: list[int]
    rois: list[Box]
    seconds: float


@dataclass(frozen=True)
class SettingResult:
    """What became of one object under one setting.

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


@dataclass(eq=False)
class Entry:
    """A setting's session with what is counted for it."""

    name: Hashable
    session: Session | Replay
    seconds: float
    parent: int | None = None  # number of the pass that made the session's map
    forwards: int = 0
    computed: float = 0.0
    error: str = ""


@dataclass(eq=False)
class Clicked:
    """An object under all settings; `truth` is that of its sessions, on their device, None where clicks are given."""

    key: Any
    entries: list[Entry]
    truth: torch.Tensor | None
    round: int = 0  # passes of the round at hand
    left: int = 0  # those of them that are not computed yet
    computed: int = 0
    clicks: list[Future[None]] = field(default_factory=list)  # that are being ended

    def active(self) -> list[Entry]:
        return [entry for entry in self.entries if not entry.session.done and not entry.error]


@dataclass(eq=False)
class Pass:
    """One forward pass and the sessions of an object that asked for it; the first of them makes its input."""

    owner: Clicked
    entries: list[Entry] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, bool]:
        """Passes of one shape can be batched."""
        cfr = self.entries[0].session.cfr
        return cfr.crop, cfr.flip


def begin(
    target: Target | GivenClicks, settings: Mapping[Any, Cfr], rules: Eval, device: torch.device | str, decoding: float
) -> Clicked:
    """A session for each setting; the image is converted and the first click placed once."""
    since = time.perf_counter()
    image = target.image if isinstance(target.image, Photo) else Photo(target.image, device)
    size = image.size
    sessions: list[Session | Replay] = []
    for cfr in settings.values():
        if isinstance(target, GivenClicks):
            sessions.append(Replay(image, size, target.clicks, cfr, device))
            continue
        first = sessions[0].clicks[0] if sessions else None
        sessions.append(Session(image, target.truth, cfr, rules, device, first))
    seconds = decoding + time.perf_counter() - since
    entries = [Entry(name, s, seconds) for name, s in zip(settings, sessions, strict=True)]
    if isinstance(target, GivenClicks):
        return Clicked(target.key, entries, None)
    return Clicked(target.key, entries, torch.from_numpy(np.ascontiguousarray(target.truth)).to(device))


def next_round(one: Clicked, active: Sequence[Entry]) -> list[Pass]:
    """The different passes that an object's settings ask for, in the order of the first to ask."""
    passes: dict[tuple[int | None, Look], Pass] = {}
    with torch.inference_mode():
        for entry in active:
            since = time.perf_counter()
            key = (entry.parent, entry.session.look())
            entry.seconds += time.perf_counter() - since
            passes.setdefault(key, Pass(one)).entries.append(entry)
    one.round = one.left = len(passes)
    return list(passes.values())


Memory = dict[tuple[int, ...], torch.Tensor]
"""Tensors that batches are put together in, by the shape of one item: memory that is new each time costs more than the
copying."""


def forward(model: Network, passes: Sequence[Pass], device: torch.device | str, strict: bool, memory: Memory) -> None:
    """Compute passes of one shape together and give their maps, or the error, to the sessions that asked for them."""
    since = time.perf_counter()
    try:
        with torch.inference_mode():
            sessions = [one.entries[0].session for one in passes]
            images, prev_masks, points = _inputs(sessions, *passes[0].shape, device, memory)
            logits = model(images, prev_masks, points.to(device))
            parts = logits.float().chunk(len(passes))
            maps = [session.paste(part) for session, part in zip(sessions, parts, strict=True)]
            if images.is_cuda:
                torch.cuda.synchronize(images.device)  # the pass's time is its own
    except Exception as error:  # of whatever kind: it belongs to these settings, and the others go on
        if strict:
            raise
        if len(passes) == 1:
            _deliver(passes[0], None, 0.0, describe(error))
            return
        del error
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        for one in passes:
            forward(model, [one], device, strict, memory)
        return
    seconds = (time.perf_counter() - since) / len(passes)
    for one, probability in zip(passes, maps, strict=True):
        _deliver(one, probability, seconds, "")


def _inputs(
    sessions: Sequence[Session | Replay], side: int, flip: bool, device: torch.device | str, memory: Memory
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images, maps and clicks of the sessions' next runs as one batch, in memory that the next one writes over."""
    if len(sessions) == 1:
        run = sessions[0].cut()
        return run.image, run.prev_mask, run.points
    each = 2 if flip else 1
    count = each * len(sessions)
    for item in ((3, side, side), (1, side, side)):
        if item not in memory or len(memory[item]) < count:
            memory[item] = torch.empty((count, *item), dtype=torch.float32, device=device)
    images, maps = memory[3, side, side][:count], memory[1, side, side][:count]
    places = zip(images.split(each), maps.split(each), strict=True)
    points = [session.cut(out).points for session, out in zip(sessions, places, strict=True)]
    return images, maps, join_points(points)


def bring_lines(sessions: Sequence[Session | Replay]) -> None:
    """Bring from the device what the next looks of these sessions need, at once: each would wait for its own."""
    with torch.inference_mode():
        lines = torch.cat([session.foreground_lines() for session in sessions]).cpu().numpy()
    at = 0
    for session in sessions:
        session.lines = lines[at : at + sum(session.size)]
        at += sum(session.size)


def _deliver(one: Pass, probability: torch.Tensor | None, seconds: float, error: str) -> None:
    for entry in one.entries:
        entry.forwards += 1
        entry.computed += 1 / len(one.entries)
        entry.error = error
        if probability is not None:
            since = time.perf_counter()
            with torch.inference_mode():
                entry.session.take(probability)
            entry.parent = one.owner.computed
            entry.seconds += seconds + time.perf_counter() - since
    one.owner.computed += 1
    one.owner.left -= 1


def join_points(runs: Sequence[torch.Tensor]) -> torch.Tensor:
    """(K, 2 n, 3) clicks of several runs as one (sum of K, 2 N, 3) tensor, N the largest n; the rest is unused rows."""
    n = max(points.shape[1] for points in runs) // 2
    joined = np.tile(empty(n)[None], (sum(map(len, runs)), 1, 1))
    at = 0
    for points, own in ((run.numpy(), run.shape[1] // 2) for run in runs):
        joined[at : at + len(points), :own] = points[:, :own]
        joined[at : at + len(points), n : n + own] = points[:, own:]
        at += len(points)
    return torch.from_numpy(joined)


def result_of(one: Clicked) -> SharedResult:
    found: dict[Hashable, SettingResult] = {}
    for entry in one.entries:
        s = entry.session
        result = None if entry.error else ObjectResult(one.key, s.clicks, s.ious, s.forwards, s.rois, entry.seconds)
        found[entry.name] = SettingResult(result, entry.error, entry.forwards, entry.computed)
    return SharedResult(one.key, found, one.computed, sum(entry.forwards for entry in one.entries))
