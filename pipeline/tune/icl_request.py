"""What a sweep over training settings was asked for, checked before any work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline import storage
from pipeline.config import TrainConfig
from pipeline.config import io as config_io
from pipeline.config.sweeps import IclSweepConfig
from pipeline.data.manifest import load_manifest
from pipeline.errors import UserError
from pipeline.evaluate.request import claim
from pipeline.model.segmenter import check_crop
from pipeline.model.start import new_model
from pipeline.train.run_folder import FREE, inputs_of
from pipeline.tune.proposals import Proposal, check_trials, config_of, first_proposals, search_identity
from pipeline.tune.spaces import Space, build, icl_defaults
from pipeline.tune.trials import Objective, objectives_of

IDENTITY = "sweep.json"
VALIDATED = ("noc80", "noc85", "noc90", "iou1", "iou3", "iou5")
"""The objectives that a validation during training measures (`evaluate.validate`)."""


@dataclass(frozen=True)
class CheckedIcl:
    """A sweep that can be carried out.

    Attributes:
        run: what every trial trains but for its setting; it validates every `grace` steps.
        first: the published setting and the points given by hand, each once: they are tried first.
        grace: optimizer steps between validations.
        objects: objects and images of the training and validation data.
    """

    config: IclSweepConfig
    run: TrainConfig
    space: Space
    objectives: list[Objective]
    first: list[Proposal]
    grace: int
    objects: dict[str, dict[str, int]]

    @property
    def out(self) -> str:
        return self.run.out


def check(config: IclSweepConfig) -> CheckedIcl:
    """Check a sweep without starting anything; then claim the output folder for it.

    Raises:
        UserError: a wrong space, objective, number or data set, or a folder that holds something else.
    """
    run, steps = config.run, config.total_steps
    if config.gpu_hours and config.train.device != "gpu" and not config.train.gpu:
        raise UserError("--gpu-hours needs trials that train on GPUs (--train.device gpu); --hours counts all time.")
    objectives = _objectives(config)
    if not run.data.val:
        raise UserError("A sweep compares trials by validation: give --data.val.")
    manifests = {"train": load_manifest(run.data.train), "val": load_manifest(run.data.val)}
    check_crop(run.model, run.data.crop, "--data.crop")
    check_crop(run.model, run.cfr.crop, "--cfr.crop")
    if run.model.start:
        new_model(run.model, run.model.start)  # a wrong start is found before anything is begun
    grace = config.grace or max(1, steps // 9)
    if grace >= steps and config.reduction > 1:
        raise UserError(
            f"No trial can be stopped early: --grace is {grace} steps, and a trial trains {steps}. Give a smaller "
            "--grace, longer trials (--train.steps), or --reduction 1."
        )
    run = config_io.replace(run, **{"train.val_every": grace})
    space = build("icl", run, icl_defaults(run), config.space, config.only)
    check_trials(space, config)
    first = first_proposals(space, config.point)
    for proposal in first:
        config_of(space, proposal.setting)
    objects = {name: {"objects": m.objects, "images": m.rows} for name, m in manifests.items()}
    checked = CheckedIcl(config, run, space, objectives, first, grace, objects)
    claim(storage.join(run.out, IDENTITY), identity(checked), "a sweep", inputs_of(run))
    return checked


def _objectives(config: IclSweepConfig) -> list[Objective]:
    found = objectives_of(config.objectives, config.eval.target_iou)
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
    flat = config_io.flat_masked(sweep.run)
    lasting = {"train.steps", "train.epochs", "train.val_every", "train.val_objects", "data.train", "data.val"}
    config = {n: v for n, v in flat.items() if n in lasting or not n.startswith(FREE)}
    own = {"grace": sweep.grace, "reduction": sweep.config.reduction}
    return {"kind": "icl", "config": config, **search_identity(sweep.config, sweep.space), **own}
