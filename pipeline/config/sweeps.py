"""The options of the two kinds of sweep: over the CFR settings of a checkpoint, and over training settings."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Literal, get_args

from pipeline.config import TrainConfig
from pipeline.config.evaluation import EvaluationBase
from pipeline.config.options import check, options

Search = Literal["tpe", "random", "grid"]


@options
class SweepBase:
    """What is searched, how, and how long."""

    trials: int  # Settings to try, the published ones among them; may be raised later
    space: tuple[str, ...] = ()  # NAME=SPEC: search a name in another range, another name too, or fix it
    only: bool = False  # Search only the names of --space, not the rest of the default space
    point: tuple[str, ...] = ()  # "NAME=VALUE NAME=VALUE ...": settings to try right after the published ones
    search: Search = "tpe"  # tpe and random propose through Optuna; grid takes every setting of the space
    objectives: tuple[str, ...] = ("noc90",)
    search_seed: int = 0  # Of the search

    def __post_init__(self) -> None:
        check(self.search in get_args(Search), f"--search is one of {', '.join(get_args(Search))}.")


@options
class CfrSweepConfig(SweepBase, EvaluationBase):
    """A complete sweep over CFR settings: what `jobs.tune cfr` reads."""

    objectives: tuple[str, ...] = ("noc90", "passes")  # Of noc80 noc85 noc90 noc95 iou1 iou3 iou5 passes seconds
    generation: int = 0
    """Settings evaluated together, which share forward passes; 0: 8 with tpe, which learns from each generation, else
    64."""

    def __post_init__(self) -> None:
        super().__post_init__()
        EvaluationBase.__post_init__(self)
        check(self.generation >= 0, f"--generation must be at least 0, got {self.generation}.")


@options
class IclSweepConfig(SweepBase, TrainConfig):
    """A complete sweep over training settings: what `jobs.tune icl` reads; a training run, and the search around it."""

    objectives: tuple[str, ...] = ("noc90",)  # Of noc80 noc85 noc90 iou1 iou3 iou5; the first decides early stopping
    grace: int = 0
    """Steps between validations (for train.val_every), which are those before a trial may be stopped; 0: a ninth of the
    run."""
    reduction: int = 3  # Of the trials at a rung, one in so many goes on; 1: none is stopped early
    concurrent: int = 0  # Trials at once; 0: as many as the cluster holds
    hours: float = 0.0
    """After so many hours of work no trial is begun, and those that train save and stay unfinished; with a higher limit
    the same sweep goes on; 0: no limit."""
    gpu_hours: float = 0.0  # The same, over all GPUs together; 0: no limit

    def __post_init__(self) -> None:
        super().__post_init__()
        self.tracking.without_model()
        for name, least in (("reduction", 1), ("grace", 0), ("concurrent", 0), ("hours", 0), ("gpu_hours", 0)):
            given = getattr(self, name)
            check(given >= least, f"--{name.replace('_', '-')} must be at least {least}, got {given}.")

    @property
    def run(self) -> TrainConfig:
        """The training run by itself: the values of all that is not searched; `out` is the sweep's folder."""
        return TrainConfig(**fields_of(self, TrainConfig))


def fields_of(config: Any, cls: type) -> dict[str, Any]:
    """The values that a config has for the fields of another class of options."""
    return {f.name: getattr(config, f.name) for f in fields(cls)}
