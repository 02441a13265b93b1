"""An annotator in the browser: clicks become masks, and masks a data set.

python -m jobs.serve --checkpoint URI [--images URI] [--out URI]

Prints one URL and serves until Ctrl-C. --images is a folder (with its sub-folders) to go through; without it images are
dropped into the page. What is saved goes to --out at once: masks/, annotations.json (COCO) and images/, which
`jobs.prepare coco-instances` reads; the same command again continues there. The server listens on this machine alone;
with another --host clients need a token, which is part of the URL. /api lists the HTTP interface. Of an option below
--cfr. the last part is enough: --adaptive.
"""

from __future__ import annotations

import contextlib
import os

from jobs import flags
from pipeline.config import Cfr
from pipeline.config.serving import ServeConfig
from pipeline.engine import lease
from pipeline.engine.main import main

SHORT = {**flags.short_forms(cfr=Cfr), "cfr_clicks": "cfr.clicks", "crop": "crop", "cfr.crop": "crop"}
SHORT |= {"cfr.steps": "cfr_steps", "steps": "cfr_steps"}


def parse(args: list[str]) -> ServeConfig:
    return flags.parse(ServeConfig, args, prog="jobs.serve", about=__doc__, short=SHORT)


def job(args: list[str]) -> None:
    config = parse(args)
    # Not above: torch and Ray take seconds, and --help and a wrong option need neither.
    from pipeline.engine.connect import connect
    from pipeline.serve.server import check, run

    # The engine's workers step back for all else of a machine; behind these somebody waits for every click.
    os.environ.setdefault("RAY_worker_niceness", "0")
    with lease.held(config.out, "jobs.serve") if config.out else contextlib.nullcontext():
        checked = check(config)
        connect(min_cpus=config.replicas + 1)
        run(checked)


if __name__ == "__main__":
    main(job)
