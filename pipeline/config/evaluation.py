"""The options of an evaluation, and those that it shares with a sweep over CFR settings."""

from __future__ import annotations

from dataclasses import field

from pipeline.config import Cfr, Eval, Tracking
from pipeline.config.options import check, options

GPU_BATCH = 16  # objects that share a forward pass on a GPU, where nothing else is asked for


@options
class EvaluationBase:
    """What is clicked, by which checkpoint, and where the results go."""

    checkpoint: str  # Our checkpoint or run folder, or a published .pth file
    data: tuple[str, ...]  # NAME=URI or NAME=LAYOUT:URI of each data set
    out: str  # Folder or URI for the results; the same command again continues there
    crop: int = 0  # Side of the network's input, pixels; 0: as the checkpoint was trained (published on davis: 672)
    limit: int = 0  # Only the first so many objects of each data set; 0: all
    batch_size: int = 0
    """Objects that share a forward pass; above 1 clicks may differ by rounding. 0: 16 on a GPU, else 1."""
    voc_grey: bool = False  # Read --data voc=FOLDER as the published evaluation did, by grey values: some objects merge
    eval: Eval = field(default_factory=Eval)
    tracking: Tracking = field(default_factory=Tracking)

    def __post_init__(self) -> None:
        for name, given in (("crop", self.crop), ("limit", self.limit), ("batch-size", self.batch_size)):
            check(given >= 0, f"--{name} must be at least 0, got {given}.")

    @property
    def batch(self) -> int:
        """Objects that share a forward pass, on the device that `eval.gpu` says."""
        return self.batch_size or (GPU_BATCH if self.eval.gpu else 1)


@options
class EvaluateConfig(EvaluationBase):
    """A complete evaluation: what `jobs.evaluate` reads.

    `cfr.steps` and `cfr.crop` are not used: the one is each of `cfr_steps`, the other the data set's (`crop`).
    """

    cfr_steps: tuple[int, ...] = (0,)  # n of CFR-n, one evaluation for each: extra forward passes per refined click
    cfr: Cfr = field(default_factory=Cfr)
    compare: str = ""  # Results folder of an earlier evaluation: the report then says how every object differs

    def __post_init__(self) -> None:
        super().__post_init__()
        steps = self.cfr_steps
        distinct = len(steps) > 0 and min(steps) >= 0 and len(set(steps)) == len(steps)
        check(distinct, f"--cfr-steps takes different numbers from 0 up, got {list(steps)}.")
