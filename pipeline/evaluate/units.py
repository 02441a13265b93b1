"""Units of work from encoded rows to the tables of their parts; what an inference actor does at a call. No Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import pyarrow as pa
import torch

from pipeline.clicks.encode import Click
from pipeline.config import Cfr, Eval
from pipeline.data.images import decode_sample
from pipeline.data.schema import Row, Sample
from pipeline.errors import BadRow
from pipeline.evaluate.batch import evaluate_settings
from pipeline.evaluate.cfr import Replay, Session
from pipeline.evaluate.foreign import Foreign, ForeignSession, click_objects
from pipeline.evaluate.plan import WorkUnit
from pipeline.evaluate.results import MASK_CLICKS, Outcome, encode_mask, part_table
from pipeline.evaluate.shared import GivenClicks, Network, Target


def evaluate_units(
    model: Network | Foreign,
    units: Sequence[WorkUnit],
    read: Callable[[WorkUnit], Sequence[Row]],
    settings: Mapping[int, Cfr],
    rules: Eval,
    batch_size: int,
    device: torch.device | str,
    threads: int,
    strict: bool,
) -> Iterator[tuple[WorkUnit, pa.Table]]:
    """Evaluate units, yielding each with its part (`results.PART`) when its last object ends.

    Objects of the next unit take the places of those that end, so batches stay full from unit to unit.

    Args:
        model: in evaluation mode on `device`; or a predictor that is no network of ours, then with one setting.
        read: the encoded rows of a unit's row group; called for one unit after the other.
        settings: by number, see `results.OBJECTS`.
        threads: helpers beside the forward pass.
        strict: an evaluation, not a sweep: keep masks for pictures, raise what a forward pass raises, and compute
            clicks beside forward passes, as seconds are no objective (`batch.evaluate_settings`).
    """
    found: list[list[Outcome]] = [[] for _ in units]
    masks: dict[tuple[Any, int], dict[int, bytes]] = {}
    left = list(range(len(units)))

    def targets() -> Iterator[Target | GivenClicks]:
        """Each image decoded once; objects that cannot be used are set aside."""
        for number, unit in enumerate(units):
            rows = read(unit)
            decoded: tuple[int, Sample | BadRow] | None = None
            for place in unit.places:
                if decoded is None or decoded[0] != place.row:
                    decoded = (place.row, _decode(rows[place.row]))
                sample = decoded[1]
                if isinstance(sample, BadRow):
                    found[number].append(Outcome(place, bad=sample))
                elif outside := [c for c in place.clicks if not _inside(c, sample.image.shape)]:
                    found[number].append(Outcome(place, bad=_beyond(outside[0], sample.image.shape)))
                elif place.clicks:
                    yield GivenClicks((number, place), sample.image, place.clicks)
                elif ((truth := sample.target(place.object_id)) == 1).any():
                    yield Target((number, place), sample.image, truth)
                else:
                    found[number].append(Outcome(place, bad=BadRow("object has no pixels")))

    def keep_mask(key: tuple[Any, int], session: Session | Replay | ForeignSession) -> None:
        count = len(session.forwards)
        if session.done or (count in MASK_CLICKS and not isinstance(session, Replay)):
            masks.setdefault(key, {})[count] = encode_mask(session.mask)

    def complete() -> Iterator[tuple[WorkUnit, pa.Table]]:
        for number in [n for n in left if len(found[n]) == len(units[n].places)]:
            left.remove(number)
            yield units[number], part_table(units[number], found[number], settings)
            found[number] = []

    observe = keep_mask if strict else None
    if isinstance(model, Foreign):
        (setting,) = settings
        done = click_objects(model, cast(Iterator[Target], targets()), setting, rules, observe)
    else:
        asked = (settings, rules, batch_size, device, threads, observe)
        done = evaluate_settings(model, targets(), *asked, strict=strict, overlap=strict)
    for one in done:
        number, place = one.key
        kept = {setting: masks.pop((one.key, setting), {}) for setting in settings}
        found[number].append(Outcome(place, one.settings, kept))
        yield from complete()
    yield from complete()


def _inside(click: Click, shape: tuple[int, ...]) -> bool:
    return 0 <= click.row < shape[0] and 0 <= click.col < shape[1]


def _beyond(click: Click, shape: tuple[int, ...]) -> BadRow:
    return BadRow("click outside of the image", f"x {click.col}, y {click.row} in {shape[1]} x {shape[0]}")


def _decode(row: Row) -> Sample | BadRow:
    try:
        return decode_sample(row)
    except BadRow as bad:
        return bad
