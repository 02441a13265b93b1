"""Masks for clicks that somebody has made: images and a file of clicks in, PNG masks and a COCO file out.

python -m jobs.predict --checkpoint URI --images URI --clicks FILE --out URI

FILE is CSV, JSON Lines or Parquet with a row for each click: image (path below --images), object (a name of its own on
the image; may be left out), x, y (pixels from 0, x to the right) and positive (1 or 0; may be left out). Clicks of an
object count in the order of their rows. A column `clicks` (a list of {x, y, positive}) makes it one row an object. A
COCO file (.json) gives its keypoints as positive clicks, or of a box its centre. The same command again continues. Of
an option below --cfr. the last part is enough: --threshold 0.5.
"""

from __future__ import annotations

from jobs import ending, flags
from pipeline import storage
from pipeline.config import Cfr
from pipeline.config.evaluation import PredictConfig
from pipeline.engine import lease
from pipeline.engine.main import main

SHORT = {**flags.short_forms(cfr=Cfr), "cfr_clicks": "cfr.clicks", "crop": "crop", "cfr.crop": "crop"}
SHORT |= {"clicks": "clicks", "cfr.steps": "cfr_steps", "steps": "cfr_steps"}


def parse(args: list[str]) -> PredictConfig:
    return flags.parse(PredictConfig, args, prog="jobs.predict", about=__doc__, short=SHORT)


def job(args: list[str]) -> None:
    config = parse(args)
    # Not above: torch and Ray take seconds, and --help and a wrong option need neither.
    from pipeline.engine.connect import connect
    from pipeline.predict.job import check, predict

    with lease.held(config.out, "jobs.predict"):
        checked = check(config)
        connect()
        summary = predict(checked)
    for reason, count in summary["rejected"].items():
        print(f"set aside: {count} x {reason}, listed in {checked.out}/rejected.parquet")
    masks = f"{summary['objects']} masks on {summary['images']} images"
    files = {masks: "masks", "COCO file": "annotations.json", "Report": "report.html"}
    made = {what: storage.join(checked.out, name) for what, name in files.items()}
    ending.say(made, next_steps(checked.images, checked.out))


def next_steps(images: str, out: str) -> list[ending.Step]:
    """What one does with masks: make them a data set."""
    coco = ending.place(storage.join(out, "annotations.json"))
    words = ("coco-instances", "--root", ending.place(images), "--annotations", coco)
    line = ending.command("prepare", *words, "--out", ending.beside(out, "shards"))
    return [("make them a data set to train on", line)]


if __name__ == "__main__":
    main(job)
