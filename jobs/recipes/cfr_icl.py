"""CFR-ICL's published recipes (arXiv 2303.05620): fine-tuning of a complete SimpleClick model with SUEM.

Common to all: rate 5e-6, Adam with batch 32 over all GPUs, float32. The milestones (50, 55) lie behind the end and
never act; ICL is on in the two huge recipes only, the base ones train with 1..3 gradient-free passes; all as
published. The click embedding is trained also under layer-wise decay (off here), which the original does not.
Start: --model.start with the published SimpleClick file of the same size and training set (or ours); strictly loaded.
Hardware: the authors' own driver used mixed precision and batch 35 with 4 accumulation steps; ours divides the batch of
32 over --train.workers N --train.gpu. On one GPU a step of 32 takes 22 GB for ViT-B and 108 GB for ViT-H (bf16 with
--model.activation_checkpointing: 27 GB; benchmarks/results.md). We have not yet trained them at full length.
"""

from __future__ import annotations

from dataclasses import replace

from jobs.recipes import parts
from pipeline import config


def cfr_icl_base_cocolvis() -> config.TrainConfig:
    """CFR-ICL ViT-B at 448 pixels on COCO+LVIS: SUEM with the plain iterative loss (no ICL).

    Reproduces: the published ViT-B model of CFR-ICL trained on COCO+LVIS: 5 epochs of 30,000 draws.
    Start: the complete SimpleClick ViT-B trained on COCO+LVIS (--model.start).
    Hardware: GPUs; see the head of this file.
    Expected: what arXiv 2303.05620 reports of ViT-B trained on COCO+LVIS; none of it is in our claims table.
    """
    return parts.cfr_icl("cfr_icl_base_cocolvis", parts.BASE, parts.COCOLVIS, loss=parts.CFR_ICL_PLAIN_LOSS, epochs=5)


def cfr_icl_base_sbd() -> config.TrainConfig:
    """CFR-ICL ViT-B at 448 pixels on SBD: SUEM with the plain iterative loss (no ICL).

    Reproduces: the published ViT-B model of CFR-ICL trained on SBD: 20 epochs of 8,498 draws.
    Start: the complete SimpleClick ViT-B trained on SBD (--model.start).
    Hardware: GPUs; see the head of this file.
    Expected: what arXiv 2303.05620 reports of ViT-B trained on SBD; none of it is in our claims table.
    """
    return parts.cfr_icl("cfr_icl_base_sbd", parts.BASE, parts.SBD, loss=parts.CFR_ICL_PLAIN_LOSS, epochs=20)


def cfr_icl_huge_cocolvis() -> config.TrainConfig:
    """CFR-ICL ViT-H at 448 pixels on COCO+LVIS: SUEM and the iterative click loss, 12 points of a polarity.

    Reproduces: the published ViT-H model of CFR-ICL trained on COCO+LVIS: 1 epoch of 3,000 draws.
    Start: the complete SimpleClick ViT-H trained on COCO+LVIS (--model.start).
    Hardware: GPUs; see the head of this file.
    Expected: with CFR-1 Berkeley NoC@90 1.46, DAVIS NoC@90 4.24, PASCAL VOC NoC@95 2.45 (arXiv 2303.05620; the
    claims table of the evaluation report compares them).
    """
    return parts.cfr_icl(
        "cfr_icl_huge_cocolvis",
        parts.HUGE,
        replace(parts.COCOLVIS, epoch_samples=3_000),
        loss=parts.ICL,
        epochs=1,
        max_points=12,
    )


def cfr_icl_huge_sbd() -> config.TrainConfig:
    """CFR-ICL ViT-H at 448 pixels on SBD: SUEM and the iterative click loss, 12 points of a polarity.

    Reproduces: the published ViT-H model of CFR-ICL trained on SBD: 5 epochs of 8,498 draws.
    Start: the complete SimpleClick ViT-H trained on SBD (--model.start).
    Hardware: GPUs; see the head of this file.
    Expected: with CFR-1 GrabCut NoC@90 1.42 (arXiv 2303.05620; the claims table of the evaluation report compares
    it).
    """
    return parts.cfr_icl("cfr_icl_huge_sbd", parts.HUGE, parts.SBD, loss=parts.ICL, epochs=5, max_points=12)


RECIPES = (
    cfr_icl_base_cocolvis,
    cfr_icl_base_sbd,
    cfr_icl_huge_cocolvis,
    cfr_icl_huge_sbd,
)

STARTS = {
    "cfr_icl_base_cocolvis": "the complete SimpleClick ViT-B trained on COCO+LVIS (cocolvis_vit_base.pth)",
    "cfr_icl_base_sbd": "the complete SimpleClick ViT-B trained on SBD (sbd_vit_base.pth)",
    "cfr_icl_huge_cocolvis": "the complete SimpleClick ViT-H trained on COCO+LVIS (cocolvis_vit_huge.pth)",
    "cfr_icl_huge_sbd": "the complete SimpleClick ViT-H trained on SBD (sbd_vit_huge.pth)",
}
