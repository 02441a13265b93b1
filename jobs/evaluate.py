"""Evaluate a checkpoint by simulated clicks: NoC, IoU curves and a report.

python -m jobs.evaluate --checkpoint URI --data NAME=URI [NAME=URI ...] --cfr-steps 0 1 4 --out URI

URI of --data holds prepared shards, or is a raw folder: then NAME says its layout (grabcut=...), and any other NAME
means a folder of images/ and masks/. The same command again finishes an interrupted evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass

import tyro

from jobs.evaluation_log import print_table, tracked, with_comparison
from pipeline import runtime, storage
from pipeline.config import Cfr, Eval, Tracking
from pipeline.errors import UserError
from pipeline.evaluate.job import evaluate
from pipeline.evaluate.request import Request, check, parse_data
from pipeline.report.compare import Earlier, read_earlier


@dataclass(frozen=True, kw_only=True)
class Args:
    checkpoint: str  # Our checkpoint or run folder, or a published .pth file
    data: tuple[str, ...]  # NAME=URI of each data set
    out: str  # Folder or URI for the results
    cfr_steps: tuple[int, ...] = (0,)  # n of CFR-n, one evaluation for each: extra forward passes per refined click
    cfr_clicks: int = 1  # Only the first so many clicks are refined
    adaptive: bool = False  # A-CFR: stop refining when the mask hardly changes
    crop: int = 0  # Side of the network's input, pixels; 0: as the checkpoint was trained (published on davis: 672)
    threshold: float = 0.49  # Probability above which a pixel belongs to the mask
    flip: bool = True  # Average with the mirrored input
    max_clicks: int = 20  # Click budget of an object
    target_iou: float = 0.95  # An object ends when it reaches this IoU
    full_curve: bool = False  # Click every object to the budget
    batch_size: int = 1  # Objects that share a forward pass; above 1 clicks may differ by rounding
    voc_grey: bool = False  # Read --data voc=FOLDER as the published evaluation did, by grey values: some objects merge
    limit: int = 0  # Evaluate only the first so many objects of each data set; 0: all
    actors: int = 0  # Inference actors; 0: one per GPU with --gpu, else one per two free CPUs
    gpu: bool = False  # One GPU for each actor
    compare: str = ""  # Results folder of an earlier evaluation: the report then says how every object differs
    max_bad_fraction: float = 0.01  # Share of unusable images or objects above which the job fails
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
        cfr=Cfr(clicks=args.cfr_clicks, adaptive=args.adaptive, threshold=args.threshold, flip=args.flip),
        rules=Eval(
            max_clicks=args.max_clicks,
            target_iou=args.target_iou,
            full_curve=args.full_curve,
            actors=args.actors,
            gpu=args.gpu,
            max_bad_fraction=args.max_bad_fraction,
        ),
        crop=args.crop,
        batch_size=args.batch_size,
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


def job(args: list[str]) -> None:
    options = tyro.cli(Args, prog="jobs.evaluate", description=__doc__, args=args)
    earlier = earlier_of(options)
    checked = check(request_of(options))
    tracking = Tracking(uri=options.tracking_uri, experiment=options.experiment, enabled=options.tracking)
    runtime.connect()
    with tracked(checked, tracking) as log:
        evaluation = evaluate(checked, log.about())
        if earlier is not None:
            evaluation = with_comparison(evaluation, earlier)
        log.report(evaluation)
    print_table(evaluation.summary)
    print(f"Report: {evaluation.out}/report.html")


if __name__ == "__main__":
    runtime.main(job)
