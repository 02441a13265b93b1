"""A checkpoint of ours -> one .pth file in the published layout, for the tools of CFR-ICL and SimpleClick.

    python -m jobs.export_checkpoint IN OUT.pth

IN is a run folder (its latest checkpoint), a checkpoint folder or an imported one. The layout has keys that no forward
pass uses (class token, classifier, up-convolutions): an imported checkpoint gives back its own, others get zeros.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional

from jobs import ending, flags
from pipeline import storage
from pipeline.engine.main import main
from pipeline.errors import UserError
from pipeline.weights import located


@dataclass(frozen=True, kw_only=True)
class Args:
    source: Positional[Annotated[str, flags.described("IN", "Run or checkpoint folder (local path or URI)")]]
    out: Positional[Annotated[str, flags.described("OUT.pth", "New file (or URI)")]]


def job(args: list[str]) -> None:
    options = flags.parse(Args, args, prog="jobs.export_checkpoint", about=__doc__)
    source, out = located(options.source), storage.absolute(options.out)
    if storage.exists(out):
        raise UserError(f"{out} exists already. Choose a new file name.")
    # Not above: torch takes a second, and --help and a wrong option do not need it.
    import torch

    from pipeline.model.checkpoints import load_model, read_unused
    from pipeline.model.published import to_published

    model, info = load_model(source)
    content = to_published(model, read_unused(source))
    buffer = io.BytesIO()
    torch.save(content, buffer)
    data = buffer.getvalue()
    storage.write_bytes(out, data)
    print(f"{info.uri}\nkeys    {len(content['state_dict'])}\nsha256  {hashlib.sha256(data).hexdigest()}")
    words = ("--checkpoint", ending.place(out), "--data", "NAME=URI", "--cfr-steps", "0", "1")
    line = ending.command("evaluate", *words, "--out", ending.beside(out.removesuffix(".pth"), "eval"))
    ending.say({"Written, for the tools of CFR-ICL and SimpleClick": out}, [("measure the file as it is", line)])


if __name__ == "__main__":
    main(job)
