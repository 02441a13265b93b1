"""Recipes: functions that return a complete training config and say what result it should give.

The published ones hold the published constants, odd ones too; one difference stands for all of them: with layer-wise
decay (off in every recipe, --optim.layer_decay 0.75 turns it on) the click embedding is trained here, the original
leaves it out of every optimizer group.
"""

from __future__ import annotations

from collections.abc import Callable

from jobs.recipes import cfr_icl, ours, simpleclick
from jobs.recipes.tiny import tiny
from pipeline import config

RECIPES: dict[str, Callable[[], config.TrainConfig]] = {
    f.__name__: f for f in (tiny, *simpleclick.RECIPES, *cfr_icl.RECIPES, *ours.RECIPES)
}

STARTS: dict[str, str] = {**cfr_icl.STARTS, **ours.STARTS}
"""Recipes that do not run without --model.start, and what belongs there."""
