"""The whole pipeline, small, on made data: draw -> shards -> train -> evaluate CFR-0, CFR-1, CFR-4 -> report.

    python -m jobs.demo [OUT]

It takes some minutes without a GPU. The same command again continues what was stopped.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional

from jobs import ending, evaluate, flags, prepare, train
from pipeline import storage
from pipeline.config import Tracking
from pipeline.data.readers.synthetic import write_synthetic
from pipeline.engine.main import main
from pipeline.engine.progress import duration
from pipeline.storage.json_files import read_json
from pipeline.tracking.store_uri import resolve_tracking


@dataclass(frozen=True, kw_only=True)
class Args:
    out: Positional[Annotated[str, flags.described("[OUT]", "Folder for all of it")]] = "runs/demo"


def job(args: list[str]) -> None:
    out = storage.absolute(flags.parse(Args, args, prog="jobs.demo", about=__doc__).out)
    begin = time.monotonic()
    with ending.part_of_a_job():
        evaluations = carry_out(out)
    finish(evaluations, out, time.monotonic() - begin)


def carry_out(out: str) -> dict[str, str]:
    """All jobs one after the other; folders of the evaluations by model."""
    raw = storage.join(out, "raw")
    say(1, "drawing raw files in the COCO + LVIS layout", raw)
    write_synthetic(raw, train=320, val=48, seed=0)
    for split in ("train", "val"):
        say(2, f"converting {split} to shards", storage.join(out, split))
        prepare.job(["coco-lvis", "--root", raw, "--split", split, "--out", storage.join(out, split)])
    say(3, "training the recipe tiny", storage.join(out, "train-tiny"))
    run = storage.join(out, "train-tiny")
    data = ["--data.train", storage.join(out, "train"), "--data.val", storage.join(out, "val")]
    train.job(["tiny", *data, "--out", run])
    say(4, "evaluating CFR-0, CFR-1 and CFR-4 on unseen objects", storage.join(out, "eval-tiny"))
    report = storage.join(out, "eval-tiny")
    raw_eval = f"synthetic-eval={storage.join(raw, 'eval')}"
    evaluate.job(["--checkpoint", run, "--data", raw_eval, "--cfr-steps", "0", "1", "4", "--out", report])
    untrained = storage.join(out, "eval-untrained")
    start = storage.join(run, "checkpoints", "step_00000000")
    evaluate.job(["--checkpoint", start, "--data", raw_eval, "--cfr-steps", "0", "--out", untrained])
    packaged = storage.join(out, "eval-small")
    evaluate.job(["--checkpoint", "small", "--data", raw_eval, "--cfr-steps", "0", "1", "--out", packaged])
    return {"untrained": untrained, "tiny": report, "small (packaged)": packaged}


def say(number: int, what: str, where: str) -> None:
    print(f"\n[{number}/4] {what}: {os.path.relpath(where)}", flush=True)


def finish(evaluations: dict[str, str], out: str, seconds: float) -> None:
    """The table of the demo, a row for each setting of evaluations by model, and where to look."""
    print(f"\n{'setting':<24}{'objects':>8}{'NoC@80':>8}{'NoC@90':>8}{'IoU@1':>8}{'IoU@5':>8}{'s/click':>9}")
    for name, folder in evaluations.items():
        for s in read_json(storage.join(folder, "summary.json"))["results"]:
            setting = f"{name} CFR-{s['cfr_steps']}"
            print(
                f"{setting:<24}{s['objects']:>8}{s['noc']['80']:>8.2f}{s['noc']['90']:>8.2f}"
                f"{s['mean_iou'][0]:>8.3f}{s['mean_iou'][4]:>8.3f}{s['seconds_per_click']:>9.3f}"
            )
    run, report = storage.join(out, "train-tiny"), storage.join(evaluations["tiny"], "report.html")
    words = ("--checkpoint", ending.place(run), "--data", "mine=FOLDER", "--cfr-steps", "0", "1")
    line = ending.command("evaluate", *words, "--out", ending.place(storage.join(out, "mine")))
    print(f"\nDone in {duration(seconds)}.")
    ending.say(
        {"Run": run, "Report": report},
        [
            ("measure it on your own pictures: FOLDER holds images/ and masks/", line),
            *ending.mlflow_ui(resolve_tracking(Tracking()).uri),
        ],
    )


if __name__ == "__main__":
    main(job)
