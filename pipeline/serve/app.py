"""The annotator as a Ray Serve deployment: HTTP and the network in one process, passes of several people batched."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from ray import serve

from pipeline.config.serving import ServeConfig
from pipeline.engine.machine import usable_cpus
from pipeline.evaluate.cfr import RunInput
from pipeline.evaluate.shared import join_points
from pipeline.predict.predictor import Predictor
from pipeline.serve.clicker import Clicker
from pipeline.serve.folder import Folder
from pipeline.serve.web import Annotator, application

GPU_WAIT = 0.002  # seconds that a pass waits for others on a GPU


@dataclass(frozen=True)
class Replica:
    """What a replica is made of.

    Attributes:
        gpu: whether it runs on one.
        batch: passes computed together at most.
        names, token: see `guard.Guard`.
    """

    config: ServeConfig
    gpu: bool
    batch: int
    names: Sequence[str]
    token: str

    def __repr__(self) -> str:  # without the token: what is printed or logged holds none
        return f"Replica({self.config.checkpoint!r})"


@serve.deployment(name="annotator")
@serve.ingress()
class App:
    """One replica."""

    async def __init__(self, replica: Replica) -> None:
        config = replica.config
        torch.set_num_threads(max(1, usable_cpus() // config.replicas))
        self._loop = asyncio.get_running_loop()
        self._predictor = await asyncio.to_thread(load, config, "cuda" if replica.gpu else "cpu")
        batches: Any = self._passes
        batches.set_max_batch_size(replica.batch)
        batches.set_batch_wait_timeout_s(GPU_WAIT if replica.batch > 1 else 0.0)
        self._replica = replica

    def __serve_build_asgi_app__(self) -> Any:
        predictor, config = self._predictor, self._replica.config
        clicker = Clicker(self._network, predictor.cfr, predictor.device)
        folder = Folder(config.images) if config.images else None
        return application(
            Annotator(clicker, folder, {"checkpoint": config.checkpoint}), self._replica.names, self._replica.token
        )

    def _network(self, image: torch.Tensor, prev_mask: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """One pass, for a thread that answers a request: it waits, and the passes of other threads join it."""
        run = RunInput(image, prev_mask, points)
        return asyncio.run_coroutine_threadsafe(self._passes(run), self._loop).result()

    @serve.batch(max_batch_size=1, batch_wait_timeout_s=0.0)
    async def _passes(self, runs: list[RunInput]) -> list[torch.Tensor]:
        return await asyncio.to_thread(forward, self._predictor, runs)


def load(config: ServeConfig, device: str) -> Predictor:
    """The predictor of a server's options."""
    predictor = Predictor.load(config.checkpoint, config.cfr_steps, device=device, crop=config.crop)
    return predictor.new(**{**vars(config.cfr), "steps": config.cfr_steps, "crop": predictor.cfr.crop})


def forward(predictor: Predictor, runs: Sequence[RunInput]) -> list[torch.Tensor]:
    """Logits of several passes, computed together."""
    with torch.inference_mode():
        if len(runs) == 1:
            run = runs[0]
            return [predictor.network(run.image, run.prev_mask, run.points)]
        images, maps = torch.cat([run.image for run in runs]), torch.cat([run.prev_mask for run in runs])
        cpu = [RunInput(run.image, run.prev_mask, run.points.cpu()) for run in runs]
        logits = predictor.network(images, maps, join_points(cpu).to(predictor.device))
        return list(logits.split([len(run.image) for run in runs]))
