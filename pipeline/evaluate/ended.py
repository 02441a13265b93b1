"""The end of a click: IoU and next click, of each object in NumPy or of many objects at once on their device."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from pipeline.clicks.batched import next_clicks
from pipeline.evaluate.shared import Clicked, Entry, Observer

MAX_PIXELS = 1 << 24  # of the maps that clicks are computed on at once: about 1 GB on the device


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
        entry.session.end_click_as(first.session.ious[-1], first.session.clicks[-1])
    for entry in entries:
        entry.seconds += seconds
    tell(entries, key, observe)


def end_clicks(ended: Sequence[tuple[Clicked, list[Entry]]]) -> None:
    """`end_click` of many objects at once, by tensor operations on their device; nobody is told."""
    since = time.perf_counter()
    for some in _by_pixels(ended):
        height, width = (max(one.truth.shape[side] for one, _ in some) for side in (0, 1))

        def same_size(maps: torch.Tensor, height: int = height, width: int = width) -> torch.Tensor:
            return F.pad(maps, (0, width - maps.shape[1], 0, height - maps.shape[0]))

        sessions = [entries[0].session for _, entries in some]
        with torch.inference_mode():
            truth = torch.stack([same_size(one.truth) for one, _ in some])
            mask = torch.stack([same_size(session.device_mask) for session in sessions])
            found = next_clicks(truth, mask, [session.clicks for session in sessions])
        for (_, entries), click in zip(some, found, strict=True):
            for entry in entries:
                entry.session.end_click_as(click.intersection / click.union, click.click)
    seconds = (time.perf_counter() - since) / max(1, len(ended))
    for _, entries in ended:
        for entry in entries:
            entry.seconds += seconds


def _by_pixels(ended: Sequence[tuple[Clicked, list[Entry]]]) -> Iterator[list[tuple[Clicked, list[Entry]]]]:
    """Cut into groups that fit the device's memory when all maps of a group are as large as its largest."""
    some: list[tuple[Clicked, list[Entry]]] = []
    height = width = 0
    for one in ended:
        height, width = max(height, one[0].truth.shape[0]), max(width, one[0].truth.shape[1])
        if some and (len(some) + 1) * height * width > MAX_PIXELS:
            yield some
            some, (height, width) = [], one[0].truth.shape
        some.append(one)
    if some:
        yield some


def tell(entries: Sequence[Entry], key: Any, observe: Observer | None) -> None:
    """Tell the observer of a click that has ended."""
    if observe is not None:
        for entry in entries:
            observe((key, entry.name), entry.session)
