"""Every knob of the system: frozen, validated dataclasses (`pipeline.config.io` reads and writes them).

The dotted names (`optim.lr`, `suem.mix_prob`) are the same on the command line, in Tune and in MLflow.
Published values are the defaults wherever a published recipe uses them (paper: arXiv 2303.05620).
"""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from pipeline.config.evaluation import Cfr, Eval, Tracking
from pipeline.config.options import check, check_probabilities, options

__all__ = ["Cfr", "Clicks", "Data", "Eval", "Loss", "Model", "Optim", "Suem", "Tracking", "Train", "TrainConfig"]

TIMM = "timm:"


@options
class Data:
    """Where the samples come from and how they are cut and coloured."""

    train: str = ""  # URI of the prepared training shards (what `jobs.prepare` wrote)
    val: str = ""  # URI of prepared shards to validate on; empty: no validation
    crop: int = 448  # Side of the square training crop, pixels
    epoch_samples: int = 30_000  # Samples drawn in one epoch (an epoch is a number of draws, not a pass)
    augmentation: Literal["coco-lvis", "sbd"] = "coco-lvis"
    """Geometric family: coco-lvis (resize, flip) or sbd (resize, flips, quarter turns, shift and rotation)."""
    resize: tuple[float, float] = (0.75, 1.40)  # Range of the uniform resize factor
    keep_background_prob: float = 0.05
    """Probability of keeping a crop that shows no object instead of drawing the augmentation again."""
    min_object_area: int = 1000  # Objects with fewer pixels after the crop are dropped
    stuff_prob: float = 0.30  # Share of the images whose stuff regions count as objects
    chunk: int = 32  # Samples made by one task of the stream (one row group is read for them)
    workers: int = 0  # Parallel augmentation tasks per training worker; 0: from the cluster's shape
    max_bad_fraction: float = 0.01  # Share of unreadable images above which a job stops

    def __post_init__(self) -> None:
        check_probabilities(self, "data", "keep_background_prob", "stuff_prob", "max_bad_fraction")
        check(self.crop >= 32, f"data.crop must be at least 32 pixels, got {self.crop}.")
        check(self.epoch_samples >= 1, f"data.epoch_samples must be positive, got {self.epoch_samples}.")
        check(self.chunk >= 1, f"data.chunk must be positive, got {self.chunk}.")
        check(0 < self.resize[0] <= self.resize[1], f"data.resize must be LOW <= HIGH, got {self.resize}.")


@options
class Suem:
    """Simple, Union, Exclusion and Mixing copy-paste (paper, section on SUEM)."""

    simple_prob: float = 0.5  # Stage 1: the object is blended onto another image and is the only target
    paste_prob: float = 0.5  # Stage 2: a donor object is pasted (exclusion, union or distractor)
    mix_prob: float = 0.5  # Stage 3: the whole image is blended with another one
    exclusion_weight: float = 1.0  # Relative frequency of exclusion inside stage 2
    union_weight: float = 1.0  # Relative frequency of union inside stage 2
    distractor_weight: float = 1.0  # Relative frequency of the translucent distractor inside stage 2
    alpha_min: float = 0.5  # Blends use alpha ~ U[alpha_min, 1] for this sample, 1 - alpha for the donor
    max_donors: int = 5  # Donors tried in stage 2 before giving up
    min_uncovered: int = 20  # A donor object is accepted when more than this many target pixels stay uncovered

    def __post_init__(self) -> None:
        check_probabilities(self, "suem", "simple_prob", "paste_prob", "mix_prob", "alpha_min")
        weights = (self.exclusion_weight, self.union_weight, self.distractor_weight)
        check(min(weights) >= 0 and sum(weights) > 0, f"suem mode weights must be >= 0 and not all 0, got {weights}.")

    @property
    def off(self) -> bool:
        return self.simple_prob == self.paste_prob == self.mix_prob == 0.0


@options
class Clicks:
    """Object choice and first clicks of a training sample (RITM's multi-point sampler)."""

    max_points: int = 24  # N: most clicks of one polarity; a sample's click tensor has 2 N rows
    gamma: float = 0.80  # The number of extra clicks k has weight gamma ** k
    merge_prob: float = 0.15  # Probability of merging several root objects into one target
    max_merged: int = 2  # Objects merged at most
    use_hierarchy: bool = False  # Walk down the object tree instead of choosing root objects only
    erode_prob: float = 0.9  # Probability (per object) of eroding the region of positive clicks
    erode_iters: int = 3  # Iterations of the 3x3 erosion
    negative_background: float = 0.1  # Share of negative clicks drawn anywhere outside the target
    negative_other: float = 0.4  # Share of negative clicks drawn from other objects
    negative_border: float = 0.5  # Share of negative clicks drawn from a band around the target
    border_ratio: float = 0.1  # The band is ceil(border_ratio * sqrt(area)) pixels wide
    shuffle_order: bool = True
    """Give the first clicks random order numbers from 2 up (SimpleClick recipes do not)."""

    def __post_init__(self) -> None:
        check_probabilities(self, "clicks", "merge_prob", "erode_prob")
        check(self.max_points >= 1, f"clicks.max_points must be at least 1, got {self.max_points}.")
        check(0 < self.gamma <= 1, f"clicks.gamma must be in (0, 1], got {self.gamma}.")
        shares = (self.negative_background, self.negative_other, self.negative_border)
        check(min(shares) >= 0 and abs(sum(shares) - 1) < 1e-6, f"clicks.negative_* must add up to 1, got {shares}.")


@options
class Model:
    """Plain ViT with click embedding, simple feature pyramid and MLP head (SimpleClick, arXiv 2210.11006)."""

    patch: int = 16  # Side of the square patches, pixels of the network's input
    dim: int = 768  # Width of the tokens
    depth: int = 12  # Transformer blocks
    heads: int = 12  # Attention heads of a block
    neck_dims: tuple[int, int, int, int] = (128, 256, 512, 1024)  # Channels of the four scales, finest first
    head_dim: int = 256  # Channels of the head
    head_dropout: float = 0.1  # Share of the head's channels that are dropped in training
    train_size: int = 448  # Input side the position embedding is made for; other sizes interpolate it
    click_radius: int = 5  # Radius of the click disks, pixels of the network's input
    activation_checkpointing: bool = False
    """Recompute block activations in the backward pass: less memory, more time."""
    start: str = ""
    """Weights to start from: a complete model (our checkpoint, a published .pth), an MAE file, timm:NAME; or none."""

    @property
    def start_uri(self) -> str:
        """`start` where it is a file or a folder, "" where it is the name of a model that timm fetches, or nothing."""
        return "" if self.start.startswith(TIMM) else self.start

    def __post_init__(self) -> None:
        check(min(self.patch, self.dim, self.depth, self.heads) >= 1, "model.patch, dim, depth and heads are positive.")
        check(self.dim % self.heads == 0, f"model.dim {self.dim} is not divisible by model.heads {self.heads}.")
        check(self.depth == 12 or self.depth % 4 == 0, f"model.depth must be a multiple of 4, got {self.depth}.")
        check(self.train_size % self.patch == 0, f"model.train_size must be a multiple of the patch ({self.patch}).")


@options
class Loss:
    """Normalized focal loss and the two ways of iterating clicks."""

    mode: Literal["icl", "iter_mask"] = "icl"
    """icl: a weighted loss after every click step; iter_mask: gradient-free passes, then one loss."""
    weights: tuple[float, ...] = (1.0, 2.0, 3.0)
    """icl: weight of click step i; their number is T, the most steps."""
    passes: tuple[int, int] = (0, 3)
    """iter_mask: fewest and most gradient-free passes (CFR-ICL's own branch: 1 3)."""
    click_rows: Literal["first_free", "from_end"] = "first_free"
    """Row a simulated click takes; from_end: row N - k for click k, SimpleClick's plain recipe."""
    prev_mask_drop_prob: float = 0.0  # Probability of zeroing the previous mask of a sample
    alpha: float = 0.5  # Weight of the object's pixels in the focal loss; that of the others is 1 - alpha
    gamma: float = 2.0  # Exponent of the focal loss: how little pixels count that are right already

    def __post_init__(self) -> None:
        check_probabilities(self, "loss", "prev_mask_drop_prob", "alpha")
        check(len(self.weights) >= 1 and min(self.weights) >= 0, f"loss.weights must be >= 0, got {self.weights}.")
        check(0 <= self.passes[0] <= self.passes[1], f"loss.passes must be 0 <= FEWEST <= MOST, got {self.passes}.")


@options
class Optim:
    """Adam, the schedule of its rate, optional layer-wise decay and optional averaging of the weights."""

    lr: float = 5e-5  # Learning rate
    betas: tuple[float, float] = (0.9, 0.999)  # Decays of Adam's two moments
    eps: float = 1e-8  # Adam's epsilon
    schedule: Literal["steps", "cosine"] = "steps"
    """steps: times `factor` after each milestone; cosine: half a wave down to `factor` times lr at the last step."""
    milestones: tuple[int, ...] = ()  # Epochs after which the rate is multiplied by `factor`
    factor: float = 0.1  # See schedule
    warmup_steps: int = 0  # Steps over which the rate rises linearly from 0; published recipes have none
    layer_decay: float = 1.0  # Rate of block i is lr * layer_decay ** (depth - i); 1: off
    weight_decay: float = 0.0
    """Adam's coupled weight decay; with layer_decay, not on 1-d backbone parameters and position embeddings."""
    clip_norm: float = 0.0  # Largest gradient norm; 0: no clipping
    average: float = 0.0
    """Decay of a running mean of the weights, which is then the model that is validated and saved; 0: off."""

    def __post_init__(self) -> None:
        check(self.lr > 0, f"optim.lr must be positive, got {self.lr}.")
        check(0 < self.layer_decay <= 1, f"optim.layer_decay must be in (0, 1], got {self.layer_decay}.")
        check(self.weight_decay >= 0 and self.clip_norm >= 0, "optim.weight_decay and clip_norm must be >= 0.")
        check(0 <= self.average < 1, f"optim.average must be in [0, 1), got {self.average}.")
        check(
            self.schedule == "steps" or not self.milestones,
            "optim.milestones belong to the schedule of steps; the cosine has none.",
        )


@options
class Train:
    """Length, batch, resources and rhythm of a training run."""

    epochs: int = 55  # Length of the run, of data.epoch_samples each, where train.steps is 0
    steps: int = 0  # Optimizer steps; 0: epochs * floor(data.epoch_samples / batch)
    batch: int = 32  # Samples of one optimizer step, over all workers and accumulation steps
    accumulate: int = 1  # Backward passes per optimizer step
    workers: int = 1  # Data-parallel training workers
    min_workers: int = 0  # Elastic: train on with as few workers as this while others are lost; 0: always `workers`
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """ddp: every worker holds the whole model; fsdp: weights, gradients and moments are cut among the workers."""
    device: Literal["auto", "cpu", "gpu"] = "auto"  # auto: GPUs where the cluster has free ones, one for each worker
    gpu: bool = False  # The older way to say device gpu
    cpus_per_worker: float = 1.0  # CPUs that the cluster keeps for a training worker
    threads: int = 0  # Of a worker without a GPU; 0: an equal share of the cores that its machine's workers may use
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """tf32: TF32 matrix products on NVIDIA GPUs; bf16: autocast of the forward passes; the loss stays in float32."""
    compile: bool = False
    """Compile blocks, neck and head (needs a C++ compiler): the first steps wait for it; results differ by rounding."""
    log_every: int = 20  # Steps between two lines of the log
    val_every: int = 0  # Steps between validations; 0: only at the end
    val_objects: int = 50  # Objects of data.val evaluated at each validation; 0: all
    checkpoint_every: int = 500  # Steps between checkpoints
    keep: int = 3  # Checkpoints kept (the best by validation is kept besides)
    max_failures: int = 3  # Restarts after the loss of a worker before the run fails
    wait_for_workers: int = 1800  # Seconds to wait for machines that replace lost ones before the run fails
    hang_seconds: int = 600  # A worker that does not move on for so long is killed and started again; 0: never
    explode_factor: float = 100.0  # A loss above this many times its recent median ends the run; 0: only NaN does

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "accumulate", "workers", "log_every", "checkpoint_every", "keep"):
            check(getattr(self, name) >= 1, f"train.{name} must be at least 1, got {getattr(self, name)}.")
        parts = self.workers * self.accumulate
        check(
            self.batch % parts == 0,
            f"train.batch {self.batch} cannot be divided among {self.workers} workers x {self.accumulate} "
            f"accumulation steps; choose a multiple of {parts}.",
        )
        check(
            0 <= self.min_workers <= self.workers,
            f"train.min_workers must be between 0 and train.workers ({self.workers}), got {self.min_workers}.",
        )
        for name in ("wait_for_workers", "hang_seconds", "explode_factor", "threads"):
            check(getattr(self, name) >= 0, f"train.{name} must be >= 0, got {getattr(self, name)}.")

    def micro_batch(self, world: int) -> int:
        """Samples of one forward pass on one of `world` workers.

        An elastic run may have a number of workers that does not divide the batch: it is then rounded up.
        """
        return -(-self.batch // (world * self.accumulate))


@options
class TrainConfig:
    """A complete training run; what a recipe returns and what a checkpoint carries."""

    recipe: str = "custom"  # Name of the recipe
    seed: int = 0  # Of every draw of the run
    out: str = ""
    """Folder or URI for checkpoints, metrics and the resolved config; the same command again continues it."""
    data: Data = field(default_factory=Data)
    suem: Suem = field(default_factory=Suem)
    clicks: Clicks = field(default_factory=Clicks)
    model: Model = field(default_factory=Model)
    loss: Loss = field(default_factory=Loss)
    optim: Optim = field(default_factory=Optim)
    train: Train = field(default_factory=Train)
    cfr: Cfr = field(default_factory=Cfr)
    eval: Eval = field(default_factory=Eval)
    tracking: Tracking = field(default_factory=Tracking)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one epoch; the last incomplete batch is dropped."""
        return max(1, self.data.epoch_samples // self.train.batch)

    @property
    def total_steps(self) -> int:
        return self.train.steps or self.train.epochs * self.steps_per_epoch
