"""Stops training whose loss is no number any more, or has exploded, and keeps what was at hand for a look."""

from __future__ import annotations

import math
import statistics
from collections import deque
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from pipeline import config, storage
from pipeline.errors import UserError
from pipeline.model.checkpoints import MODEL
from pipeline.model.tensor_files import encode, file_name
from pipeline.storage.json_files import write_json
from pipeline.train.icl import StepResult
from pipeline.train.parallel import copy_of_shares

FAILED = "failed"  # folder of a run for what is kept
RECENT = 100  # steps whose losses a new one is compared with
ENOUGH = 20  # recent losses without which nothing is said to explode


class Guard:
    """Watches the losses and gradient norms of one worker."""

    def __init__(self, run: config.TrainConfig, rank: int, world: int) -> None:
        self._run, self._rank, self._world = run, rank, world
        self._recent: deque[float] = deque(maxlen=RECENT)

    def check_loss(self, result: StepResult, step: int, arrays: dict[str, np.ndarray], model: torch.nn.Module) -> None:
        """Look at a backward pass, before the weights change.

        Raises:
            UserError: the loss is not finite, or above `train.explode_factor` times the recent median.
        """
        mean = sum(result.losses) / len(result.losses)
        if not math.isfinite(result.total):
            self._stop(f"The loss became {result.total}", step, arrays, model)
        factor, usual = self._run.train.explode_factor, statistics.median(self._recent) if self._recent else 0.0
        if factor and len(self._recent) >= ENOUGH and mean > factor * usual:
            self._stop(f"The loss exploded to {mean:g} (its recent median is {usual:g})", step, arrays, model)
        self._recent.append(mean)

    def check_norm(self, norm: float, step: int, arrays: dict[str, np.ndarray], model: torch.nn.Module) -> None:
        """Look at the norm of all gradients.

        Raises:
            UserError: it is not finite.
        """
        if not math.isfinite(norm):
            self._stop(f"The gradients' norm became {norm}", step, arrays, model)

    def _stop(self, what: str, step: int, arrays: dict[str, np.ndarray], model: torch.nn.Module) -> None:
        """Keep weights and batch below OUT/failed/, then end the run with a message."""
        folder = storage.join(self._run.out, FAILED, f"step_{step:08d}")
        samples = [
            f"{c}/{r} {name}" for c, r, name in zip(arrays["chunk"], arrays["row"], arrays["image_id"], strict=True)
        ]
        named = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in arrays.items() if v.dtype != object}
        about: dict[str, Any] = {"what": what, "step": step, "rank": self._rank, "samples": samples}
        # With DDP every worker has the same weights; with FSDP this is the failing worker's share.
        name = file_name(MODEL, self._rank, self._world) if self._run.train.parallel == "fsdp" else file_name(MODEL)
        storage.write_bytes(storage.join(folder, name), encode(copy_of_shares(model.state_dict())))
        storage.write_bytes(storage.join(folder, f"batch_rank_{self._rank}.safetensors"), save(named))
        write_json(storage.join(folder, f"why_rank_{self._rank}.json"), about)
        shown = ", ".join(samples[:8]) + (f" and {len(samples) - 8} more" if len(samples) > 8 else "")
        raise UserError(
            f"{what} at step {step}, worker {self._rank}, samples (chunk/row image) {shown}. Weights and batch are "
            f"kept in {folder}. Lower optim.lr, or set optim.clip_norm, and start again in another --out from the last "
            "checkpoint (--model.start)."
        )
