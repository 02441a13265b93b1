"""Search training settings: click loss, SUEM, optimizer and click sampling.

python -m jobs.tune icl RECIPE --data.train URI --data.val URI --trials N --out URI [--space NAME=SPEC ...]
                               [--dotted.option VALUE ...]

Every trial trains the recipe with one setting and is judged by validation. The recipe as it is is always tried first.
Trials that are behind at a rung are stopped early (ASHA): after --grace steps, then --reduction times as many, ... .
--space replaces one entry of the space, adds one or, with a plain value, fixes it:
--space 'optim.lr=loguniform(1e-6,1e-4)' clicks.gamma=0.8. All options of jobs.train are taken as well.
"""

from __future__ import annotations

from dataclasses import replace

import tyro

from jobs import ending, flags
from jobs.recipes import RECIPES
from jobs.train import SHORT, completed, recipe_and_start
from pipeline import storage
from pipeline.config import TrainConfig
from pipeline.config import io as config_io
from pipeline.config.sweeps import IclSweepConfig, fields_of
from pipeline.engine import lease, stop
from pipeline.errors import UserError


def parse(args: list[str]) -> IclSweepConfig:
    """The sweep that a command line describes: a recipe, over it the command line; paths made absolute."""
    recipe, start, words = recipe_and_start(args, __doc__ or "")
    given = flags.parse(
        IclSweepConfig,
        words,
        prog=f"jobs.tune icl {recipe}",
        about=f"{__doc__}\nRecipe: {RECIPES[recipe].about}",
        default=IclSweepConfig(trials=tyro.MISSING, **fields_of(start, TrainConfig)),
        short=SHORT,
        joining=("--space", "--point"),
    )
    return replace(given, **fields_of(completed(given.run, recipe), TrainConfig))


def job(args: list[str]) -> None:
    config = parse(args)
    with lease.held(config.out, "jobs.tune icl"):
        carry_out(config)


def carry_out(config: IclSweepConfig) -> None:
    """Train the trials that are missing, and write the report."""
    # Not above: torch, Ray and MLflow take seconds, and --help and a wrong option need none of them.
    from jobs.tune_icl_log import tracked_icl
    from jobs.tune_log import print_best
    from pipeline.engine.connect import connect
    from pipeline.engine.device import free_gpus, takes_gpu
    from pipeline.tracking.run import import_early
    from pipeline.tune.icl_request import check
    from pipeline.tune.icl_sweep import IclSweep
    from pipeline.tune.icl_tuner import run
    from pipeline.tune.setting_file import BEST

    checked = check(config)
    import_early(config.tracking)
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
        summary, tracked = log.finish(sweep), log.log.run
    print_best(summary)
    made = {"Best setting": storage.join(checked.out, BEST), "Report": storage.join(checked.out, "report.html")}
    ending.say(made, [*next_steps(checked.run, checked.out), *ending.mlflow_ui(tracked.uri)], tracked.where)


def next_steps(run: TrainConfig, out: str) -> list[ending.Step]:
    """What one does with a setting: train with it."""
    from pipeline.tune.setting_file import BEST

    best = ending.place(storage.join(out, BEST))
    words = (run.recipe, "--config", best, "--data.train", ending.place(run.data.train))
    words += ("--data.val", ending.place(run.data.val), "--out", ending.beside(out, "best"))
    return [("train with the best setting", ending.command("train", *words))]
