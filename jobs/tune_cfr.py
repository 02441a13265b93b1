"""Search the CFR settings of a fixed checkpoint: clicks against forward passes and seconds.

python -m jobs.tune cfr --checkpoint URI --data NAME=URI [...] --trials N --out URI [--space NAME=SPEC ...]

Searches refinement steps, refined clicks, the adaptive stop, mask threshold, zoom-in, crop and flip. CFR-0, CFR-1,
CFR-4 and A-CFR-4 as published are always tried first. Settings of a generation are evaluated together, and forward
passes that they have in common are computed once. --space replaces one entry of the space, adds one or, with a plain
value, fixes it: --space 'cfr.steps=choice(0,1,2)' cfr.flip=true. Of an option below --eval. the last part is enough.
"""

from __future__ import annotations

from dataclasses import replace

from jobs import ending, flags
from pipeline import storage
from pipeline.config import Eval
from pipeline.config.sweeps import CfrSweepConfig
from pipeline.engine import lease

SHORT = {**flags.short_forms(eval=Eval), "seed": "search_seed", "cfr.crop": "crop"}


def parse(args: list[str]) -> CfrSweepConfig:
    """The sweep that a command line describes."""
    joining = ("--space", "--data", "--point")
    return flags.parse(CfrSweepConfig, args, prog="jobs.tune cfr", about=__doc__, short=SHORT, joining=joining)


def job(args: list[str]) -> None:
    config = parse(args)
    with lease.held(config.out, "jobs.tune cfr"):
        carry_out(config)


def carry_out(config: CfrSweepConfig) -> None:
    """Evaluate the settings that are missing, and write the report."""
    # Not above: torch, Ray and MLflow take seconds, and --help and a wrong option need none of them.
    from jobs.tune_cfr_log import print_passes, tracked_cfr
    from pipeline.engine.connect import connect
    from pipeline.engine.device import evaluating_on_device
    from pipeline.tracking.run import import_early
    from pipeline.tune.cfr_request import check
    from pipeline.tune.cfr_sweep import Sweep
    from pipeline.tune.setting_file import BEST

    checked = check(config)
    import_early(config.tracking)
    connect()
    checked = replace(checked, config=evaluating_on_device(checked.config))
    with tracked_cfr(checked) as log:
        sweep = Sweep(checked)
        sweep.run(log.trial)
        summary, tracked = log.finish(sweep), log.log.run
    print_passes(summary)
    made = {"Best setting": storage.join(checked.out, BEST), "Report": storage.join(checked.out, "report.html")}
    ending.say(made, [*next_steps(config, checked.out), *ending.mlflow_ui(tracked.uri)], tracked.where)


def next_steps(config: CfrSweepConfig, out: str) -> list[ending.Step]:
    """What one does with a setting: evaluate with it."""
    from pipeline.tune.setting_file import BEST

    best = ending.place(storage.join(out, BEST))
    words = ("--checkpoint", config.checkpoint, "--data", *config.data, "--config", best)
    line = ending.command("evaluate", *words, "--out", ending.beside(out, "best"))
    return [("evaluate with the best setting", line)]
