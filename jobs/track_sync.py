"""Send to MLflow what runs have kept while the tracking server was away.

    python -m jobs.track_sync [OUT ...] [--uri URI] [--list]

OUT is the output folder or URI of a run, or a spool folder. Without OUT: the runs of this machine whose output is on
object storage. What a running process still has to send is left to it. Exit code 0: nothing is left; 1: the server is
still away; 2: a mistake.
"""

from __future__ import annotations

import argparse
import sys

from jobs.prepare import Parser
from pipeline.engine.main import main
from pipeline.errors import UserError
from pipeline.redact import mask_uris
from pipeline.tracking.places import kept_spools, spools_of
from pipeline.tracking.spool import Waiting
from pipeline.tracking.sync import sync


def parse(args: list[str]) -> argparse.Namespace:
    parser = Parser(prog="jobs.track_sync", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", metavar="OUT", nargs="*", help="output folder or URI of a run, or a spool folder")
    parser.add_argument("--uri", default="", help="tracking URI, where it has moved or needs credentials")
    parser.add_argument("--list", action="store_true", help="say what is waiting, and send nothing")
    options = parser.parse_args(args)
    if options.uri and not options.places:
        raise UserError("--uri needs to know which runs it is for: name their output folders.")
    return options


def job(args: list[str]) -> None:
    options = parse(args)
    found = [spool for place in options.places for spool in spools_of(place)] if options.places else kept_spools()
    left, mistakes = 0, []
    for spool in {spool.folder.resolve(): spool for spool in found}.values():
        identity = spool.identity()
        if identity is None:  # another process has just sent the last of it
            continue
        name, uri = identity.tags.get("out", str(spool.folder)), mask_uris(options.uri) or identity.uri
        if options.list:
            print(f"{name}: {describe(spool.waiting())} (for {uri})", flush=True)
            continue
        try:
            outcome = sync(spool, options.uri)
        except UserError as mistake:
            mistakes.append(f"{name}: {mistake}")
            continue
        why = f": {outcome.why}" if outcome.why else ""
        print(f"{name}: {outcome.sent} records sent to {uri}, {describe(outcome.waiting)}{why}", flush=True)
        left += bool(outcome.waiting.ended)
    if not found:
        print("nothing is kept on this machine")
    if mistakes:
        raise UserError("\n".join(mistakes))
    if left:
        print(f"{left} of {len(found)} runs could not be sent whole; try again when the store is back", file=sys.stderr)
        sys.exit(1)


def describe(waiting: Waiting) -> str:
    """What is left, in words."""
    parts = [f"{waiting.ended} left"] if waiting.ended or not waiting.processes else []
    if waiting.processes:
        parts.append(f"in use by a running process that still sends {waiting.running} itself")
    return ", ".join(parts)


if __name__ == "__main__":
    main(job)
