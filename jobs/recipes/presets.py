"""What the published recipes share: networks, training sets, SUEM and losses. Every value is a published one."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline import config


@dataclass(frozen=True)
class Recipe:
    """A complete training config, and what it is about.

    Attributes:
        about: what it reproduces, from what start, on what hardware, and what it should give.
        needs: what belongs at --model.start, without which it does not run; "" where it starts by itself.
    """

    config: config.TrainConfig
    about: str
    needs: str = ""


MODELS = {
    "base": config.Model(patch=16, dim=768, depth=12, heads=12, neck_dims=(128, 256, 512, 1024)),
    "large": config.Model(patch=16, dim=1024, depth=24, heads=16, neck_dims=(192, 384, 768, 1536)),
    "huge": config.Model(patch=14, dim=1280, depth=32, heads=16, neck_dims=(240, 480, 960, 1920)),
    "xtiny": config.Model(patch=16, dim=160, depth=8, heads=4, neck_dims=(96, 192, 288, 384), head_dim=128),
}
VIT = {"base": "ViT-B", "large": "ViT-L", "huge": "ViT-H", "xtiny": "ViT-xtiny"}

DATA = {
    "cocolvis": config.Data(
        crop=448,
        epoch_samples=30_000,
        augmentation="coco-lvis",
        resize=(0.75, 1.40),
        keep_background_prob=0.05,
        min_object_area=1000,
        stuff_prob=0.30,
    ),
    "sbd": config.Data(
        crop=448,
        epoch_samples=8_498,
        augmentation="sbd",
        resize=(0.75, 1.25),
        keep_background_prob=0.01,
        min_object_area=20,  # CFR-ICL's; SimpleClick: 80
        stuff_prob=0.0,  # SBD has no stuff regions
    ),
}
SETS = {"cocolvis": "COCO+LVIS", "sbd": "SBD"}

NO_SUEM = config.Suem(simple_prob=0.0, paste_prob=0.0, mix_prob=0.0)
SUEM = config.Suem(simple_prob=0.5, paste_prob=0.5, mix_prob=0.5)

SIMPLECLICK_LOSS = config.Loss(mode="iter_mask", passes=(0, 3), click_rows="from_end")
CFR_ICL_PLAIN_LOSS = config.Loss(mode="iter_mask", passes=(1, 3), click_rows="first_free")
ICL = config.Loss(mode="icl", weights=(1.0, 2.0, 3.0), click_rows="first_free")
