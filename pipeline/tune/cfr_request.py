"""What a cfr sweep was asked for, checked before any work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline import storage
from pipeline.config import Cfr, Model, TrainConfig
from pipeline.errors import UserError
from pipeline.evaluate import request as evaluation
from pipeline.evaluate.request import Checked, Request
from pipeline.model.segmenter import check_crop
from pipeline.tune.dimensions import Choice, Fixed, examples
from pipeline.tune.proposals import Proposal, Search, first_proposals, grid
from pipeline.tune.spaces import Space, build, cfr_defaults
from pipeline.tune.trials import Objective, objectives_of

IDENTITY = "sweep.json"
GUIDED, UNGUIDED = 8, 64  # settings of a generation: of a search that learns from results, and of one that does not


@dataclass(frozen=True, kw_only=True)
class SweepRequest:
    """A cfr sweep as the command line describes it.

    Attributes:
        evaluation: checkpoint, data, output, rules, batch size and limit; its steps and cfr are not used.
        trials: settings to evaluate, the published ones and the points among them.
        words: NAME=SPEC of the space.
        only: search nothing but what the words name.
        points: "NAME=VALUE ..." settings tried right after the published ones.
        generation: settings evaluated together, sharing forward passes; 0: 8 with tpe, else 64.
    """

    evaluation: Request
    trials: int
    words: tuple[str, ...] = ()
    only: bool = False
    points: tuple[str, ...] = ()
    search: Search = "tpe"
    objectives: tuple[str, ...] = ("noc90", "passes")
    seed: int = 0
    generation: int = 0


@dataclass(frozen=True)
class CheckedSweep:
    """A sweep that can be carried out.

    Attributes:
        first: the published settings and the points given by hand, each setting once: they are tried first.
        generation: settings that are evaluated together.
    """

    request: SweepRequest
    evaluation: Checked
    space: Space
    objectives: list[Objective]
    first: list[Proposal]
    generation: int

    @property
    def out(self) -> str:
        return self.evaluation.out


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


def check(request: SweepRequest) -> CheckedSweep:
    """Check a request without starting anything; then claim the output folder for it.

    Raises:
        UserError: a wrong space, objective or number; what `evaluate.request.look_at` and `claim` refuse.
    """
    if request.trials < 1 or request.generation < 0:
        raise UserError("--trials must be at least 1, --generation at least 0.")
    objectives = objectives_of(request.objectives, request.evaluation.rules.target_iou)
    checked = evaluation.look_at(request.evaluation)
    space = space_of(request, checked)
    if request.search == "grid" and (size := len(grid(space))) > request.trials:
        raise UserError(
            f"The grid has {size} settings, more than --trials {request.trials}: raise it, narrow the "
            "space, or take --search random for a part of it."
        )
    generation = request.generation or (GUIDED if request.search == "tpe" else UNGUIDED)
    sweep = CheckedSweep(request, checked, space, objectives, first_proposals(space, request.points), generation)
    evaluation.claim(storage.join(checked.out, IDENTITY), identity(sweep), "a sweep", evaluation.inputs_of(checked))
    return sweep


def space_of(request: SweepRequest, checked: Checked) -> Space:
    """The space around the published settings, at the data sets' own crop.

    Where the data sets have different crops of their own, each keeps its own, unless the user searches the crop.

    Raises:
        UserError: a crop that the user wrote down and the network does not take, besides what `spaces.build` refuses.
    """
    model, crops = checked.checkpoint.model, [source.crop for source in checked.sources]
    config = TrainConfig(cfr=Cfr(crop=crops[0]))
    fitting = fitting_crops(model, crops[0]) if len(set(crops)) == 1 and not request.evaluation.crop else []
    budget = request.evaluation.rules.max_clicks
    space = build("cfr", config, cfr_defaults(fitting), request.words, request.only, budget)
    crop = space.dimensions.get("cfr.crop")
    if isinstance(crop, Choice | Fixed):  # of a range, sides that do not fit become failed trials
        for side in examples(crop):
            check_crop(model, side, "--space cfr.crop")
    return space


def identity(sweep: CheckedSweep) -> dict[str, Any]:
    """What decides the results; the same in the output folder means that a sweep is continued.

    Not in it: the number of trials, which may be raised later, and where the work runs.
    """
    request = sweep.request
    base = evaluation.identity(sweep.evaluation)
    for name in ("cfr_steps", "cfr"):
        del base[name]
    return {
        **base,
        "kind": "cfr",
        "space": sweep.space.to_dict(),
        "points": list(request.points),
        "search": request.search,
        "objectives": list(request.objectives),
        "seed": request.seed,
        "generation": sweep.generation,
    }
