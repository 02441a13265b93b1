"""CFR-ICL's published recipes (arXiv 2303.05620), and two of ours: fine-tuning of a complete SimpleClick with SUEM.

Common to all: rate 5e-6, Adam with batch 32 over all GPUs, float32. The milestones (50, 55) lie behind the end and
never act; ICL is on in the two huge recipes only, the base ones train with 1..3 gradient-free passes; all as
published. The click embedding is trained also under layer-wise decay (off here), which the original does not.
Ours (icl_suem_*) turn the iterative click loss on for the smaller networks: there is no large published one at all.
Start: --model.start with the published SimpleClick file of the same size and training set (or ours); strictly loaded.
Hardware: the authors' own driver used mixed precision and batch 35 with 4 accumulation steps; ours divides the batch of
32 over --train.workers N. On one GPU a step of 32 takes 22 GB for ViT-B and 108 GB for ViT-H (bf16 with
--model.activation_checkpointing: 27 GB; benchmarks/results.md). We have not yet trained them at full length.
"""

from __future__ import annotations

from dataclasses import replace

from jobs.recipes.presets import CFR_ICL_PLAIN_LOSS, DATA, ICL, MODELS, SETS, SUEM, VIT, Recipe
from pipeline import config

TABLE = {
    # size, training set: loss, points of a polarity, epochs, draws in one
    "cfr_icl_base_cocolvis": ("base", "cocolvis", CFR_ICL_PLAIN_LOSS, 24, 5, 30_000),
    "cfr_icl_base_sbd": ("base", "sbd", CFR_ICL_PLAIN_LOSS, 24, 20, 8_498),
    "cfr_icl_huge_cocolvis": ("huge", "cocolvis", ICL, 12, 1, 3_000),
    "cfr_icl_huge_sbd": ("huge", "sbd", ICL, 12, 5, 8_498),
    "icl_suem_base_cocolvis": ("base", "cocolvis", ICL, 24, 5, 30_000),
    "icl_suem_large_cocolvis": ("large", "cocolvis", ICL, 24, 5, 30_000),
}
EXPECTED = {
    "cfr_icl_huge_cocolvis": "with CFR-1 Berkeley NoC@90 1.46, DAVIS NoC@90 4.24, PASCAL VOC NoC@95 2.45 (arXiv "
    "2303.05620; the claims table of the evaluation report compares them).",
    "cfr_icl_huge_sbd": "with CFR-1 GrabCut NoC@90 1.42 (arXiv 2303.05620; the claims table of the evaluation report "
    "compares it).",
}


def recipe(name: str) -> Recipe:
    """A row of the table as a complete config."""
    size, data, loss, points, epochs, draws = TABLE[name]
    run = config.TrainConfig(
        recipe=name,
        data=replace(DATA[data], epoch_samples=draws),
        suem=SUEM,
        clicks=config.Clicks(max_points=points, shuffle_order=True),
        model=MODELS[size],
        loss=loss,
        optim=config.Optim(lr=5e-6, milestones=(50, 55)),
        train=config.Train(epochs=epochs, batch=32),
    )
    ours = name.startswith("icl_suem")
    trained = f"{VIT[size]} trained on {SETS[data]}"
    how = "the iterative click loss" if loss is ICL else "the plain iterative loss (no ICL)"
    if ours:
        expected = "not known; at least its start's NoC, or the recipe is not worth having."
    else:
        expected = f"what arXiv 2303.05620 reports of {trained}; none of it is in our claims table."
    return Recipe(
        run,
        f"{'Ours' if ours else 'CFR-ICL'}: {VIT[size]} at 448 pixels on {SETS[data]}, SUEM with {how}.\n\n"
        f"Reproduces: {'nothing published' if ours else f'the published model of CFR-ICL, {trained}'}; {epochs} "
        f"epoch{'s' * (epochs > 1)} of {draws:,} draws at 5e-6, {points} points of a polarity.\n"
        f"Start: the complete SimpleClick {trained} (--model.start).\n"
        f"Hardware: GPUs{'; not yet trained by us' if ours else ''}; see the head of jobs/recipes/cfr_icl.py.\n"
        f"Expected: {EXPECTED.get(name, expected)}",
        needs=f"the complete SimpleClick {trained} ({data}_vit_{size}.pth)",
    )


RECIPES = [recipe(name) for name in TABLE]
