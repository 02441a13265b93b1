"""A checkpoint of ours -> one .pth file in the published layout, for the tools of CFR-ICL and SimpleClick.

    python -m jobs.export_checkpoint IN OUT.pth

IN is a run folder (its latest checkpoint), a checkpoint folder or an imported one. The layout has keys that no forward
pass uses (class token, classifier, up-convolutions): an imported checkpoint gives back its own, others get zeros.
"""

from __future__ import annotations

import argparse
import hashlib
import io

import torch

from jobs.prepare import Parser
from pipeline import storage
from pipeline.engine.main import main
from pipeline.errors import UserError
from pipeline.model.checkpoints import load_model, read_unused
from pipeline.model.published import to_published


def job(args: list[str]) -> None:
    parser = Parser(
        prog="jobs.export_checkpoint", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="IN", help="run or checkpoint folder (local path or URI)")
    parser.add_argument("out", metavar="OUT.pth", help="new file (or URI)")
    options = parser.parse_args(args)
    source, out = storage.absolute(options.source), storage.absolute(options.out)
    if storage.exists(out):
        raise UserError(f"{out} exists already. Choose a new file name.")
    model, info = load_model(source)
    content = to_published(model, read_unused(source))
    buffer = io.BytesIO()
    torch.save(content, buffer)
    data = buffer.getvalue()
    storage.write_bytes(out, data)
    print(
        f"{info.uri}\nkeys    {len(content['state_dict'])}\nsha256  {hashlib.sha256(data).hexdigest()}\nwritten {out}"
    )


if __name__ == "__main__":
    main(job)
