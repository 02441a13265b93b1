"""Search settings: python -m jobs.tune cfr ..., over the CFR settings of a fixed checkpoint.

python -m jobs.tune cfr --checkpoint URI --data NAME=URI [...] --trials N --out URI [--space NAME=SPEC ...]

SPEC is a value, choice(A,B,...), uniform(LOW,HIGH), loguniform(LOW,HIGH), quniform(LOW,HIGH,STEP) or randint(LOW,HIGH),
both ends included; quote it for the shell. The same command again continues a sweep. `jobs.tune cfr --help` lists
every flag.
"""

from __future__ import annotations

import sys

from jobs import tune_cfr
from pipeline import runtime
from pipeline.errors import UserError, did_you_mean

KINDS = {"cfr": tune_cfr.job}


def job(args: list[str]) -> None:
    if not args or args[0] in ("-h", "--help"):
        print(__doc__, file=sys.stdout if args else sys.stderr)
        raise SystemExit(0 if args else 2)
    kind, *rest = args
    if kind == "icl":
        raise UserError("jobs.tune icl, the search over training settings, is not there yet; jobs.tune cfr is.")
    if kind not in KINDS:
        raise UserError(f"There is no sweep {kind!r}.{did_you_mean(kind, KINDS)} Sweeps: {', '.join(KINDS)}.")
    KINDS[kind](rest)


if __name__ == "__main__":
    runtime.main(job)
