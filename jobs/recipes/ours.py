"""Recipes of our own, not published by anyone: ICL with SUEM for the smaller networks.

The published CFR-ICL has ICL in its huge recipes only, and no large one at all. These take its COCO+LVIS recipe of
ViT-B and turn the iterative click loss on. Start and hardware as there.
"""

from __future__ import annotations

from jobs.recipes import parts
from pipeline import config


def icl_suem_base_cocolvis() -> config.TrainConfig:
    """Ours: ICL and SUEM for ViT-B at 448 pixels on COCO+LVIS.

    Reproduces: nothing published. 5 epochs of 30,000 draws at 5e-6, 24 points of a polarity, ICL weights 1, 2, 3.
    Start: the complete SimpleClick ViT-B trained on COCO+LVIS (--model.start).
    Hardware: GPUs; not yet trained by us.
    Expected: not known; at least its start's NoC, or the recipe is not worth having.
    """
    return parts.cfr_icl("icl_suem_base_cocolvis", parts.BASE, parts.COCOLVIS, loss=parts.ICL, epochs=5)


def icl_suem_large_cocolvis() -> config.TrainConfig:
    """Ours: ICL and SUEM for ViT-L at 448 pixels on COCO+LVIS.

    Reproduces: nothing published. 5 epochs of 30,000 draws at 5e-6, 24 points of a polarity, ICL weights 1, 2, 3.
    Start: the complete SimpleClick ViT-L trained on COCO+LVIS (--model.start).
    Hardware: GPUs; not yet trained by us.
    Expected: not known; at least its start's NoC, or the recipe is not worth having.
    """
    return parts.cfr_icl("icl_suem_large_cocolvis", parts.LARGE, parts.COCOLVIS, loss=parts.ICL, epochs=5)


RECIPES = (icl_suem_base_cocolvis, icl_suem_large_cocolvis)

STARTS = {
    "icl_suem_base_cocolvis": "the complete SimpleClick ViT-B trained on COCO+LVIS (cocolvis_vit_base.pth)",
    "icl_suem_large_cocolvis": "the complete SimpleClick ViT-L trained on COCO+LVIS (cocolvis_vit_large.pth)",
}
