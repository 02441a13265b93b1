"""Validation during training: click a few held-out objects and report NoC and IoU. No Ray."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from pipeline.config import TrainConfig
from pipeline.config import io as config_io
from pipeline.data.images import decode_sample
from pipeline.data.manifest import load_manifest, read_group
from pipeline.data.schema import Row
from pipeline.errors import BadRow
from pipeline.evaluate.batch import evaluate_objects
from pipeline.evaluate.metrics import summarize
from pipeline.evaluate.plan import is_evaluated
from pipeline.evaluate.shared import Target

BATCH = 8
"""Objects that share a forward pass; fixed, so that validation figures of a run can be compared."""


def validation_rows(uri: str, objects: int) -> list[Row]:
    """The first row groups of prepared shards, enough to take `objects` objects from different images (0: all rows).

    Raises:
        UserError: not a prepared data set.
    """
    rows: list[Row] = []
    for shard in load_manifest(uri).shards:
        for group in range(len(shard.row_groups)):
            rows += read_group(uri, shard.path, group)
            if 0 < objects <= len(rows):
                return rows
    return rows


def choose(rows: Sequence[Row], objects: int) -> list[list[int]]:
    """Per row the objects to evaluate: the first object of every row, then the second, ... until there are `objects`.

    0 takes all. Things only.
    """
    candidates = [[i for i, info in enumerate(row.objects) if is_evaluated(info)] for row in rows]
    ranked = sorted((rank, at, i) for at, ids in enumerate(candidates) for rank, i in enumerate(ids))
    chosen: list[list[int]] = [[] for _ in rows]
    for _, at, i in ranked[: objects or None]:
        chosen[at].append(i)
    return chosen


def validate_share(model: torch.nn.Module, rank: int, world: int, cfg: TrainConfig) -> tuple[int, dict[str, float]]:
    """One rank's share of the validation objects: their number and mean metrics (`pipeline.train.trainer.Validate`)."""
    rows = validation_rows(cfg.data.val, cfg.train.val_objects)[rank::world]
    share = -(-cfg.train.val_objects // world)
    scores = validate(model, rows, config_io.replace(cfg, **{"train.val_objects": share}))
    return int(scores.pop("objects")), scores


def validate(model: torch.nn.Module, rows: Sequence[Row], cfg: TrainConfig) -> dict[str, float]:
    """NoC@80/85/90 and IoU@1/3/5 over `cfg.train.val_objects` objects of `rows`.

    The model is evaluated where it is, in evaluation mode, and left in the mode it came in. Rows that do not decode are
    left out (conversion has checked them; an evaluation job would list them).

    Args:
        rows: see `validation_rows`.
        cfg: `cfr` and `eval` say how to click, `train.val_objects` how many.

    Returns:
        {"noc80": ..., "noc85": ..., "noc90": ..., "iou1": ..., "iou3": ..., "iou5": ..., "objects": number}; levels
        above eval.target_iou and clicks beyond eval.max_clicks are absent. Without any object {"objects": 0}: a rank's
        share of a small set may be empty.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        targets = _targets(rows, choose(rows, cfg.train.val_objects))
        curves = [r.ious for r in evaluate_objects(model, targets, cfg.cfr, cfg.eval, BATCH, device)]
    finally:
        model.train(training)
    if not curves:
        return {"objects": 0.0}
    figures = summarize(curves, cfg.eval.max_clicks, cfg.eval.target_iou)
    noc, iou_at = figures["noc"], figures["iou_at"]
    values = {f"noc{level}": noc[level] for level in ("80", "85", "90") if level in noc}
    values |= {f"iou{k}": iou_at[k] for k in ("1", "3", "5") if k in iou_at}
    return {**values, "objects": float(len(curves))}


def _targets(rows: Sequence[Row], chosen: Sequence[Sequence[int]]) -> Iterator[Target]:
    for row, objects in zip(rows, chosen, strict=True):
        if not objects:
            continue
        try:
            sample = decode_sample(row)
        except BadRow:
            continue
        for index in objects:
            truth = sample.target(index)
            if (truth == 1).any():
                yield Target((row.image_id, index), sample.image, truth)
