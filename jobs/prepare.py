"""Raw annotated images -> Parquet shards.

    python -m jobs.prepare SOURCE --root PATH [--split train|val] --out URI

The same command again continues an interrupted conversion.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional

from jobs import ending, flags
from pipeline import storage
from pipeline.data.manifest import MANIFEST
from pipeline.data.mask_rules import RULES
from pipeline.data.readers import Reader, open_reader
from pipeline.data.readers.coco_instances import CROWDS, EXIFS
from pipeline.data.readers.layouts import LOOKS, other_layout
from pipeline.data.rejects import lines
from pipeline.engine import lease
from pipeline.engine.main import main
from pipeline.engine.progress import duration
from pipeline.errors import UserError

OF_MASKS = "; ".join(f"{name}: {text}" for name, text in RULES.items())
EITHER = ("folder", "coco-instances", "synthetic")  # sources that one trains on, or evaluates
OF_CROWDS, OF_EXIFS = " or ".join(CROWDS), ", ".join(EXIFS)


@dataclass(frozen=True, kw_only=True)
class Args:
    source: Positional[Annotated[str, flags.described("SOURCE", "The layout of the raw data; see above")]]
    root: str  # Folder (or URI) of the raw data, in the source's own layout
    out: str  # Folder (or URI) for the shards; new, or of the same command
    split: str = ""  # train or val, for a source that has them; not given: train, of voc val
    scores: str = ""  # Of sbd's train split: table (row index, name, score) for weights
    masks: Annotated[str, flags.described("", f"Of folder: what masks mean (else by their values). {OF_MASKS}")] = ""
    annotations: str = ""  # Of coco-instances: the annotation file, below the root or not
    crowd: Annotated[str, flags.described("", f"Of coco-instances: what crowd marks mean: {OF_CROWDS}")] = ""
    exif: Annotated[str, flags.described("", f"Of coco-instances: pixels of turned photographs' masks: {OF_EXIFS}")] = (
        ""
    )
    max_bad_fraction: float = 0.01  # Share of bad images that is still fine
    seed: int = 0  # Of the order of the rows (and of synthetic pictures)


def parse(args: list[str]) -> Args:
    layouts = "\n".join(f"  {name:<15} {text}" for name, text in LOOKS.items())
    about = f"{__doc__}\nWhat lies in the root of each SOURCE:\n\n{layouts}"
    return flags.parse(Args, args, prog="jobs.prepare", about=about)


def job(args: list[str]) -> None:
    options = parse(args)
    if not 0 <= options.max_bad_fraction <= 1:
        raise UserError(f"--max-bad-fraction is a share: {options.max_bad_fraction} is not between 0 and 1.")
    if options.seed < 0:
        raise UserError(f"--seed is a number from 0 up, not {options.seed}.")
    # Not above: Ray Data takes a second, and --help and a wrong option do not need it.
    from pipeline.data.shards import write_shards

    start = time.monotonic()
    reader = open_reader(
        options.source,
        options.root,
        options.split,
        options.seed,
        options.scores,
        masks=options.masks,
        annotations=options.annotations,
        crowd=options.crowd,
        exif=options.exif,
    )
    try:
        with lease.held(options.out, "jobs.prepare"):
            manifest = write_shards(
                reader, options.out, reader.split, seed=options.seed, max_bad_fraction=options.max_bad_fraction
            )
    except UserError as error:
        raise UserError(f"{error}{other_layout(options.source.lower(), options.root)}") from error
    size = sum(shard.bytes for shard in manifest.shards) / 1e6
    print(f"{manifest.rows} images, {manifest.objects} objects, {len(manifest.shards)} shards, {size:.1f} MB")
    for line in lines(reader, options.out, manifest):
        print(f"  {line}")
    out = storage.absolute(options.out)
    ending.say({f"Prepared in {duration(time.monotonic() - start)}": out}, next_steps(reader, out))


def next_steps(reader: Reader, out: str) -> list[ending.Step]:
    """What one does with shards: train on those of a training set, evaluate on others, either with the user's own."""
    shards, name = ending.place(out), re.sub(r"[^\w-]+", "-", out.rsplit("/", 1)[-1]).strip("-") or "data"
    beside = storage.join(out.rpartition("/")[0], "val")
    val = ("--data.val", ending.place(beside)) if out != beside and is_dataset(beside) else ()
    train = ("tiny", "--data.train", shards, *val, "--out", ending.beside(out, "tiny"))
    measure = ("--checkpoint", "small", "--data", f"{name}={shards}", "--cfr-steps", "0", "1")
    steps = []
    if reader.split == "train" or reader.source in EITHER:
        steps.append(("train a small model on it", ending.command("train", *train)))
    if reader.split != "train" or reader.source in EITHER:
        line = ending.command("evaluate", *measure, "--out", ending.beside(out, "small"))
        steps.append(("measure a model on it: here small, or one of yours", line))
    return steps


def is_dataset(uri: str) -> bool:
    return storage.exists(storage.join(uri, MANIFEST))


if __name__ == "__main__":
    main(job)
