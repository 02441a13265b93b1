"""Raw annotated images -> Parquet shards.

    python -m jobs.prepare SOURCE --root PATH [--split train|val] --out URI

The same command again continues an interrupted conversion.
"""

from __future__ import annotations

import argparse
import time

from pipeline import runtime, storage
from pipeline.data.manifest import REJECTED
from pipeline.data.mask_rules import RULES
from pipeline.data.readers import SOURCES, open_reader
from pipeline.data.shards import write_shards
from pipeline.errors import UserError


class Parser(argparse.ArgumentParser):
    """argparse whose complaints are UserErrors: one message, exit code 2."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise UserError(f"{message}\n{self.format_usage().strip()}")


def parse(args: list[str]) -> argparse.Namespace:
    parser = Parser(prog="jobs.prepare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="SOURCE", help=f"one of: {', '.join(SOURCES)}")
    parser.add_argument("--root", required=True, help="folder (or URI) of the raw data, in the source's own layout")
    parser.add_argument(
        "--split", default="", help="train or val, for a source that has them (default: train, of voc val)"
    )
    parser.add_argument("--scores", default="", help="of sbd's train split: table (row index, name, score) for weights")
    parser.add_argument("--annotations", default="", help="of coco-instances: the JSON file, where it is not found")
    parser.add_argument(
        "--crowd", default="", help="of coco-instances: objects takes regions marked iscrowd as objects"
    )
    rules = "; ".join(f"{name}: {text}" for name, text in RULES.items())
    parser.add_argument("--masks", default="", help=f"of folder: what masks mean (default: by their values). {rules}")
    parser.add_argument("--out", required=True, help="folder (or URI) for the shards; new, or of the same command")
    parser.add_argument("--max-bad-fraction", type=float, default=0.01, help="share of bad images that is still fine")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the rows (and of synthetic pictures)")
    return parser.parse_args(args)


def job(args: list[str]) -> None:
    options = parse(args)
    if not 0 <= options.max_bad_fraction <= 1:
        raise UserError(f"--max-bad-fraction is a share: {options.max_bad_fraction} is not between 0 and 1.")
    start = time.monotonic()
    reader = open_reader(
        options.source,
        options.root,
        options.split,
        options.seed,
        options.scores,
        options.masks,
        options.annotations,
        options.crowd,
    )
    manifest = write_shards(
        reader, options.out, reader.split, seed=options.seed, max_bad_fraction=options.max_bad_fraction
    )
    size = sum(shard.bytes for shard in manifest.shards) / 1e6
    print(f"{manifest.rows} images, {manifest.objects} objects, {len(manifest.shards)} shards, {size:.1f} MB")
    for meaning, count in manifest.understood.items():
        print(f"  understood: {count} x {meaning}")
    for reason, count in manifest.rejected.items():
        print(f"  set aside: {count} x {reason}  (listed in {storage.join(options.out, REJECTED)})")
    for reason, count in manifest.left_out.items():
        print(f"  left out: {count} x {reason}")
    print(f"prepared in {runtime.duration(time.monotonic() - start)}: {storage.absolute(options.out)}")


if __name__ == "__main__":
    runtime.main(job)
