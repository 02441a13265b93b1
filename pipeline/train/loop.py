"""The training loop: Ray Train workers in data parallel, from wherever the output folder stands.

Read `train_worker` downward: model, state, stream, then one step after the other. The driver's side is `launch.fit`.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.exceptions import RayError
from ray.train.collective import broadcast_from_rank_zero

from pipeline import config
from pipeline.config import io as config_io
from pipeline.data import fingerprint
from pipeline.data.manifest import load_manifest
from pipeline.engine.machine import usable_cpus
from pipeline.engine.watch import Pulse
from pipeline.model.precision import forward_precision, set_float32
from pipeline.model.segmenter import ClickSegmenter
from pipeline.model.start import new_model
from pipeline.stream import order, stream
from pipeline.train import icl, parallel
from pipeline.train.checkpointer import Checkpointer
from pipeline.train.guard import Guard
from pipeline.train.meter import Meter
from pipeline.train.optim import build_optimizer, rate_at, set_rate
from pipeline.train.relay import Event
from pipeline.train.state import TrainState, complete_checkpoints, restore, step_of

# (model, rank, world) -> number of objects that this rank evaluated, and their mean metrics. Handed in by the job, so
# that training does not know how evaluation works; "noc90" decides which checkpoint is the best.
Validate = Callable[[ClickSegmenter, int, int], tuple[int, dict[str, float]]]
BEST_BY = "noc90"
PICTURES = 8
LOOK_SECONDS = 0.5  # between two looks at whether the driver wants the run to stop
DRIVER_SECONDS = 60.0  # that a checkpoint waits for the driver to write down what it was told


def train_worker(job: dict[str, Any]) -> None:
    """One rank's training; runs in a Ray Train worker. `job`: config, relay, signs, validate, mlflow_run."""
    run = config_io.from_dict(config.TrainConfig, job["config"])
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    pulse = Pulse(job["signs"], f"rank {rank} of training", group="training")
    pulse.at("reading the checkpoint and building the model")
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        shared = max(1, usable_cpus() // context.get_local_world_size())
        torch.set_num_threads(run.train.threads or shared)

    set_float32(tf32=run.train.precision == "tf32")

    latest = broadcast_from_rank_zero((complete_checkpoints(run.out) or [None])[-1])
    state, wrapped = _initial_state(run, device, world, job["mlflow_run"], start="" if latest else run.model.start)
    if latest:
        restore(state, latest)
    model = state.model
    model.register_forward_hook(pulse.move)
    wrapped.train()

    manifest = load_manifest(run.data.train)
    fingerprint.require_same(run.out, {"data.train": fingerprint.of_shards(manifest)})  # also after a loss
    batches = stream.batches(run, manifest, state.position, rank, world, run.total_steps - state.step, job["signs"])
    meter, guard = Meter(run, device, world), Guard(run, rank, world)
    checkpoints = Checkpointer(
        run,
        rank,
        world,
        restored=step_of(latest) if latest else None,
        before=lambda step: _write_down(job["relay"], step),
        after=lambda step, uri: ray.get(job["relay"].put.remote(Event("checkpoint", step, uri))),
    )
    wishes = _Wishes(job["relay"], rank)
    first = state.step
    if rank == 0:
        job["relay"].put.remote(Event("phase", first, f"the workers are there; samples of step {first + 1} are made"))
    leaving = False  # a machine of this group is about to be taken away: save at every look

    if state.step == 0 and not latest:
        _checkpoint(run, state, job, rank, device, checkpoints, {})
    while state.step < run.total_steps:
        step = state.step
        rate = rate_at(run.optim, step, run.steps_per_epoch)
        set_rate(state.optimizer, rate)
        state.optimizer.zero_grad(set_to_none=True)
        arrays, batch, result = _gradients(run, wrapped, batches, meter, guard, pulse, step, rank, world, device)
        norm = parallel.clip_gradients(model, run.optim.clip_norm or math.inf)
        guard.check_norm(norm, step, arrays, model)
        state.optimizer.step()

        state.step += 1
        consumed = run.train.micro_batch(world) * run.train.accumulate
        state.position = order.advance(state.position, world, consumed, run.data.chunk)
        ended = state.step == run.total_steps
        if rank == 0 and step == first:
            job["relay"].put.remote(Event("phase", state.step, f"step {state.step} is done"))
        if step == 0 and rank == 0:
            _send_pictures(job, state.step, batch, result)
        logs = state.step % run.train.log_every == 0 or ended
        if logs:
            times = {"time/checkpoint_s": checkpoints.written} if checkpoints.written else {}
            metrics = {"optim/lr": rate, "optim/grad_norm": norm, **meter.flush(), **times}
            if rank == 0:
                job["relay"].put.remote(Event("metrics", state.step, metrics))
            leaving = leaving or ray.train.get_preemption_info() is not None
        validate = ended or (run.train.val_every and state.step % run.train.val_every == 0)
        if validate and rank == 0:
            _send_pictures(job, state.step, batch, result)
        pulse.at(f"waiting for the other ranks after step {state.step}")
        stop, busy = parallel.agree([wishes.stop, checkpoints.busy], world, device)
        if checkpoints.waits_for_others and not busy:
            checkpoints.publish_together()
        checkpoints.check()
        if validate or stop or (leaving and logs) or state.step % run.train.checkpoint_every == 0:
            pulse.at(f"validating after step {state.step}")
            scores = _validate(job["validate"], model, rank, world, pulse) if validate else {}
            wrapped.train()
            pulse.at(f"saving step {state.step}")
            _checkpoint(run, state, job, rank, device, checkpoints, scores)
            meter.restart()
        if stop:
            break
    pulse.at("writing the last checkpoint")
    checkpoints.finish()
    wishes.close()
    pulse.close()


class _Wishes:
    """Whether the driver wants the run to save and stop, looked up beside training by rank 0."""

    def __init__(self, relay: Any, rank: int) -> None:
        self._stop, self._ended = False, threading.Event()
        if rank == 0:
            threading.Thread(target=self._look, args=(relay,), name="wishes", daemon=True).start()

    def _look(self, relay: Any) -> None:
        while not (self._stop or self._ended.wait(LOOK_SECONDS)):
            try:
                self._stop = bool(ray.get(relay.stopping.remote()))
            except RayError:  # the driver is gone, and this process soon will be
                return

    @property
    def stop(self) -> bool:
        return self._stop

    def close(self) -> None:
        self._ended.set()


def _write_down(relay: Any, step: int) -> None:
    """Have the driver write down the metrics before a checkpoint counts: a restart from there tells them no more."""
    number = ray.get(relay.put.remote(Event("save", step)))
    deadline = time.monotonic() + DRIVER_SECONDS
    while ray.get(relay.handled.remote()) < number and time.monotonic() < deadline:
        time.sleep(0.05)


def _initial_state(
    run: config.TrainConfig, device: torch.device, world: int, mlflow_run: str | None, start: str
) -> tuple[TrainState, torch.nn.Module]:
    """The state before the first step, and the module to call (`parallel.parallelize`)."""
    torch.manual_seed(run.seed)
    model = new_model(run.model, start)
    model.to(device)
    wrapped = parallel.parallelize(model, run.train, device, world)
    optimizer = build_optimizer(model, run.optim, run.model.depth)
    return TrainState(model, optimizer, 0, order.Position(0, 0, world), mlflow_run=mlflow_run), wrapped


def _gradients(
    run: config.TrainConfig,
    model: torch.nn.Module,
    batches: Iterator[stream.Batch],
    meter: Meter,
    guard: Guard,
    pulse: Pulse,
    step: int,
    rank: int,
    world: int,
    device: torch.device,
) -> tuple[stream.Batch, icl.ClickBatch, icl.StepResult]:
    """Forward and backward of all accumulation steps; the last of them exchanges gradients and is returned."""
    last: tuple[stream.Batch, icl.ClickBatch, icl.StepResult] | None = None
    for micro in range(run.train.accumulate):
        pulse.at(f"waiting for the samples of step {step + 1}", waiting=True)
        arrays = meter.wait(lambda: next(batches))
        pulse.at(f"computing step {step + 1}")
        batch = _to_device(arrays, device, run.seed)
        # Dropout's draws belong to (seed, step, rank, micro), so no generator state has to be kept.
        torch.manual_seed(int(np.random.SeedSequence((run.seed, step, rank, micro)).generate_state(1)[0]))
        result = _forward_backward(run, model, batch, step, last=micro == run.train.accumulate - 1)
        guard.check_loss(result, step, arrays, model)
        meter.add(result)
        last = arrays, batch, result
    assert last is not None
    return last


def _to_device(arrays: dict[str, np.ndarray], device: torch.device, seed: int) -> icl.ClickBatch:
    """Blocks of the stream are read-only views of shared memory: copy, then move; channels first on the device."""
    image = torch.from_numpy(arrays["image"].copy()).to(device).permute(0, 3, 1, 2).contiguous()
    target = torch.from_numpy(arrays["target"].copy()).to(device)[:, None]
    points = torch.from_numpy(arrays["points"].copy()).to(device)
    keys = [(seed, int(c), int(r)) for c, r in zip(arrays["chunk"], arrays["row"], strict=True)]
    return icl.ClickBatch(image, target, points, keys)


def _forward_backward(
    run: config.TrainConfig, model: torch.nn.Module, batch: icl.ClickBatch, step: int, last: bool
) -> icl.StepResult:
    take_step = icl.icl_step if run.loss.mode == "icl" else icl.iter_mask_step
    no_sync = parallel.no_sync(model)
    count = icl.draw_steps(run.loss, run.seed, step)

    def backward(loss: torch.Tensor) -> None:
        (loss / run.train.accumulate).backward()

    with forward_precision(run.train.precision, batch.image.device):
        return take_step(model, batch, run.loss, count, backward=backward, no_sync=no_sync, sync_last=last)


def _validate(
    validate: Validate | None, model: ClickSegmenter, rank: int, world: int, pulse: Pulse
) -> dict[str, float]:
    """Mean metrics over the objects of all ranks, each rank having evaluated its share."""
    if validate is None:
        return {}
    evaluated = parallel.whole_model(model).eval()
    if evaluated is not model:  # a gathered copy
        evaluated.register_forward_hook(pulse.move)
    count, means = validate(evaluated, rank, world)
    if world > 1:
        parts: list[Any] = [None] * world
        dist.all_gather_object(parts, (count, means))
    else:
        parts = [(count, means)]
    total = sum(n for n, _ in parts)
    names = sorted({name for n, m in parts if n for name in m})
    return {name: sum(n * m[name] for n, m in parts if n) / total for name in names}


def _checkpoint(
    run: config.TrainConfig,
    state: TrainState,
    job: dict[str, Any],
    rank: int,
    device: torch.device,
    checkpoints: Checkpointer,
    scores: dict[str, float],
) -> None:
    """Validation scores to the driver, and a checkpoint begun; every rank reports, which keeps them together."""
    if scores and (state.best is None or scores[BEST_BY] < state.best[0]):
        state.best = (scores[BEST_BY], state.step)
    if rank == 0:
        metrics = {f"val/{name}": value for name, value in scores.items()}
        if device.type == "cuda":
            metrics["device/peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
        job["relay"].put.remote(Event("metrics", state.step, metrics))
    checkpoints.begin(state)
    ray.train.report({"step": state.step, **scores})


def _send_pictures(job: dict[str, Any], step: int, batch: icl.ClickBatch, result: icl.StepResult) -> None:
    assert result.prob is not None and result.points is not None
    n = PICTURES
    pictures = {
        "images": batch.image[:n].permute(0, 2, 3, 1).cpu().numpy(),
        "targets": batch.target[:n, 0].cpu().numpy(),
        "points": batch.points[:n].cpu().numpy(),
        "probs": result.prob[:n, 0].cpu().numpy(),
        "last_points": result.points[:n].cpu().numpy(),
    }
    job["relay"].put.remote(Event("pictures", step, pictures))
