"""Search the CFR settings of a fixed checkpoint: clicks against forward passes and seconds.

python -m jobs.tune cfr --checkpoint URI --data NAME=URI [...] --trials N --out URI [--space NAME=SPEC ...]

Searches refinement steps, refined clicks, the adaptive stop, mask threshold, zoom-in, crop and flip. CFR-0, CFR-1,
CFR-4 and A-CFR-4 as published are always tried first. Settings of a generation are evaluated together, and forward
passes that they have in common are computed once. --space replaces one entry of the space, adds one or, with a plain
value, fixes it: --space 'cfr.steps=choice(0,1,2)' cfr.flip=true.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import tyro

from jobs.flags import joined
from jobs.tune_cfr_log import print_passes, tracked_cfr
from pipeline.config import Eval, Tracking
from pipeline.engine import lease
from pipeline.engine.connect import connect
from pipeline.engine.device import Device, batch_for, evaluating_on_device
from pipeline.evaluate.request import Request, on_device
from pipeline.evaluate.sources import parse_data
from pipeline.tune.cfr_request import SweepRequest, check
from pipeline.tune.cfr_sweep import Sweep
from pipeline.tune.proposals import Search


@dataclass(frozen=True, kw_only=True)
class Args:
    checkpoint: str  # Our checkpoint or run folder, or a published .pth file
    data: tuple[str, ...]  # NAME=URI of each data set; each counts the same in the objectives
    trials: int  # Settings to evaluate, the published ones among them; may be raised later
    out: str  # Folder or URI for the results; the same command again continues there
    space: tuple[str, ...] = ()  # NAME=SPEC: search a name in another range, another name too, or fix it
    only: bool = False  # Search only the names of --space, not the rest of the default space
    point: tuple[str, ...] = ()  # "NAME=VALUE NAME=VALUE ...": settings to try right after the published ones
    search: Search = "tpe"  # tpe and random propose through Optuna; grid takes every setting of the space
    objectives: tuple[str, ...] = ("noc90", "passes")  # Of noc80 noc85 noc90 noc95 iou1 iou3 iou5 passes seconds
    seed: int = 0  # Of the search
    generation: int = 0  # Settings evaluated together; 0: 8 with tpe, which learns from each generation, else 64
    crop: int = 0  # Side of the network's input where it is not searched; 0: as the checkpoint was trained
    max_clicks: int = 20  # Click budget of an object
    target_iou: float = 0.95  # An object ends when it reaches this IoU
    full_curve: bool = False  # Click every object to the budget
    batch_size: int | None = None
    """Passes of an object computed together; above 1 clicks may differ by rounding. Not given: 16 on a GPU, else 1."""
    voc_grey: bool = False  # Read --data voc=FOLDER as the published evaluation did, by grey values
    limit: int = 0  # Use only the first so many objects of each data set; 0: all
    actors: int = 0  # Inference actors; 0: one per free GPU, else one per two free CPUs
    device: Device = "auto"  # auto: GPUs where the cluster has free ones, one for each actor
    gpu: bool = False  # The older way to say --device gpu
    max_bad_fraction: float = 0.01  # Share of unusable images or objects above which the sweep fails
    hang_seconds: int = 600  # An actor that does not move on for so long is killed and started again; 0: never
    tracking_uri: str = ""  # MLflow; empty: MLFLOW_TRACKING_URI, else ./mlflow.db
    experiment: str = "cfr-icl"  # MLflow experiment
    tracking: bool = True  # Log to MLflow


def request_of(args: Args) -> SweepRequest:
    """The request behind a command line."""
    rules = Eval(
        max_clicks=args.max_clicks,
        target_iou=args.target_iou,
        full_curve=args.full_curve,
        actors=args.actors,
        device=args.device,
        gpu=args.gpu,
        max_bad_fraction=args.max_bad_fraction,
        hang_seconds=args.hang_seconds,
    )
    evaluation = Request(
        checkpoint=args.checkpoint,
        data=parse_data(args.data, args.voc_grey),
        out=args.out,
        rules=rules,
        crop=args.crop,
        batch_size=1 if args.batch_size is None else args.batch_size,
        limit=args.limit,
    )
    return SweepRequest(
        evaluation=evaluation,
        trials=args.trials,
        words=args.space,
        only=args.only,
        points=args.point,
        search=args.search,
        objectives=args.objectives,
        seed=args.seed,
        generation=args.generation,
    )


def job(args: list[str]) -> None:
    for flag in ("--space", "--data", "--point"):
        args = joined(args, flag)
    options = tyro.cli(Args, prog="jobs.tune cfr", description=__doc__, args=args)
    with lease.held(options.out, "jobs.tune cfr"):
        carry_out(options)


def carry_out(options: Args) -> None:
    """Evaluate the settings that are missing, and write the report."""
    checked = check(request_of(options))
    tracking = Tracking(uri=options.tracking_uri, experiment=options.experiment, enabled=options.tracking)
    connect()
    request = checked.evaluation.request
    rules = evaluating_on_device(request.rules)
    evaluation = on_device(checked.evaluation, rules, batch_for(options.batch_size, rules.gpu))
    checked = replace(checked, evaluation=evaluation)
    with tracked_cfr(checked, tracking) as log:
        sweep = Sweep(checked)
        sweep.run(log.trial)
        summary = log.finish(sweep)
    print_passes(summary)
    print(f"Report: {checked.out}/report.html")
