"""The end of a click: IoU and next click, of each object in NumPy or of many objects at once on their device."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F

from pipeline.clicks.batched import next_clicks
from pipeline.evaluate.cfr import Session
from pipeline.evaluate.shared import Clicked, Entry, Observer

MAX_PIXELS = 1 << 24  # of the maps that clicks are computed on at once: about 1 GB on the device
Ended = tuple[torch.Tensor, list[Session]]
"""A truth on the device and the sessions of its object that have the same mask."""


def ended_clicks(one: Clicked) -> list[list[Entry]]:
    """The settings whose click's last run is in; those with the same mask (pass and threshold) find the same."""
    groups: dict[tuple[int | None, float], list[Entry]] = {}
    for entry in one.active():
        if entry.session.run_ended:
            groups.setdefault((entry.parent, entry.session.cfr.threshold), []).append(entry)
    return list(groups.values())


def end_click(entries: list[Entry], key: Any, observe: Observer | None) -> None:
    """End a click of settings that have the same mask, in NumPy."""
    first, *others = entries
    since = time.perf_counter()
    first.session.end_click()
    seconds = time.perf_counter() - since
    for entry in others:
        entry.session.end_click_like(cast(Any, first.session))  # sessions of an object are of one kind
    for entry in entries:
        entry.seconds += seconds
    tell(entries, key, observe)


def end_clicks(ended: Sequence[tuple[Clicked, list[Entry]]]) -> None:
    """`end_click` of many objects at once, by tensor operations on their device; nobody is told."""
    since = time.perf_counter()
    simulated: list[Ended] = []
    for one, entries in ended:
        if one.truth is None:
            for entry in entries:
                entry.session.end_click()
        else:
            simulated.append((one.truth, [cast(Session, entry.session) for entry in entries]))
    for some in _by_pixels(simulated):
        height, width = (max(truth.shape[side] for truth, _ in some) for side in (0, 1))

        def same_size(maps: torch.Tensor, height: int = height, width: int = width) -> torch.Tensor:
            return F.pad(maps, (0, width - maps.shape[1], 0, height - maps.shape[0]))

        first = [sessions[0] for _, sessions in some]
        with torch.inference_mode():
            truth = torch.stack([same_size(truth) for truth, _ in some])
            mask = torch.stack([same_size(session.device_mask) for session in first])
            found = next_clicks(truth, mask, [session.clicks for session in first])
        for (_, sessions), click in zip(some, found, strict=True):
            for session in sessions:
                session.end_click_as(click.intersection / click.union, click.click)
    seconds = (time.perf_counter() - since) / max(1, len(ended))
    for _, entries in ended:
        for entry in entries:
            entry.seconds += seconds


def _by_pixels(ended: Sequence[Ended]) -> Iterator[list[Ended]]:
    """Cut into groups that fit the device's memory when all maps of a group are as large as its largest."""
    some: list[Ended] = []
    height = width = 0
    for one in ended:
        height, width = max(height, one[0].shape[0]), max(width, one[0].shape[1])
        if some and (len(some) + 1) * height * width > MAX_PIXELS:
            yield some
            some, (height, width) = [], one[0].shape
        some.append(one)
    if some:
        yield some


def tell(entries: Sequence[Entry], key: Any, observe: Observer | None) -> None:
    """Tell the observer of a click that has ended."""
    if observe is not None:
        for entry in entries:
            observe((key, entry.name), entry.session)
