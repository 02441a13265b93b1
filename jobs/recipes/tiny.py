"""The recipe of the demo and the tests."""

from __future__ import annotations

from jobs.recipes.presets import Recipe
from pipeline import config

TINY = Recipe(
    config.TrainConfig(
        recipe="tiny",
        data=config.Data(crop=160, epoch_samples=1_600, min_object_area=100, chunk=32),
        clicks=config.Clicks(max_points=12),
        model=config.Model(patch=16, dim=96, depth=4, heads=3, neck_dims=(16, 24, 32, 48), head_dim=32, train_size=160),
        optim=config.Optim(lr=3e-3, milestones=(2,), clip_norm=1.0, warmup_steps=20),
        train=config.Train(epochs=3, batch=16, log_every=10, val_every=150, val_objects=16, checkpoint_every=50),
        cfr=config.Cfr(crop=160),
    ),
    """A 0.7 M parameter ViT at 160 pixels with SUEM and ICL, from scratch; for the demo, tests and a first look.

Reproduces: nothing published.
Start: random.
Hardware: a laptop CPU.
Expected: docs/evaluate.md, "What is verified"; a few minutes teach it what a click means, not published quality.""",
)
