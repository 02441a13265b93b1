"""Many objects under many CFR settings at once, in full batches: the one evaluation loop.

The passes of all objects (`shared`) queue up for the network, `batch_size` at a time. While it runs, helper threads
compute the distance maps and IoUs of objects whose round is over; an object that ends is followed by the next. Who
shares a forward pass with whom depends only on the order of the targets, never on timing. With `batch_size` 1 the
results are exactly those of each object and setting alone; in larger batches matrix products may round differently.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from pipeline.config import Cfr, Eval
from pipeline.evaluate.ended import end_click, end_clicks, ended_clicks, tell
from pipeline.evaluate.shared import (
    Clicked,
    GivenClicks,
    Memory,
    Network,
    ObjectResult,
    Observer,
    Pass,
    SharedResult,
    Target,
    begin,
    bring_lines,
    forward,
    next_round,
    result_of,
)


def evaluate_objects(
    model: Network,
    targets: Iterable[Target | GivenClicks],
    cfr: Cfr,
    rules: Eval,
    batch_size: int = 1,
    device: torch.device | str = "cpu",
    threads: int = 1,
    observe: Observer | None = None,
    tensor_clicks: bool | None = None,
) -> Iterator[ObjectResult]:
    """`evaluate_settings` with one setting: bare results, an observer that gets the target's key; what fails raises."""
    seen = None if observe is None else lambda key, session: observe(key[0], session)
    asked = (model, targets, {"": cfr}, rules, batch_size, device, threads, seen)
    for one in evaluate_settings(*asked, strict=True, tensor_clicks=tensor_clicks):
        result = one.settings[""].result
        assert result is not None
        yield result


def evaluate_settings(
    model: Network,
    targets: Iterable[Target | GivenClicks],
    settings: Mapping[Any, Cfr],
    rules: Eval,
    batch_size: int = 1,
    device: torch.device | str = "cpu",
    threads: int = 1,
    observe: Observer | None = None,
    strict: bool = False,
    overlap: bool = True,
    tensor_clicks: bool | None = None,
) -> Iterator[SharedResult]:
    """Evaluate objects, each under all settings, yielding each when it ends (not in the order of `targets`).

    Seconds of a setting are what it would have taken alone: a pass (its input, the network, its map) counts in full for
    every setting that asked for it, and so do the decoding of the object, the next click and the IoU. A pass in a batch
    counts its even part of the batch's time.

    Args:
        model: in evaluation mode, on `device`.
        targets: taken as they are needed, so they can be decoded on the way.
        settings: by a name that the caller knows them by.
        rules: click budget and target, the same for all.
        batch_size: passes computed together (each is two images when cfr.flip).
        device: of the model.
        threads: helpers that compute clicks and IoUs; 0: one, and no overlap.
        observe: called with (target's key, setting's name) and a session (`Observer`), from helper threads.
        strict: raise what a forward pass raises. Otherwise the settings that asked for it have failed on that object,
            the others go on, and a batch that raises is tried again pass by pass.
        tensor_clicks: compute the clicks of a batch together by tensor operations on the device, and bring what the
            next looks need at once; default: on a GPU. On a CPU the distance maps of OpenCV are faster.
        overlap: compute clicks beside forward passes. Without it, and with batch size 1, seconds are free of what
            happens at the same time.
    """
    waiting = iter(targets)
    if tensor_clicks is None:
        tensor_clicks = torch.device(device).type != "cpu"
    overlap = overlap and threads > 0
    lanes = 2 if overlap else 1  # batches' worth of passes: one is computed while the other's clicks are ended
    with ThreadPoolExecutor(max(1, threads)) as pool:
        coming: deque[Future[Clicked]] = deque()
        flying: list[Clicked] = []
        resting: deque[Clicked] = deque()  # of those, the ones whose round is over
        queue: list[Pass] = []
        memory: Memory = {}

        def prepare() -> None:
            """Keep as many objects with their first click ready as one batch may need."""
            while len(coming) < batch_size:
                since = time.perf_counter()
                if (target := next(waiting, None)) is None:
                    return
                decoding = time.perf_counter() - since
                coming.append(pool.submit(begin, target, settings, rules, device, decoding))

        while True:
            if overlap:
                prepare()
            while len(queue) < batch_size:
                room = len(flying) < lanes or sum(one.round for one in flying) < lanes * batch_size
                if room:
                    prepare()
                if room and coming:
                    one = coming.popleft().result()
                    flying.append(one)
                elif resting:
                    one = resting.popleft()
                    _settle(one)
                else:
                    break
                if active := one.active():
                    queue += next_round(one, active)
                else:
                    flying.remove(one)
                    yield result_of(one)
            if not queue:
                return
            batch = [one for one in queue if one.shape == queue[0].shape][:batch_size]
            queue = [one for one in queue if one not in batch]
            forward(model, batch, device, strict, memory)
            owners = dict.fromkeys(each.owner for each in batch)
            over = {one: ended_clicks(one) for one in owners if one.left == 0}
            if tensor_clicks:
                bring_lines([entry.session for each in batch for entry in each.entries])
                end_clicks([(one, same) for one, groups in over.items() for same in groups])
            for one, groups in over.items():
                last = tell if tensor_clicks else end_click
                one.clicks = [pool.submit(last, same, one.key, observe) for same in groups]
                resting.append(one)


def _settle(one: Clicked) -> None:
    """Wait for an object's clicks to end."""
    for click in one.clicks:
        click.result()
