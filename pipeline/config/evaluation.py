"""The options of an evaluation: CFR, clicking, tracking; what it shares with a sweep over CFR settings."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from pipeline.config.options import check, check_probabilities, options

GPU_BATCH = 16  # objects that share a forward pass on a GPU, where nothing else is asked for


@options
class Cfr:
    """Cascade-forward refinement at inference (paper, section on CFR)."""

    steps: int = 0  # n of CFR-n: refinements after the first forward pass of a click
    clicks: int = 1  # Only the first so many clicks are refined (published default 1)
    adaptive: bool = False
    """A-CFR: stop refining when at most `adaptive_pixels` pixels of the binary mask changed."""
    adaptive_pixels: int = 20  # Most changed pixels that end the refinement of A-CFR
    threshold: float = 0.49  # Probability above which a pixel belongs to the mask
    crop: int = 448  # Side of the network's input, pixels (DAVIS: 672)
    flip: bool = True  # Average the logits with those of the mirrored input
    zoom_threshold: float = 0.50  # Probability above which a pixel counts for the zoom-in box
    expansion: float = 1.4  # Zoom-in box over object box, per side
    min_crop: int = 200  # Smallest side of the zoom-in box, image pixels
    recompute_iou: float = 0.5  # The zoom-in box in use is kept while its IoU with the new one is at least this

    def __post_init__(self) -> None:
        check_probabilities(self, "cfr", "threshold", "zoom_threshold", "recompute_iou")
        check(self.steps >= 0 and self.clicks >= 0, "cfr.steps and cfr.clicks must be >= 0.")
        check(self.adaptive_pixels >= 0, f"cfr.adaptive_pixels must be >= 0, got {self.adaptive_pixels}.")
        check(self.crop >= 32, f"cfr.crop must be at least 32 pixels, got {self.crop}.")
        check(self.expansion > 0, f"cfr.expansion must be positive, got {self.expansion}.")
        check(self.min_crop >= 1, f"cfr.min_crop must be at least 1 pixel, got {self.min_crop}.")


@options
class Eval:
    """How an object is clicked and when it ends."""

    max_clicks: int = 20  # Click budget of an object
    target_iou: float = 0.95  # An object ends when its IoU reaches this; NoC is reported up to it
    full_curve: bool = False  # Click every object max_clicks times, also past the target
    actors: int = 0  # Inference actors; 0: one per GPU, or one per two free CPUs
    device: Literal["auto", "cpu", "gpu"] = "auto"  # auto: GPUs where the cluster has free ones
    gpu: bool = False  # The older way to say device gpu
    max_bad_fraction: float = 0.01  # Share of unusable images or objects above which the job fails
    hang_seconds: int = 600  # An actor that does not move on for so long is killed and started again; 0: never

    def __post_init__(self) -> None:
        for name in ("hang_seconds", "actors"):
            check(getattr(self, name) >= 0, f"eval.{name} must be >= 0, got {getattr(self, name)}.")
        check(1 <= self.max_clicks, f"eval.max_clicks must be at least 1, got {self.max_clicks}.")
        check_probabilities(self, "eval", "target_iou", "max_bad_fraction")


@options
class Tracking:
    """Where runs are logged."""

    uri: str = ""  # MLflow tracking URI; empty: MLFLOW_TRACKING_URI, else a SQLite store in the working folder
    experiment: str = "cfr-icl"  # MLflow experiment
    name: str = ""  # Name of the run; empty: recipe and output folder
    enabled: bool = True  # Log to MLflow; --no-tracking for short
    system_metrics: float = 10.0
    """Seconds between two looks at CPU, memory and GPUs of the machine on which the job runs; 0: none."""
    register: str = ""  # Of a training: name of the registered model that its model becomes a version of

    def __post_init__(self) -> None:
        check(self.system_metrics >= 0, f"--tracking.system-metrics is seconds, not {self.system_metrics}.")
        check(self.enabled or not self.register, "--tracking.register needs MLflow: leave out --no-tracking.")
        fine = not set(self.register) & set("/:@")
        check(fine, f"--tracking.register {self.register!r}: a model's name in MLflow holds no / : or @.")

    def without_model(self) -> None:
        """Whether no model is to be registered, where none is made.

        Raises:
            UserError: one is.
        """
        check(not self.register, "--tracking.register is of jobs.train, which makes a model.")


@options
class EvaluationBase:
    """What is clicked, by which checkpoint, and where the results go."""

    data: tuple[str, ...]  # NAME=URI or NAME=LAYOUT:URI of each data set
    out: str  # Folder or URI for the results; the same command again continues there
    checkpoint: str = ""  # small (in the package), a checkpoint or run folder of ours, or a published .pth file
    crop: int = 0  # Side of the network's input, pixels; 0: as the checkpoint was trained (published on davis: 672)
    limit: int = 0  # Only the first so many objects of each data set; 0: all
    batch_size: int = 0
    """Objects that share a forward pass; above 1 clicks may differ by rounding. 0: 16 on a GPU, else 1."""
    voc_grey: bool = False  # Read --data voc=FOLDER as the published evaluation did, by grey values: some objects merge
    eval: Eval = field(default_factory=Eval)
    tracking: Tracking = field(default_factory=Tracking)

    def __post_init__(self) -> None:
        self.tracking.without_model()
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
    predictor: str = ""
    """package.module:factory of any predictor with SAM's interface, in the place of a checkpoint."""
    masks: bool = False  # Write the final masks too: OUT/masks/DATASET/SETTING with PNGs and a COCO annotations.json
    compare: str = ""  # Results folder of an earlier evaluation: the report then says how every object differs

    def __post_init__(self) -> None:
        super().__post_init__()
        steps = self.cfr_steps
        distinct = len(steps) > 0 and min(steps) >= 0 and len(set(steps)) == len(steps)
        check(distinct, f"--cfr-steps takes different numbers from 0 up, got {list(steps)}.")
        check(not (self.checkpoint and self.predictor), "Give --checkpoint or --predictor, not both.")
        plain = self.cfr_steps == (0,) and self.cfr == Cfr() and not self.crop and self.batch_size <= 1
        check(
            plain or not self.predictor,
            "--cfr-steps, --cfr.*, --crop and --batch-size are of networks of ours: a predictor looks for itself.",
        )


@options
class ClaimsConfig:
    """What `jobs.claims` reads; how objects are clicked is not among it, as that is the paper's."""

    checkpoints: str  # Folder with the published files under their names (or folders of jobs.import_checkpoint)
    data: str  # Folder with the benchmarks in theirs: GrabCut, Berkeley, DAVIS, SBD, PascalVOC
    out: str  # Folder or URI for the results; the same command again continues there
    only: tuple[str, ...] = ()  # Benchmarks to measure, of those above; none: all that are there
    check: bool = False  # Only say what can be measured, what is missing and how long it takes
    stand_ins: bool = False  # Take files of these names that hold another network too: measured, without a verdict
    price: float = 0.0  # Of an hour of the machines, in any currency: the estimate then says what it costs
    batch_size: int = 0  # Objects that share a forward pass; 0: 16 on a GPU, else 1
    device: Literal["auto", "cpu", "gpu"] = "auto"  # auto: GPUs where the cluster has free ones
    actors: int = 0  # Inference actors; 0: one per GPU, or one per two free CPUs
    tracking: Tracking = field(default_factory=Tracking)

    def __post_init__(self) -> None:
        self.tracking.without_model()
        for name, given in (("batch-size", self.batch_size), ("actors", self.actors), ("price", self.price)):
            check(given >= 0, f"--{name} must be at least 0, got {given}.")


@options
class PredictConfig:
    """What `jobs.predict` reads: whose clicks on which images, and by which network they become masks."""

    checkpoint: str  # small (in the package), a checkpoint or run folder of ours, or a published .pth file
    images: str  # Folder or URI of the images
    clicks: str  # CSV, JSON Lines or Parquet of image, object, x, y, positive; or COCO keypoints or boxes
    out: str  # Folder or URI for the masks; the same command again continues there
    cfr_steps: int = 0  # n of CFR-n: further forward passes that refine the first click
    crop: int = 0  # Side of the network's input, pixels; 0: as the checkpoint was trained
    batch_size: int = 0
    """Objects that share a forward pass; above 1 masks may differ by rounding. 0: 16 on a GPU, else 1."""
    cfr: Cfr = field(default_factory=Cfr)
    actors: int = 0  # Inference actors; 0: one per GPU, or one per two free CPUs
    device: Literal["auto", "cpu", "gpu"] = "auto"  # auto: GPUs where the cluster has free ones
    gpu: bool = False  # The older way to say device gpu
    max_bad_fraction: float = 0.01  # Share of unusable images or objects above which the job fails
    hang_seconds: int = 600  # An actor that does not move on for so long is killed and started again; 0: never

    def __post_init__(self) -> None:
        given = (("crop", self.crop), ("batch-size", self.batch_size), ("cfr-steps", self.cfr_steps))
        for name, value in given:
            check(value >= 0, f"--{name} must be at least 0, got {value}.")
        _ = self.eval

    @property
    def eval(self) -> Eval:
        """Who works, as an evaluation says it."""
        return Eval(
            actors=self.actors,
            device=self.device,
            gpu=self.gpu,
            max_bad_fraction=self.max_bad_fraction,
            hang_seconds=self.hang_seconds,
        )

    @property
    def batch(self) -> int:
        """Objects that share a forward pass, on the device that `gpu` says."""
        return self.batch_size or (GPU_BATCH if self.gpu else 1)
