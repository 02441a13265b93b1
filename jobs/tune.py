"""Search settings: the CFR settings of a fixed checkpoint (cfr), or those of training (icl).

python -m jobs.tune cfr --checkpoint URI --data NAME=URI [...] --trials N --out URI [--space NAME=SPEC ...]
python -m jobs.tune icl RECIPE --data.train URI --data.val URI --trials N --out URI [--space NAME=SPEC ...]
                        [--dotted.option VALUE ...]

SPEC is a value, choice(A,B,...), uniform(LOW,HIGH), loguniform(LOW,HIGH), quniform(LOW,HIGH,STEP) or randint(LOW,HIGH),
both ends included; quote it for the shell. The same command again continues a sweep. `jobs.tune cfr --help` and
`jobs.tune icl RECIPE --help` list every flag.
"""

from __future__ import annotations

import sys

from jobs import tune_cfr, tune_icl
from pipeline.engine.main import main
from pipeline.errors import UserError, did_you_mean

KINDS = {"cfr": tune_cfr.job, "icl": tune_icl.job}


def job(args: list[str]) -> None:
    if not args or args[0] in ("-h", "--help"):
        print(__doc__, file=sys.stdout if args else sys.stderr)
        raise SystemExit(0 if args else 2)
    kind, *rest = args
    if kind not in KINDS:
        raise UserError(f"There is no sweep {kind!r}.{did_you_mean(kind, KINDS)} Sweeps: {', '.join(KINDS)}.")
    KINDS[kind](rest)


if __name__ == "__main__":
    main(job)
