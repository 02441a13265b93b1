"""Send to MLflow what output folders hold of their runs: after the tracking server was away, or a job was killed.

    python -m jobs.track_sync OUT [OUT ...] [--uri URI]

OUT is the output folder or URI of a job; the trials of a sweep and the settings of an evaluation are sent as well.
Values that MLflow has are not sent again. A folder that a running job writes to is left to it. Exit code 0: nothing is
left; 1: the server is still away; 2: a mistake.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional

from jobs import flags
from pipeline import storage
from pipeline.engine import lease
from pipeline.engine.main import main
from pipeline.errors import UserError
from pipeline.redact import mask_uris

if TYPE_CHECKING:
    from pipeline.tracking.replay import Outcome


@dataclass(frozen=True, kw_only=True)
class Args:
    outs: Positional[Annotated[tuple[str, ...], flags.described("OUT [OUT ...]", "Output folders or URIs of jobs")]]
    uri: str = ""  # Tracking URI, where it has moved or needs credentials


def parse(args: list[str]) -> Args:
    options = flags.parse(Args, args, prog="jobs.track_sync", about=__doc__)
    if not options.outs:
        raise UserError("Name the output folders whose runs are to be sent: python -m jobs.track_sync OUT [OUT ...]")
    return options


def job(args: list[str]) -> None:
    options = parse(args)
    outcomes: list[Outcome] = []
    mistakes = []
    for place in dict.fromkeys(storage.absolute(place) for place in options.outs):
        try:
            outcomes += sync(place, options.uri)
        except UserError as mistake:
            mistakes.append(f"{mask_uris(place)}: {mistake}")
    if mistakes:
        raise UserError("\n".join(mistakes))
    if left := sum(bool(outcome.why) for outcome in outcomes):
        said = f"{left} of {len(outcomes)} runs could not be sent whole; try again when the store is back"
        print(said, file=sys.stderr)
        sys.exit(1)


def sync(place: str, uri: str) -> Iterator[Outcome]:
    """Send the runs of an output folder.

    Raises:
        UserError: there is no tracked run, or its store needs an address.
    """
    # Not above: these bring torch, which takes a second, and --help and a wrong option do not need it.
    from pipeline.tracking.contents import IDENTITY, SETTINGS, read_identity
    from pipeline.tracking.replay import replay
    from pipeline.tune.icl_folder import TRIALS

    if read_identity(place) is None:
        raise UserError(f"There is no tracked run here: it holds no {IDENTITY}.")
    sweep = place.rpartition(f"/{TRIALS}/")[0]  # whose job writes the folders of its trials
    writer = sweep if sweep and storage.exists(storage.join(sweep, IDENTITY)) else place
    below = [folder for name in (TRIALS, SETTINGS) for folder in storage.list_folders(storage.join(place, name))]
    children = [folder for folder in below if read_identity(folder)]
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lease.held(writer, "jobs.track_sync"))
        except lease.Busy as busy:
            print(f"{busy} It sends what is left itself.", flush=True)
            return
        for out in (place, *children):
            outcome = replay(out, uri)
            why = f"; the rest is left: {outcome.why}" if outcome.why else ""
            said = f"{outcome.values} values and {outcome.files} files sent to {outcome.uri}{why}"
            print(f"{mask_uris(out)}: {said}", flush=True)
            yield outcome


if __name__ == "__main__":
    main(job)
