"""Evaluate a checkpoint by simulated clicks: NoC, IoU curves and a report.

python -m jobs.evaluate --checkpoint URI --data NAME=URI [NAME=URI ...] --cfr-steps 0 1 4 --out URI
python -m jobs.evaluate --predictor package.module:factory --data NAME=URI --out URI

URI of --data holds prepared shards, or is a raw folder: then NAME says its layout (grabcut=..., in any case), and any
other NAME means a folder of images/ and masks/. NAME=LAYOUT:URI gives a raw folder a name of your own
(mine=coco-instances:/data/mine yours=coco-instances:/data/yours). The same command again finishes an interrupted
evaluation. Of an option below --cfr. or --eval. the last part is enough: --threshold 0.5, --max-clicks 10.

--predictor evaluates any model with the interface of SAM's predictor (set_image, predict) by the same clicks: factory
is a function without arguments that returns one.

--config FILE takes the setting that a sweep found (best.json of jobs.tune cfr) for cfr.* and --cfr-steps; an option
that is given wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import tyro

from jobs import ending, flags
from pipeline import storage
from pipeline.config import Cfr, Eval, TrainConfig
from pipeline.config import io as config_io
from pipeline.config.evaluation import EvaluateConfig
from pipeline.engine import lease
from pipeline.engine.main import main
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.tracking.run import Run

SHORT = {
    **flags.short_forms(cfr=Cfr, eval=Eval),
    "cfr_clicks": "cfr.clicks",
    "crop": "crop",
    "cfr.crop": "crop",
    "cfr.steps": "cfr_steps",
    "steps": "cfr_steps",
}


def parse(args: list[str]) -> EvaluateConfig:
    """The command line over the setting of --config, which is over the defaults.

    Raises:
        UserError: the file is not a setting of a cfr sweep, or a value that is not allowed.
    """
    start = EvaluateConfig(data=tyro.MISSING, out=tyro.MISSING)
    file = flags.config_flag(args)
    if file is not None:
        from pipeline.tune.setting_file import read_setting

        known = [name for name in config_io.flatten(TrainConfig()) if name.startswith("cfr.")]
        setting = read_setting(storage.absolute(file), "cfr", dict.fromkeys(known))
        cfr = config_io.replace(TrainConfig(), **setting).cfr
        steps = (cfr.steps,) if "cfr.steps" in setting else start.cfr_steps
        start = replace(start, cfr=cfr, cfr_steps=steps, crop=cfr.crop if "cfr.crop" in setting else 0)
    return flags.parse(
        EvaluateConfig,
        flags.without_config(args),
        prog="jobs.evaluate",
        about=__doc__,
        default=start,
        short=SHORT,
        joining=("--data", "--cfr-steps"),
        commas=("--cfr-steps",),
    )


def job(args: list[str]) -> None:
    config = parse(args)
    with lease.held(config.out, "jobs.evaluate"):
        carry_out(config)


def carry_out(config: EvaluateConfig) -> None:
    """Evaluate what is missing, and write the report."""
    # Not above: torch, Ray and MLflow take seconds, and --help and a wrong option need none of them.
    from jobs.evaluation_log import print_table, tracked, with_comparison
    from pipeline.engine.connect import connect
    from pipeline.engine.device import evaluating_on_device
    from pipeline.evaluate.exports import check_masks
    from pipeline.evaluate.job import PARTS, evaluate
    from pipeline.evaluate.request import check
    from pipeline.report.compare import read_earlier
    from pipeline.tracking.run import import_early

    if config.compare and storage.absolute(config.compare) == storage.absolute(config.out):
        raise UserError("--compare names the output folder; name that of another evaluation.")
    earlier = read_earlier(storage.absolute(config.compare)) if config.compare else None
    checked = check(config)
    if config.masks:
        check_masks(storage.list_files(storage.join(checked.out, PARTS), ".parquet"))
    import_early(config.tracking)
    connect()
    checked = replace(checked, config=evaluating_on_device(checked.config))
    with tracked(checked) as log:
        evaluation = evaluate(checked, log.about)
        if earlier is not None:
            evaluation = with_comparison(evaluation, earlier)
        log.report(evaluation)
    print_table(evaluation.summary)
    for line in [*evaluation.summary.get("compared", {}).get("notes", []), *evaluation.summary["left_out"]]:
        print(line)
    say_ending(config, evaluation.summary, log.run)


def say_ending(config: EvaluateConfig, summary: Mapping[str, Any], run: Run) -> None:
    """What a finished evaluation made, and what one does next."""
    out = storage.absolute(config.out)
    made = {"Results": f"{out}/objects.parquet, summary.json"}
    made |= {"Masks": storage.join(out, "masks")} if summary.get("masks") else {}
    made |= {"Report": storage.join(out, "report.html")}
    ending.say(made, [*next_steps(config, out), *ending.mlflow_ui(run.uri)], run.where)


def next_steps(config: EvaluateConfig, out: str) -> list[ending.Step]:
    """A better setting, or one's own clicks; a predictor is put beside a checkpoint."""
    if config.predictor:
        words = ("--checkpoint", "small", "--data", *config.data, "--compare", ending.place(out))
        line = ending.command("evaluate", *words, "--out", ending.beside(out, "small"))
        return [("put a checkpoint beside it: here small, or one of yours", line)]
    model = ("--checkpoint", config.checkpoint)
    words = ("--data", *config.data, "--trials", "24", "--out", ending.beside(out, "sweep"))
    clicks = ("--images", "IMAGES", "--clicks", "CLICKS.csv", "--out", ending.beside(out, "predictions"))
    return [
        ("search the CFR setting that suits it", ending.command("tune cfr", *model, *words)),
        ("make masks of your own clicks", ending.command("predict", *model, *clicks)),
    ]


if __name__ == "__main__":
    main(job)
