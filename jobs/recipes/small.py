"""The recipe of the small model: what two cores can train from scratch on some hundred photographs."""

from __future__ import annotations

from jobs.recipes.presets import NO_SUEM, Recipe
from pipeline import config

SMALL = Recipe(
    config.TrainConfig(
        recipe="small",
        # At 128 pixels an object is seen as small as in a whole photograph, and as large as after zooming in.
        data=config.Data(crop=128, resize=(0.3, 1.4), epoch_samples=16_000, min_object_area=40),
        suem=NO_SUEM,
        clicks=config.Clicks(max_points=24),
        model=config.Model(patch=8, dim=128, depth=8, heads=2, neck_dims=(16, 32, 64, 64), head_dim=32, train_size=128),
        loss=config.Loss(mode="iter_mask", passes=(0, 3)),
        optim=config.Optim(lr=1e-3, schedule="cosine", factor=0.02, warmup_steps=200, clip_norm=1.0, average=0.998),
        train=config.Train(
            epochs=5, batch=16, precision="bf16", log_every=50, val_every=500, val_objects=70, checkpoint_every=250
        ),
        cfr=config.Cfr(crop=128),
    ),
    """A 1.9 M parameter ViT with patches of 8 pixels at 128 pixels, plain iterative training, from scratch.

Reproduces: nothing published.
Start: random.
Hardware: a CPU with two cores and bf16 instructions.
Expected: on 24 photographs NoC@80 11.9 and IoU@5 0.67 after 2,800 steps (CFR-1); pipeline/weights/small/README.md.""",
)
