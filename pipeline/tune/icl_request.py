"""What a sweep over training settings was asked for, checked before any work."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, get_args

from pipeline import storage
from pipeline.config import TrainConfig
from pipeline.config import io as config_io
from pipeline.data.manifest import load_manifest
from pipeline.errors import UserError
from pipeline.evaluate.request import claim
from pipeline.model.segmenter import check_crop
from pipeline.model.start import new_model
from pipeline.train.run_folder import FREE, inputs_of
from pipeline.tune.proposals import Proposal, Search, config_of, first_proposals, grid
from pipeline.tune.spaces import Space, build, icl_defaults
from pipeline.tune.trials import Objective, objectives_of

IDENTITY = "sweep.json"
VALIDATED = ("noc80", "noc85", "noc90", "iou1", "iou3", "iou5")
"""The objectives that a validation during training measures (`evaluate.validate`)."""


@dataclass(frozen=True, kw_only=True)
class IclRequest:
    """A sweep over training settings as the command line describes it.

    Attributes:
        run: the recipe with its overrides: the values of all that is not searched. `out` is the sweep's folder.
        trials: settings to train, the published one and the points among them.
        words: NAME=SPEC of the space.
        only: search nothing but what the words name.
        points: "NAME=VALUE ..." settings tried right after the published one.
        objectives: the first one decides early stopping.
        seed: of the search.
        grace: optimizer steps between validations, which are those before a trial may be stopped; 0: a ninth of the
            run. It takes the place of `run.train.val_every`.
        reduction: of the trials that reach a rung, one in so many goes on to the next; 1: none is stopped early.
        concurrent: trials at once; 0: as many as the cluster holds.
        hours: after so many hours of work no trial is begun, and those that train save and stay unfinished; with a
            higher limit the same sweep goes on; 0: no limit.
        gpu_hours: the same, over all GPUs.
    """

    run: TrainConfig
    trials: int
    words: tuple[str, ...] = ()
    only: bool = False
    points: tuple[str, ...] = ()
    search: Search = "tpe"
    objectives: tuple[str, ...] = ("noc90",)
    seed: int = 0
    grace: int = 0
    reduction: int = 3
    concurrent: int = 0
    hours: float = 0.0
    gpu_hours: float = 0.0


@dataclass(frozen=True)
class CheckedIcl:
    """A sweep that can be carried out.

    Attributes:
        run: what every trial trains but for its setting; it validates every `grace` steps.
        first: the published setting and the points given by hand, each once: they are tried first.
        grace: optimizer steps; see the request.
        objects: objects and images of the training and validation data.
    """

    request: IclRequest
    run: TrainConfig
    space: Space
    objectives: list[Objective]
    first: list[Proposal]
    grace: int
    objects: dict[str, dict[str, int]]

    @property
    def out(self) -> str:
        return self.run.out


def check(request: IclRequest) -> CheckedIcl:
    """Check a request without starting anything; then claim the output folder for it.

    Raises:
        UserError: a wrong space, objective, number or data set, or a folder that holds something else.
    """
    run, steps = request.run, request.run.total_steps
    _check_numbers(request)
    objectives = _objectives(request)
    if not run.data.val:
        raise UserError("A sweep compares trials by validation: give --data.val.")
    manifests = {"train": load_manifest(run.data.train), "val": load_manifest(run.data.val)}
    check_crop(run.model, run.data.crop, "--data.crop")
    check_crop(run.model, run.cfr.crop, "--cfr.crop")
    if run.model.start:
        new_model(run.model, run.model.start)  # a wrong start is found before anything is begun
    grace = request.grace or max(1, steps // 9)
    if grace >= steps and request.reduction > 1:
        raise UserError(
            f"No trial can be stopped early: --grace is {grace} steps, and a trial trains {steps}. Give a smaller "
            "--grace, longer trials (--train.steps), or --reduction 1."
        )
    run = config_io.replace(run, **{"train.val_every": grace})
    space = build("icl", run, icl_defaults(run), request.words, request.only)
    if request.search == "grid" and (size := len(grid(space))) > request.trials:
        raise UserError(
            f"The grid has {size} settings, more than --trials {request.trials}: raise it, narrow the "
            "space, or take --search random for a part of it."
        )
    first = first_proposals(space, request.points)
    for proposal in first:
        config_of(space, proposal.setting)
    objects = {name: {"objects": m.objects, "images": m.rows} for name, m in manifests.items()}
    checked = CheckedIcl(request, run, space, objectives, first, grace, objects)
    claim(storage.join(run.out, IDENTITY), identity(checked), "a sweep", inputs_of(run))
    return checked


def _check_numbers(request: IclRequest) -> None:
    if request.trials < 1 or request.grace < 0 or request.reduction < 1 or request.concurrent < 0:
        raise UserError("--trials and --reduction must be at least 1, --grace and --concurrent at least 0.")
    if request.search not in get_args(Search):
        raise UserError(f"--search is one of {', '.join(get_args(Search))}.")
    if not (0 <= request.hours < math.inf and 0 <= request.gpu_hours < math.inf):
        raise UserError("--hours and --gpu-hours are numbers of at least 0 (0: no limit).")
    if request.gpu_hours and request.run.train.device != "gpu" and not request.run.train.gpu:
        raise UserError("--gpu-hours needs trials that train on GPUs (--train.device gpu); --hours counts all time.")


def _objectives(request: IclRequest) -> list[Objective]:
    found = objectives_of(request.objectives, request.run.eval.target_iou)
    unknown = [o.name for o in found if o.name not in VALIDATED]
    if unknown:
        raise UserError(
            f"A validation during training does not measure {', '.join(unknown)}; objectives of an icl sweep: "
            f"{', '.join(VALIDATED)}."
        )
    return found


def identity(sweep: CheckedIcl) -> dict[str, Any]:
    """What decides the results; the same in the output folder means that a sweep is continued.

    Not in it: the number of trials and the budget, which may be raised later, and where the work runs.
    """
    request = sweep.request
    flat = config_io.flat_masked(sweep.run)
    lasting = {"train.steps", "train.epochs", "train.val_every", "train.val_objects", "data.train", "data.val"}
    config = {n: v for n, v in flat.items() if n in lasting or not n.startswith(FREE)}
    return {
        "kind": "icl",
        "config": config,
        "space": sweep.space.to_dict(),
        "points": list(request.points),
        "search": request.search,
        "objectives": list(request.objectives),
        "seed": request.seed,
        "grace": sweep.grace,
        "reduction": request.reduction,
    }
