"""What a cfr sweep was asked for, checked before any work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline import storage
from pipeline.config import Cfr, Model, TrainConfig
from pipeline.config.sweeps import CfrSweepConfig
from pipeline.errors import UserError
from pipeline.evaluate import request as evaluation
from pipeline.evaluate.request import Checked
from pipeline.model.segmenter import check_crop
from pipeline.tune.dimensions import Choice, Fixed, examples
from pipeline.tune.proposals import Proposal, check_trials, first_proposals, search_identity
from pipeline.tune.spaces import Space, build, cfr_defaults
from pipeline.tune.trials import Objective, objectives_of

IDENTITY = "sweep.json"
GUIDED, UNGUIDED = 8, 64  # settings of a generation: of a search that learns from results, and of one that does not


@dataclass(frozen=True, kw_only=True)
class CheckedSweep(Checked):
    """A sweep that can be carried out.

    Attributes:
        first: the published settings and the points given by hand, each setting once: they are tried first.
        generation: settings that are evaluated together.
    """

    config: CfrSweepConfig
    space: Space
    objectives: list[Objective]
    first: list[Proposal]
    generation: int


def fitting_crops(model: Model, own: int) -> list[int]:
    """Sides near 3/4, 1, 5/4 and 3/2 of a checkpoint's own crop that its network takes, rising."""
    found = {own}
    for quarters in (3, 5, 6):
        wanted = own * quarters / 4
        near = sorted(range(model.patch, 2 * own + 1, model.patch), key=lambda side: (abs(side - wanted), side))
        side = next((side for side in near if side >= 32 and _fits(model, side)), own)
        if abs(side - wanted) <= own / 8:
            found.add(side)
    return sorted(found)


def _fits(model: Model, side: int) -> bool:
    try:
        check_crop(model, side, "cfr.crop")
    except UserError:
        return False
    return True


def check(config: CfrSweepConfig) -> CheckedSweep:
    """Check a sweep without starting anything; then claim the output folder for it.

    Raises:
        UserError: a wrong space or objective; what `evaluate.request.look_at` and `claim` refuse.
    """
    objectives = objectives_of(config.objectives, config.eval.target_iou)
    found = evaluation.look_at(config)
    space = space_of(config, found["checkpoint"].model, [source.crop for source in found["sources"]])
    check_trials(space, config)
    sweep = CheckedSweep(
        **found,
        config=config,
        space=space,
        objectives=objectives,
        first=first_proposals(space, config.point),
        generation=config.generation or (GUIDED if config.search == "tpe" else UNGUIDED),
    )
    evaluation.claim(storage.join(sweep.out, IDENTITY), identity(sweep), "a sweep", evaluation.inputs_of(sweep))
    return sweep


def space_of(config: CfrSweepConfig, model: Model, crops: Sequence[int]) -> Space:
    """The space around the published settings, at the data sets' own crop.

    Where the data sets have different crops of their own, each keeps its own, unless the user searches the crop.

    Args:
        crops: of the data sets.

    Raises:
        UserError: a crop that the user wrote down and the network does not take, besides what `spaces.build` refuses.
    """
    base = TrainConfig(cfr=Cfr(crop=crops[0]))
    fitting = fitting_crops(model, crops[0]) if len(set(crops)) == 1 and not config.crop else []
    space = build("cfr", base, cfr_defaults(fitting), config.space, config.only, config.eval.max_clicks)
    crop = space.dimensions.get("cfr.crop")
    if isinstance(crop, Choice | Fixed):  # of a range, sides that do not fit become failed trials
        for side in examples(crop):
            check_crop(model, side, "--space cfr.crop")
    return space


def identity(sweep: CheckedSweep) -> dict[str, Any]:
    """What decides the results; the same in the output folder means that a sweep is continued.

    Not in it: the number of trials, which may be raised later, and where the work runs.
    """
    own = {**search_identity(sweep.config, sweep.space), "generation": sweep.generation}
    return {**evaluation.common_identity(sweep), "kind": "cfr", **own}
