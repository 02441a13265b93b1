"""The annotator as a Ray Serve deployment: HTTP and the network in one process, passes of several people batched."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import ray
import torch
from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.config.serving import ServeConfig
from pipeline.engine.machine import usable_cpus
from pipeline.errors import UserError, error_in
from pipeline.evaluate.refinement import RunInput
from pipeline.evaluate.shared import join_points
from pipeline.predict.predictor import Predictor
from pipeline.serve.annotator import Annotator
from pipeline.serve.clerk import Clerk
from pipeline.serve.clicker import Clicker
from pipeline.serve.folder import Folder
from pipeline.serve.label_studio_images import LabelStudio, TaskImages
from pipeline.serve.label_studio_routes import routes
from pipeline.serve.refusal import Refused
from pipeline.serve.web import application

CLERK, NAMESPACE = "clerk", "annotator"
GPU_WAIT = 0.002  # seconds that a pass waits for others on a GPU


@dataclass(frozen=True)
class Replica:
    """What a replica is made of.

    Attributes:
        gpu: whether it runs on one.
        batch: passes computed together at most.
        names, token: see `guard.Guard`.
        studio_token: see `label_studio_images.LabelStudio`.
    """

    config: ServeConfig
    gpu: bool
    batch: int
    names: Sequence[str]
    token: str
    studio_token: str

    def __repr__(self) -> str:  # without the tokens: what is printed or logged holds none
        return f"Replica({self.config.checkpoint!r})"


class RemoteClerk:
    """The methods of the `Clerk` in the actor that a server's replicas share."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            actor = ray.get_actor(CLERK, namespace=NAMESPACE)
            try:
                return ray.get(getattr(actor, name).remote(*args))
            except RayTaskError as error:
                raise error_in(error, Refused) or error_in(error, UserError) or error from None
            except RayActorError as error:
                raise Refused(503, "The server lost its notes and takes them up again: repeat in a second.") from error

        return call


def start_clerk(out: str) -> Any:
    """The actor of a server's `Clerk`, on this machine, where OUT was looked at; it lives as long as what is returned.

    Raises:
        UserError: OUT holds something else.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"name": CLERK, "namespace": NAMESPACE, "num_cpus": 0, "max_concurrency": 16, "max_restarts": -1}
    actor: Any = ray.remote(Clerk)
    clerk = actor.options(**options, scheduling_strategy=here).remote(out)
    ray.get(clerk.ready.remote())
    return clerk


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
        assert predictor.info is not None, "it was loaded from a file"
        annotator = Annotator(
            clicker=Clicker(self._network, predictor.cfr, predictor.device),
            clerk=cast(Clerk, RemoteClerk()),
            folder=Folder(config.images) if config.images else None,
            saves=bool(config.out),
            checkpoint=(config.checkpoint, predictor.info.sha256),
        )
        api = application(annotator, self._replica.names, self._replica.token)
        url, token = config.label_studio_url, self._replica.studio_token
        api.include_router(routes(annotator, TaskImages(annotator, LabelStudio(url, token) if url else None)))
        return api

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
        points = join_points([run.points.cpu() for run in runs])
        logits = predictor.network(images, maps, points.to(predictor.device))
        return list(logits.split([len(run.image) for run in runs]))
