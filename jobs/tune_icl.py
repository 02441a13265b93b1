"""Search training settings: click loss, SUEM, optimizer and click sampling.

python -m jobs.tune icl RECIPE --data.train URI --data.val URI --trials N --out URI [--space NAME=SPEC ...]
                               [--dotted.option VALUE ...]

Every trial trains the recipe with one setting and is judged by validation. The recipe as it is is always tried first.
Trials that are behind at a rung are stopped early (ASHA): after --grace steps, then --reduction times as many, ... .
--space replaces one entry of the space, adds one or, with a plain value, fixes it:
--space 'optim.lr=loguniform(1e-6,1e-4)' clicks.gamma=0.8. All options of jobs.train are taken as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated

import tyro

from jobs.flags import joined
from jobs.recipes import RECIPES
from jobs.train import completed, recipe_and_start
from jobs.tune_icl_log import tracked_icl
from jobs.tune_log import print_best
from pipeline.config import TrainConfig
from pipeline.config import io as config_io
from pipeline.engine import lease, stop
from pipeline.engine.connect import connect
from pipeline.engine.device import free_gpus, takes_gpu
from pipeline.errors import UserError
from pipeline.tune.icl_request import IclRequest, check
from pipeline.tune.icl_sweep import IclSweep
from pipeline.tune.icl_tuner import run
from pipeline.tune.proposals import Search


@dataclass(frozen=True, kw_only=True)
class Args:
    run: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)
    trials: int  # Settings to train, the published one among them; may be raised later
    space: tuple[str, ...] = ()  # NAME=SPEC: search a name in another range, another name too, or fix it
    only: bool = False  # Search only the names of --space, not the rest of the default space
    point: tuple[str, ...] = ()  # "NAME=VALUE NAME=VALUE ...": settings to try right after the published one
    search: Search = "tpe"  # tpe and random propose through Optuna; grid takes every setting of the space
    objectives: tuple[str, ...] = ("noc90",)  # Of noc80 noc85 noc90 iou1 iou3 iou5; the first decides early stopping
    search_seed: int = 0  # Of the search; --seed is that of the training
    grace: int = 0
    """Steps between validations (for train.val_every), which are those before a trial may be stopped; 0: a ninth of the
    run."""
    reduction: int = 3  # Of the trials at a rung, one in so many goes on; 1: none is stopped early
    concurrent: int = 0  # Trials at once; 0: as many as the cluster holds
    hours: float = 0.0  # End the sweep after so many hours of work; 0: no limit
    gpu_hours: float = 0.0  # End the sweep after so many hours of all GPUs together; 0: no limit


def request_of(args: list[str]) -> IclRequest:
    """The request behind a command line."""
    recipe, start, words = recipe_and_start(args, __doc__ or "")
    for flag in ("--space", "--point"):
        words = joined(words, flag)
    about = f"{__doc__}\nRecipe: {RECIPES[recipe].__doc__}"
    start_args = Args(run=start, trials=tyro.MISSING)
    given = tyro.cli(Args, prog=f"jobs.tune icl {recipe}", description=about, default=start_args, args=words)
    return IclRequest(
        run=completed(given.run, recipe),
        trials=given.trials,
        words=given.space,
        only=given.only,
        points=given.point,
        search=given.search,
        objectives=given.objectives,
        seed=given.search_seed,
        grace=given.grace,
        reduction=given.reduction,
        concurrent=given.concurrent,
        hours=given.hours,
        gpu_hours=given.gpu_hours,
    )


def job(args: list[str]) -> None:
    request = request_of(args)
    with lease.held(request.run.out, "jobs.tune icl"):
        carry_out(request)


def carry_out(request: IclRequest) -> None:
    """Train the trials that are missing, and write the report."""
    checked = check(request)
    connect()
    free = free_gpus()
    gpu = takes_gpu(checked.run.train.device, checked.run.train.gpu, free)
    print(f"device: {'GPU' if gpu else 'CPU'} ({free} GPUs are free)", flush=True)
    checked = replace(checked, run=config_io.replace(checked.run, **{"train.gpu": gpu}))
    with tracked_icl(checked) as log:
        sweep = IclSweep(checked, log.ended)
        if not run(sweep, log.open_trial()):
            print(f"stopped: {checked.out} is saved, and the same command continues it", flush=True)
            raise SystemExit(stop.code())
        if sweep.over_budget:
            left = len(sweep.unfinished)
            said = f"the hours are used up, {left} trials are unfinished: the same command with more goes on"
            if not sweep.trials:
                raise UserError(said)
            print(said, flush=True)
        summary = log.finish(sweep)
    print_best(summary)
    print(f"Report: {checked.out}/report.html")
