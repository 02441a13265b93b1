"""Evaluate a checkpoint by simulated clicks: NoC, IoU curves and a report.

python -m jobs.evaluate --checkpoint URI --data NAME=URI [NAME=URI ...] --cfr-steps 0 1 4 --out URI

URI of --data holds prepared shards, or is a raw folder: then NAME says its layout (grabcut=..., in any case), and any
other NAME means a folder of images/ and masks/. NAME=LAYOUT:URI gives a raw folder a name of your own
(mine=coco-instances:/data/mine yours=coco-instances:/data/yours). The same command again finishes an interrupted
evaluation.

--config FILE takes the setting that a sweep found (best.json of jobs.tune cfr): its values are the defaults of the
flags they belong to (cfr.steps of --cfr-steps, cfr.expansion of --expansion, ...), so a flag that is given wins.
"""

from __future__ import annotations

from dataclasses import dataclass

import tyro

from jobs.evaluation_log import print_table, tracked, with_comparison
from jobs.flags import apart, config_flag, joined
from pipeline import storage
from pipeline.config import Cfr, Eval, Tracking, TrainConfig
from pipeline.config import io as config_io
from pipeline.engine import lease
from pipeline.engine.connect import connect
from pipeline.engine.device import Device, batch_for, evaluating_on_device
from pipeline.engine.main import main
from pipeline.errors import UserError
from pipeline.evaluate.job import evaluate
from pipeline.evaluate.request import Request, check, on_device
from pipeline.evaluate.sources import parse_data
from pipeline.report.compare import Earlier, read_earlier
from pipeline.tune.setting_file import read_setting


@dataclass(frozen=True, kw_only=True)
class Args:
    checkpoint: str  # Our checkpoint or run folder, or a published .pth file
    data: tuple[str, ...]  # NAME=URI or NAME=LAYOUT:URI of each data set
    out: str  # Folder or URI for the results
    cfr_steps: tuple[int, ...] = (0,)  # n of CFR-n, one evaluation for each: extra forward passes per refined click
    cfr_clicks: int = 1  # Only the first so many clicks are refined
    adaptive: bool = False  # A-CFR: stop refining when the mask hardly changes
    adaptive_pixels: int = 20  # A-CFR stops when at most so many pixels of the mask changed
    crop: int = 0  # Side of the network's input, pixels; 0: as the checkpoint was trained (published on davis: 672)
    threshold: float = 0.49  # Probability above which a pixel belongs to the mask
    flip: bool = True  # Average with the mirrored input
    zoom_threshold: float = 0.50  # Probability above which a pixel counts for the zoom-in box
    expansion: float = 1.4  # Zoom-in box over object box, per side
    min_crop: int = 200  # Smallest side of the zoom-in box, image pixels
    recompute_iou: float = 0.5  # The zoom-in box in use is kept while its IoU with the new one is at least this
    max_clicks: int = 20  # Click budget of an object
    target_iou: float = 0.95  # An object ends when it reaches this IoU
    full_curve: bool = False  # Click every object to the budget
    batch_size: int | None = None
    """Objects that share a forward pass; above 1 clicks may differ by rounding. Not given: 16 on a GPU, else 1."""
    voc_grey: bool = False  # Read --data voc=FOLDER as the published evaluation did, by grey values: some objects merge
    limit: int = 0  # Evaluate only the first so many objects of each data set; 0: all
    actors: int = 0  # Inference actors; 0: one per free GPU, else one per two free CPUs
    device: Device = "auto"  # auto: GPUs where the cluster has free ones, one for each actor
    gpu: bool = False  # The older way to say --device gpu
    config: str = ""  # File of a setting that a sweep found, such as best.json: the defaults of the flags it speaks of
    compare: str = ""  # Results folder of an earlier evaluation: the report then says how every object differs
    max_bad_fraction: float = 0.01  # Share of unusable images or objects above which the job fails
    hang_seconds: int = 600  # An actor that does not move on for so long is killed and started again; 0: never
    tracking_uri: str = ""  # MLflow; empty: MLFLOW_TRACKING_URI, else ./mlflow.db
    experiment: str = "cfr-icl"  # MLflow experiment
    tracking: bool = True  # Log to MLflow


def request_of(args: Args) -> Request:
    """The request behind a command line."""
    return Request(
        checkpoint=args.checkpoint,
        data=parse_data(args.data, args.voc_grey),
        out=args.out,
        steps=args.cfr_steps,
        cfr=Cfr(
            clicks=args.cfr_clicks,
            adaptive=args.adaptive,
            adaptive_pixels=args.adaptive_pixels,
            threshold=args.threshold,
            flip=args.flip,
            zoom_threshold=args.zoom_threshold,
            expansion=args.expansion,
            min_crop=args.min_crop,
            recompute_iou=args.recompute_iou,
        ),
        rules=Eval(
            max_clicks=args.max_clicks,
            target_iou=args.target_iou,
            full_curve=args.full_curve,
            actors=args.actors,
            device=args.device,
            gpu=args.gpu,
            max_bad_fraction=args.max_bad_fraction,
            hang_seconds=args.hang_seconds,
        ),
        crop=args.crop,
        batch_size=1 if args.batch_size is None else args.batch_size,
        limit=args.limit,
    )


def earlier_of(args: Args) -> Earlier | None:
    """The earlier evaluation to compare with, if one is named."""
    if not args.compare:
        return None
    uri = storage.absolute(args.compare)
    if uri == storage.absolute(args.out):
        raise UserError("--compare names the output folder; name that of another evaluation.")
    return read_earlier(uri)


FLAGS = {"cfr.steps": "cfr_steps", "cfr.clicks": "cfr_clicks"}
"""Flags whose name is not the last part of the dotted one."""


def parse(args: list[str]) -> Args:
    """The command line over the setting of --config, which is over the defaults.

    Raises:
        UserError: the file is not a setting of a cfr sweep.
    """
    args = apart(joined(joined(args, "--data"), "--cfr-steps"), "--cfr-steps")
    found = config_flag(args)
    if found is None:
        return tyro.cli(Args, prog="jobs.evaluate", description=__doc__, args=args)
    known = [name for name in config_io.flatten(TrainConfig()) if name.startswith("cfr.")]
    setting = read_setting(storage.absolute(found), "cfr", dict.fromkeys(known))
    setting = {n: v for n, v in config_io.flatten(config_io.replace(TrainConfig(), **setting)).items() if n in setting}
    defaults = {FLAGS.get(name, name.removeprefix("cfr.")): value for name, value in setting.items()}
    if "cfr_steps" in defaults:
        defaults["cfr_steps"] = (defaults["cfr_steps"],)
    whole = Args(**{"checkpoint": tyro.MISSING, "data": tyro.MISSING, "out": tyro.MISSING, **defaults})
    return tyro.cli(Args, prog="jobs.evaluate", description=__doc__, args=args, default=whole)


def job(args: list[str]) -> None:
    options = parse(args)
    with lease.held(options.out, "jobs.evaluate"):
        carry_out(options)


def carry_out(options: Args) -> None:
    """Evaluate what is missing, and write the report."""
    earlier = earlier_of(options)
    checked = check(request_of(options))
    tracking = Tracking(uri=options.tracking_uri, experiment=options.experiment, enabled=options.tracking)
    connect()
    rules = evaluating_on_device(checked.request.rules)
    checked = on_device(checked, rules, batch_for(options.batch_size, rules.gpu))
    with tracked(checked, tracking) as log:
        evaluation = evaluate(checked, log.about())
        if earlier is not None:
            evaluation = with_comparison(evaluation, earlier)
        log.report(evaluation)
    print_table(evaluation.summary)
    for line in [*evaluation.summary.get("compared", {}).get("notes", []), *evaluation.summary["left_out"]]:
        print(line)
    print(f"Report: {evaluation.out}/report.html")


if __name__ == "__main__":
    main(job)
