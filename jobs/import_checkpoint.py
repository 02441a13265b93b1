"""A published .pth checkpoint (CFR-ICL, SimpleClick) -> a checkpoint folder of ours, without running its code.

    python -m jobs.import_checkpoint IN.pth OUT

OUT keeps the unused tensors too, so that `jobs.export_checkpoint` gives the same file back. Name OUT as the file is
named (cocolvis_icl_vit_huge): the claims table knows published models by their names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional

from jobs import ending, flags
from pipeline import storage
from pipeline.engine import lease
from pipeline.engine.main import main
from pipeline.errors import UserError


def describe(published: Published, sha256: str) -> list[str]:
    """What was found, a line for each fact."""
    from pipeline.model.published import NAMES

    model = published.model
    numbers = sum(t.numel() for t in published.weights.values())
    unused = sum(t.numel() for t in published.unused.values())
    return [
        f"variant     {NAMES.get((model.patch, model.dim, model.depth), 'none of the published ones')}",
        f"network     patch {model.patch}, dim {model.dim}, depth {model.depth}, heads {model.heads}, "
        f"neck {' '.join(map(str, model.neck_dims))}, head {model.head_dim}, crop {model.train_size}",
        f"used        {len(published.weights)} keys, {numbers:,} parameters",
        f"left unused {len(published.unused)} keys, {unused:,} numbers (kept for export): "
        f"{', '.join(sorted(published.unused))}",
        f"sha256      {sha256}",
    ]


if TYPE_CHECKING:
    from pipeline.model.published import Published


@dataclass(frozen=True, kw_only=True)
class Args:
    source: Positional[Annotated[str, flags.described("IN.pth", "The .pth file (local path or URI)")]]
    out: Positional[Annotated[str, flags.described("OUT", "New folder (or URI) for the checkpoint")]]


def job(args: list[str]) -> None:
    options = flags.parse(Args, args, prog="jobs.import_checkpoint", about=__doc__)
    source, out = storage.absolute(options.source), storage.absolute(options.out)
    if not storage.exists(source) or storage.is_folder(source):
        raise UserError(f"There is no file {source}.")
    if storage.exists(out) and (not storage.is_folder(out) or lease.other_names(storage.list_files(out))):
        raise UserError(f"{out} exists already. Choose a new folder.")
    # Not above: torch takes a second, and --help and a wrong option do not need it.
    from pipeline.model.checkpoints import read_published, write_imported

    published, sha256 = read_published(source)
    with lease.held(out, "jobs.import_checkpoint"):
        write_imported(published, sha256, source, out)
    print("\n".join([source, *describe(published, sha256)]))
    words = ("--checkpoint", ending.place(out), "--data", "NAME=URI", "--cfr-steps", "0", "1")
    line = ending.command("evaluate", *words, "--out", ending.beside(out, "eval"))
    ending.say({"Checkpoint": out}, [("measure it by simulated clicks", line)])


if __name__ == "__main__":
    main(job)
