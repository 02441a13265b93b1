"""Recipes: complete training configs that say what result they should give.

The published ones hold the published constants, odd ones too; one difference stands for all of them: with layer-wise
decay (off in every recipe, --optim.layer_decay 0.75 turns it on) the click embedding is trained here, the original
leaves it out of every optimizer group.
"""

from __future__ import annotations

from jobs.recipes import cfr_icl, simpleclick
from jobs.recipes.presets import Recipe
from jobs.recipes.small import SMALL
from jobs.recipes.tiny import TINY

RECIPES: dict[str, Recipe] = {r.config.recipe: r for r in (TINY, SMALL, *simpleclick.RECIPES, *cfr_icl.RECIPES)}
