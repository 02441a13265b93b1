"""SimpleClick's published recipes (arXiv 2210.11006): plain iterative training of a plain ViT.

Common to all: normalized focal loss after 0..3 gradient-free passes, no SUEM, up to 24 points of a polarity, Adam with
batch 32 over all GPUs, float32. The second milestone of B, L and H (55) lies at the end and never acts; that is how
they were published. The click embedding is trained also under layer-wise decay (off here), which the original does not.
Start: B, L and H from MAE, by default timm's copy of the published weights; --model.start mae_pretrain_vit_base.pth
(large, huge) takes the file itself. MAE fills the backbone alone.
Hardware: not stated by the sources at hand; --train.workers N --train.gpu divides the batch over N GPUs, and
--train.accumulate or --model.activation_checkpointing makes it fit: a step of 32 takes 22, 52 and 108 GB for B, L and H
on one GPU (benchmarks/results.md). We have not yet trained them at full length.
"""

from __future__ import annotations

from jobs.recipes import parts
from pipeline import config


def simpleclick_base_cocolvis() -> config.TrainConfig:
    """SimpleClick ViT-B at 448 pixels on COCO+LVIS.

    Reproduces: the published ViT-B model of SimpleClick trained on COCO+LVIS: 55 epochs of 30,000 draws at 5e-5,
    tenfold down at 50.
    Start: MAE ViT-B (timm, or mae_pretrain_vit_base.pth).
    Hardware: GPUs; see the head of this file.
    Expected: what arXiv 2210.11006 reports of ViT-B trained on COCO+LVIS; none of it is in our claims table.
    """
    return parts.simpleclick(
        "simpleclick_base_cocolvis", parts.BASE, parts.COCOLVIS, start="timm:vit_base_patch16_224.mae"
    )


def simpleclick_base_sbd() -> config.TrainConfig:
    """SimpleClick ViT-B at 448 pixels on SBD.

    Reproduces: the published ViT-B model of SimpleClick trained on SBD: 55 epochs of 8,498 draws at 5e-5, tenfold
    down at 50.
    Start: MAE ViT-B (timm, or mae_pretrain_vit_base.pth).
    Hardware: GPUs; see the head of this file.
    Expected: what arXiv 2210.11006 reports of ViT-B trained on SBD; none of it is in our claims table.
    """
    return parts.simpleclick("simpleclick_base_sbd", parts.BASE, parts.SBD, start="timm:vit_base_patch16_224.mae")


def simpleclick_large_cocolvis() -> config.TrainConfig:
    """SimpleClick ViT-L at 448 pixels on COCO+LVIS.

    Reproduces: the published ViT-L model of SimpleClick trained on COCO+LVIS: 55 epochs of 30,000 draws at 5e-5,
    tenfold down at 50.
    Start: MAE ViT-L (timm, or mae_pretrain_vit_large.pth).
    Hardware: GPUs; see the head of this file.
    Expected: what arXiv 2210.11006 reports of ViT-L trained on COCO+LVIS; none of it is in our claims table.
    """
    return parts.simpleclick(
        "simpleclick_large_cocolvis", parts.LARGE, parts.COCOLVIS, start="timm:vit_large_patch16_224.mae"
    )


def simpleclick_large_sbd() -> config.TrainConfig:
    """SimpleClick ViT-L at 448 pixels on SBD.

    Reproduces: the published ViT-L model of SimpleClick trained on SBD: 55 epochs of 8,498 draws at 5e-5, tenfold
    down at 50.
    Start: MAE ViT-L (timm, or mae_pretrain_vit_large.pth).
    Hardware: GPUs; see the head of this file.
    Expected: what arXiv 2210.11006 reports of ViT-L trained on SBD; none of it is in our claims table.
    """
    return parts.simpleclick("simpleclick_large_sbd", parts.LARGE, parts.SBD, start="timm:vit_large_patch16_224.mae")


def simpleclick_huge_cocolvis() -> config.TrainConfig:
    """SimpleClick ViT-H at 448 pixels on COCO+LVIS.

    Reproduces: the published ViT-H model of SimpleClick trained on COCO+LVIS: 55 epochs of 30,000 draws at 5e-5,
    tenfold down at 50.
    Start: MAE ViT-H (timm, or mae_pretrain_vit_huge.pth).
    Hardware: GPUs; see the head of this file.
    Expected: what arXiv 2210.11006 reports of ViT-H trained on COCO+LVIS; none of it is in our claims table.
    """
    return parts.simpleclick(
        "simpleclick_huge_cocolvis", parts.HUGE, parts.COCOLVIS, start="timm:vit_huge_patch14_224.mae"
    )


def simpleclick_huge_sbd() -> config.TrainConfig:
    """SimpleClick ViT-H at 448 pixels on SBD.

    Reproduces: the published ViT-H model of SimpleClick trained on SBD: 55 epochs of 8,498 draws at 5e-5, tenfold
    down at 50.
    Start: MAE ViT-H (timm, or mae_pretrain_vit_huge.pth).
    Hardware: GPUs; see the head of this file.
    Expected: NoC@90 4.15 on SBD without refinement (arXiv 2210.11006, abstract); with CFR-1 GrabCut NoC@90 1.32 and
    SBD NoC@90 4.08 (arXiv 2303.05620; the claims table of the evaluation report compares these two).
    """
    return parts.simpleclick("simpleclick_huge_sbd", parts.HUGE, parts.SBD, start="timm:vit_huge_patch14_224.mae")


def simpleclick_xtiny_cocolvis() -> config.TrainConfig:
    """SimpleClick ViT-xtiny at 448 pixels on COCO+LVIS.

    Reproduces: the published ViT-xtiny model of SimpleClick trained on COCO+LVIS: 230 epochs of 30,000 draws at
    5e-5, tenfold down at 200 (a second milestone at 230 never acts).
    Start: random (xtiny has no pretraining).
    Hardware: GPUs; see the head of this file.
    Expected: what arXiv 2210.11006 reports of ViT-xtiny trained on COCO+LVIS; none of it is in our claims table.
    """
    return parts.simpleclick(
        "simpleclick_xtiny_cocolvis", parts.XTINY, parts.COCOLVIS, lr=5e-5, epochs=230, milestones=(200, 230)
    )


def simpleclick_xtiny_sbd() -> config.TrainConfig:
    """SimpleClick ViT-xtiny at 448 pixels on SBD.

    Reproduces: the published ViT-xtiny model of SimpleClick trained on SBD: 1,001 epochs of 8,498 draws at 1e-5,
    tenfold down at 800 and 900.
    Start: random (xtiny has no pretraining).
    Hardware: GPUs; see the head of this file.
    Expected: what arXiv 2210.11006 reports of ViT-xtiny trained on SBD; none of it is in our claims table.
    """
    return parts.simpleclick(
        "simpleclick_xtiny_sbd", parts.XTINY, parts.SBD, lr=1e-5, epochs=1001, milestones=(800, 900)
    )


RECIPES = (
    simpleclick_base_cocolvis,
    simpleclick_base_sbd,
    simpleclick_large_cocolvis,
    simpleclick_large_sbd,
    simpleclick_huge_cocolvis,
    simpleclick_huge_sbd,
    simpleclick_xtiny_cocolvis,
    simpleclick_xtiny_sbd,
)
