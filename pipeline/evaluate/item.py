"""One plan item from encoded rows to outcomes; what an inference actor does at a call. No Ray."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from pipeline.data.images import decode_sample
from pipeline.data.schema import Row, Sample
from pipeline.errors import BadRow
from pipeline.evaluate.batch import Network, Target, evaluate_objects
from pipeline.evaluate.cfr import Session
from pipeline.evaluate.plan import Chunk, Item, Place
from pipeline.evaluate.request import Request, cfr_of
from pipeline.evaluate.results import MASK_CLICKS, Outcome, encode_mask


def evaluate_item(
    model: Network, item: Item, rows: Sequence[Row], request: Request, device: torch.device | str, threads: int
) -> list[Outcome]:
    """Evaluate the objects of a plan item; those that cannot be used come back with their reason.

    Args:
        model: in evaluation mode on `device`.
        rows: of the item's row group, encoded.
        threads: helpers beside the forward pass.

    Returns:
        One outcome for each of `item.places`, in the order they ended.
    """
    bad: list[Outcome] = []
    masks: dict[Place, dict[int, bytes]] = {place: {} for place in item.places}

    def keep_mask(place: Place, session: Session) -> None:
        count = len(session.ious)
        if count in MASK_CLICKS or session.done:
            masks[place][count] = encode_mask(session.mask)

    found = evaluate_objects(
        model,
        targets(item, rows, bad),
        cfr_of(request, item.setting, item.crop),
        request.rules,
        request.batch_size,
        device,
        threads,
        keep_mask,
    )
    outcomes = [Outcome(result.key, result, masks[result.key]) for result in found]
    return outcomes + bad


def targets(item: Chunk, rows: Sequence[Row], bad: list[Outcome]) -> Iterator[Target]:
    """The item's objects, each image decoded once; objects that cannot be used are appended to `bad`."""
    decoded: tuple[int, Sample | BadRow] | None = None
    for place in item.places:
        if decoded is None or decoded[0] != place.row:
            decoded = (place.row, _decode(rows[place.row]))
        sample = decoded[1]
        if isinstance(sample, BadRow):
            bad.append(Outcome(place, None, {}, sample))
            continue
        truth = sample.target(place.object_id)
        if (truth == 1).any():
            yield Target(place, sample.image, truth)
        else:
            bad.append(Outcome(place, None, {}, BadRow("object has no pixels")))


def _decode(row: Row) -> Sample | BadRow:
    try:
        return decode_sample(row)
    except BadRow as bad:
        return bad
