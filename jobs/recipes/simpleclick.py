"""SimpleClick's published recipes (arXiv 2210.11006): plain iterative training of a plain ViT.

Common to all: normalized focal loss after 0..3 gradient-free passes, no SUEM, up to 24 points of a polarity, written
from the end, orders not shuffled; Adam with batch 32 over all GPUs, float32. The second milestone of B, L and H (55)
and of xtiny on COCO+LVIS (230) lies at the end and never acts; that is how they were published. The click embedding is
trained also under layer-wise decay (off here), which the original does not.
Start: B, L and H from MAE, by default timm's copy of the published weights; --model.start mae_pretrain_vit_base.pth
(large, huge) takes the file itself. MAE fills the backbone alone.
Hardware: not stated by the sources at hand; --train.workers N divides the batch over N GPUs, and --train.accumulate or
--model.activation_checkpointing makes it fit: a step of 32 takes 22, 52 and 108 GB for B, L and H on one GPU
(benchmarks/results.md). We have not yet trained them at full length.
"""

from __future__ import annotations

from dataclasses import replace

from jobs.recipes.presets import DATA, MODELS, NO_SUEM, SETS, SIMPLECLICK_LOSS, VIT, Recipe
from pipeline import config

MAE = {"base": "vit_base_patch16_224.mae", "large": "vit_large_patch16_224.mae", "huge": "vit_huge_patch14_224.mae"}
TABLE = {
    # size, training set: rate, epochs, milestones
    ("base", "cocolvis"): (5e-5, 55, (50, 55)),
    ("base", "sbd"): (5e-5, 55, (50, 55)),
    ("large", "cocolvis"): (5e-5, 55, (50, 55)),
    ("large", "sbd"): (5e-5, 55, (50, 55)),
    ("huge", "cocolvis"): (5e-5, 55, (50, 55)),
    ("huge", "sbd"): (5e-5, 55, (50, 55)),
    ("xtiny", "cocolvis"): (5e-5, 230, (200, 230)),
    ("xtiny", "sbd"): (1e-5, 1001, (800, 900)),
}
EXPECTED = {
    ("huge", "sbd"): "NoC@90 4.15 on SBD without refinement (arXiv 2210.11006, abstract); with CFR-1 GrabCut NoC@90 "
    "1.32 and SBD NoC@90 4.08 (arXiv 2303.05620; the claims table of the evaluation report compares these two)."
}


def recipe(size: str, data: str) -> Recipe:
    """A row of the table as a complete config."""
    lr, epochs, milestones = TABLE[size, data]
    samples = replace(DATA[data], min_object_area=80) if data == "sbd" else DATA[data]
    run = config.TrainConfig(
        recipe=f"simpleclick_{size}_{data}",
        data=samples,
        suem=NO_SUEM,
        clicks=config.Clicks(max_points=24, shuffle_order=False),
        model=replace(MODELS[size], start=f"timm:{MAE[size]}" if size in MAE else ""),
        loss=SIMPLECLICK_LOSS,
        optim=config.Optim(lr=lr, milestones=milestones),
        train=config.Train(epochs=epochs, batch=32),
    )
    trained = f"{VIT[size]} trained on {SETS[data]}"
    acting = " and ".join(str(epoch) for epoch in milestones if epoch < epochs)
    start = f"MAE {VIT[size]} (timm, or mae_pretrain_vit_{size}.pth)" if size in MAE else "random (no pretraining)"
    expected = f"what arXiv 2210.11006 reports of {trained}; none of it is in our claims table."
    return Recipe(
        run,
        f"SimpleClick {VIT[size]} at 448 pixels on {SETS[data]}.\n\n"
        f"Reproduces: the published model of SimpleClick, {trained}: {epochs:,} epochs of {samples.epoch_samples:,} "
        f"draws at {lr:g}, tenfold down at {acting}.\n"
        f"Start: {start}.\n"
        "Hardware: GPUs; see the head of jobs/recipes/simpleclick.py.\n"
        f"Expected: {EXPECTED.get((size, data), expected)}",
    )


RECIPES = [recipe(size, data) for size, data in TABLE]
