"""What the published recipes share: networks, training sets, optimizer. Every value is a published one."""

from __future__ import annotations

from dataclasses import replace

from pipeline import config

BASE = config.Model(patch=16, dim=768, depth=12, heads=12, neck_dims=(128, 256, 512, 1024))
LARGE = config.Model(patch=16, dim=1024, depth=24, heads=16, neck_dims=(192, 384, 768, 1536))
HUGE = config.Model(patch=14, dim=1280, depth=32, heads=16, neck_dims=(240, 480, 960, 1920))
XTINY = config.Model(patch=16, dim=160, depth=8, heads=4, neck_dims=(96, 192, 288, 384), head_dim=128)

COCOLVIS = config.Data(
    crop=448,
    epoch_samples=30_000,
    augmentation="coco-lvis",
    resize=(0.75, 1.40),
    keep_background_prob=0.05,
    min_object_area=1000,
    stuff_prob=0.30,
)
SBD = config.Data(
    crop=448,
    epoch_samples=8_498,
    augmentation="sbd",
    resize=(0.75, 1.25),
    keep_background_prob=0.01,
    min_object_area=20,  # CFR-ICL's; SimpleClick: 80
    stuff_prob=0.0,  # SBD has no stuff regions
)

NO_SUEM = config.Suem(simple_prob=0.0, paste_prob=0.0, mix_prob=0.0)
SUEM = config.Suem(simple_prob=0.5, paste_prob=0.5, mix_prob=0.5)

SIMPLECLICK_LOSS = config.Loss(mode="iter_mask", passes=(0, 3), click_rows="from_end")
CFR_ICL_PLAIN_LOSS = config.Loss(mode="iter_mask", passes=(1, 3), click_rows="first_free")
ICL = config.Loss(mode="icl", weights=(1.0, 2.0, 3.0), click_rows="first_free")


def simpleclick(
    recipe: str,
    model: config.Model,
    data: config.Data,
    *,
    start: str = "",
    lr: float = 5e-5,
    epochs: int = 55,
    milestones: tuple[int, ...] = (50, 55),
) -> config.TrainConfig:
    """Plain iterative training of SimpleClick: no SUEM, clicks written from the end, orders not shuffled."""
    return config.TrainConfig(
        recipe=recipe,
        data=replace(data, min_object_area=80) if data.augmentation == "sbd" else data,
        suem=NO_SUEM,
        clicks=config.Clicks(max_points=24, shuffle_order=False),
        model=replace(model, start=start),
        loss=SIMPLECLICK_LOSS,
        optim=config.Optim(lr=lr, milestones=milestones),
        train=config.Train(epochs=epochs, batch=32),
    )


def cfr_icl(
    recipe: str,
    model: config.Model,
    data: config.Data,
    *,
    loss: config.Loss,
    epochs: int,
    max_points: int = 24,
) -> config.TrainConfig:
    """Fine-tuning of CFR-ICL with SUEM from a complete SimpleClick model; its milestones are never reached."""
    return config.TrainConfig(
        recipe=recipe,
        data=data,
        suem=SUEM,
        clicks=config.Clicks(max_points=max_points, shuffle_order=True),
        model=model,
        loss=loss,
        optim=config.Optim(lr=5e-6, milestones=(50, 55)),
        train=config.Train(epochs=epochs, batch=32),
    )
