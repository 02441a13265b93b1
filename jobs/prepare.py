"""Raw annotated images -> Parquet shards.

    python -m jobs.prepare SOURCE --root PATH [--split train|val] --out URI

The same command again continues an interrupted conversion.
"""

from __future__ import annotations

import argparse
import time

from pipeline import storage
from pipeline.data.mask_rules import RULES
from pipeline.data.readers import open_reader
from pipeline.data.readers.coco_instances import CROWDS, EXIFS
from pipeline.data.readers.layouts import LOOKS, other_layout
from pipeline.data.rejects import lines
from pipeline.data.shards import write_shards
from pipeline.engine import lease
from pipeline.engine.main import main
from pipeline.engine.progress import duration
from pipeline.errors import UserError


class Parser(argparse.ArgumentParser):
    """argparse whose complaints are UserErrors: one message, exit code 2."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise UserError(f"{message}\n{self.format_usage().strip()}")


def parse(args: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="jobs.prepare",
        description=__doc__,
        epilog="\n".join(
            ["what lies in the root of each SOURCE:", *(f"  {n:<15} {text}" for n, text in LOOKS.items())]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SOURCE", help="the layout of the raw data; see below")
    parser.add_argument("--root", required=True, help="folder (or URI) of the raw data, in the source's own layout")
    parser.add_argument(
        "--split", default="", help="train or val, for a source that has them (default: train, of voc val)"
    )
    parser.add_argument("--scores", default="", help="of sbd's train split: table (row index, name, score) for weights")
    rules = "; ".join(f"{name}: {text}" for name, text in RULES.items())
    parser.add_argument("--masks", default="", help=f"of folder: what masks mean (default: by their values). {rules}")
    parser.add_argument(
        "--annotations", default="", help="of coco-instances: the annotation file, below the root or not"
    )
    parser.add_argument("--crowd", default="", help=f"of coco-instances: what crowd marks mean: {' or '.join(CROWDS)}")
    parser.add_argument(
        "--exif",
        default="",
        help=f"of coco-instances: pixels the masks of turned photographs lie on: {', '.join(EXIFS)}",
    )
    parser.add_argument("--out", required=True, help="folder (or URI) for the shards; new, or of the same command")
    parser.add_argument("--max-bad-fraction", type=float, default=0.01, help="share of bad images that is still fine")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the rows (and of synthetic pictures)")
    return parser.parse_args(args)


def job(args: list[str]) -> None:
    options = parse(args)
    if not 0 <= options.max_bad_fraction <= 1:
        raise UserError(f"--max-bad-fraction is a share: {options.max_bad_fraction} is not between 0 and 1.")
    if options.seed < 0:
        raise UserError(f"--seed is a number from 0 up, not {options.seed}.")
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
    print(f"prepared in {duration(time.monotonic() - start)}: {storage.absolute(options.out)}")


if __name__ == "__main__":
    main(job)
