"""The options of the annotator's server."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from pipeline.config.evaluation import Cfr
from pipeline.config.options import check, options


@options
class ServeConfig:
    """What `jobs.serve` reads: which network answers clicks on which images, for whom, and where results go."""

    checkpoint: str  # small (in the package), a checkpoint or run folder of ours, a published .pth file, or of MLflow
    images: str = ""  # Folder or URI of images to annotate, with its sub-folders; without it images are dropped in
    out: str = ""  # Folder or URI for masks and annotations.json; the same command again continues there
    host: str = "127.0.0.1"  # Address to listen on; any but this machine's own loopback needs a token
    port: int = 8765
    names: tuple[str, ...] = ()  # Further host names that the server is reached by, such as a proxy's
    token_file: str = ""  # File with the token that clients must send; without it one is made where one is needed
    replicas: int = 1  # Processes that answer clicks, each with the network
    gpu: float = 1.0  # GPUs of a replica where it runs on one; 0.5: two share it
    device: Literal["auto", "cpu", "gpu"] = "auto"  # auto: GPUs where the cluster has free ones
    cfr_steps: int = 0  # n of CFR-n that the page begins with: further forward passes that refine the first click
    crop: int = 0  # Side of the network's input, pixels; 0: as the checkpoint was trained
    batch_size: int = 0
    """Clicks of several people that share a forward pass; above 1 masks may differ by rounding. 0: 16 on a GPU, else
    1."""
    label_studio_url: str = ""
    """Address of the Label Studio that this server answers clicks for; images of its tasks may be fetched from there"""
    label_studio_token_file: str = ""  # File with an access token of one of its users, for those images
    cfr: Cfr = field(default_factory=Cfr)

    def __post_init__(self) -> None:
        check(0 < self.port < 65536, f"--port is between 1 and 65535, not {self.port}.")
        check(self.replicas >= 1, f"--replicas must be at least 1, got {self.replicas}.")
        check(self.gpu > 0, f"--gpu is the share of a GPU that a replica takes, more than 0, not {self.gpu}.")
        check(bool(self.host.strip()), "--host is an address to listen on, such as 127.0.0.1 or 0.0.0.0.")
        check(
            bool(self.label_studio_url) or not self.label_studio_token_file,
            "--label-studio-token-file is of no use without --label-studio-url.",
        )
        for name, value in (("crop", self.crop), ("batch-size", self.batch_size), ("cfr-steps", self.cfr_steps)):
            check(value >= 0, f"--{name} must be at least 0, got {value}.")
