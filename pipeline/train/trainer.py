"""The training loop: one rank of a run in data parallel, from wherever the output folder stands.

`Trainer.train` is the loop, `Trainer.train_step` one optimizer step (the click loop inside it is `icl.icl_step`), and
`Trainer.after_step` what comes between two of them: logs, validation, checkpoints, stopping. The driver's side is
`launch.fit`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
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
from pipeline.train.mailbox import Event, Post
from pipeline.train.meter import Meter
from pipeline.train.optim import averaged, build_optimizer, rate_at, set_rate, update_average
from pipeline.train.state import TrainState, complete_checkpoints, restore, step_of

# (model, rank, world) -> number of objects that this rank evaluated, and their mean metrics. Handed in by the job, so
# that training does not know how evaluation works; "noc90" decides which checkpoint is the best.
Validate = Callable[[ClickSegmenter, int, int], tuple[int, dict[str, float]]]
BEST_BY = "noc90"
PICTURES = 8


def train_worker(job: dict[str, Any]) -> None:
    """One rank's training; runs in a Ray Train worker. `job`: config, mailbox, signs, validate, mlflow_run."""
    Trainer(job).train()


@dataclass(frozen=True)
class Step:
    """What a finished optimizer step leaves for `Trainer.after_step`.

    Attributes:
        rate: learning rate it was made with.
        norm: of all gradients, before clipping.
        batch, result: of the last micro-batch.
    """

    rate: float
    norm: float
    batch: icl.ClickBatch
    result: icl.StepResult


class Trainer:
    """One rank of a training run.

    Attributes:
        state: model, optimizer, step and position; what checkpoints hold.
        wrapped: the module to call (`parallel.parallelize`).
        leaving: a machine of this group is about to be taken away: save at every look.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        self.run = run = config_io.from_dict(config.TrainConfig, job["config"])
        context = ray.train.get_context()
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self.pulse = Pulse(job["signs"], f"rank {self.rank} of training", group="training")
        self.pulse.at("reading the checkpoint and building the model")
        self.device = ray.train.torch.get_device()
        if self.device.type == "cpu":
            torch.set_num_threads(run.train.threads or max(1, usable_cpus() // context.get_local_world_size()))
        set_float32(tf32=run.train.precision == "tf32")

        latest = broadcast_from_rank_zero((complete_checkpoints(run.out) or [None])[-1])
        self.state, self.wrapped = self._initial_state(job["mlflow_run"], start="" if latest else run.model.start)
        if latest:
            restore(self.state, latest)
        self.state.model.register_forward_hook(self.pulse.move)
        self.wrapped.train()

        manifest = load_manifest(run.data.train)
        fingerprint.require_same(run.out, {"data.train": fingerprint.of_shards(manifest)})  # also after a loss
        left = run.total_steps - self.state.step
        self.batches = stream.batches(run, manifest, self.state.position, self.rank, self.world, left, job["signs"])
        self.meter, self.guard = Meter(run, self.device, self.world), Guard(run, self.rank, self.world)
        self.post = Post(job["mailbox"], self.rank)
        restored = step_of(latest) if latest else None
        self.checkpoints = Checkpointer(
            run, self.rank, self.world, restored, before=self.post.written_down, after=self.post.checkpoint
        )
        self.validate: Validate | None = job["validate"]
        self.first = self.state.step
        self.leaving = False
        self.post.send(Event("phase", self.first, f"the workers are there; samples of step {self.first + 1} are made"))
        if self.state.step == 0 and not latest:
            self._save({})

    def _initial_state(self, mlflow_run: str | None, start: str) -> tuple[TrainState, torch.nn.Module]:
        """The state before the first step, and the module to call."""
        run = self.run
        torch.manual_seed(run.seed)
        model = new_model(run.model, start)
        model.to(self.device)
        if run.train.compile:
            model.compile_parts()
        wrapped = parallel.parallelize(model, run.train, self.device, self.world)
        optimizer = build_optimizer(model, run.optim, run.model.depth)
        return TrainState(model, optimizer, 0, order.Position(0, 0, self.world), mlflow_run=mlflow_run), wrapped

    def train(self) -> None:
        """Train until the run's last step, or until the driver asks to stop."""
        stopped = False
        while self.state.step < self.run.total_steps and not stopped:
            stopped = self.after_step(self.train_step())
        self.pulse.at("writing the last checkpoint")
        self.checkpoints.finish()
        self.post.close()
        self.pulse.close()

    def train_step(self) -> Step:
        """One optimizer step: forward and backward of all micro-batches, clipping, update."""
        run, state, step = self.run, self.state, self.state.step
        rate = rate_at(run.optim, step, run.steps_per_epoch, run.total_steps)
        set_rate(state.optimizer, rate)
        state.optimizer.zero_grad(set_to_none=True)
        for micro in range(run.train.accumulate - 1):
            self._forward_backward(micro)
        arrays, batch, result = self._forward_backward(run.train.accumulate - 1)  # it exchanges the gradients
        norm = parallel.clip_gradients(state.model, run.optim.clip_norm or math.inf)
        self.guard.check_norm(norm, step, arrays, state.model)
        state.optimizer.step()
        state.step += 1
        if run.optim.average:
            update_average(state.optimizer, run.optim.average, state.step)
        consumed = run.train.micro_batch(self.world) * run.train.accumulate
        state.position = order.advance(state.position, self.world, consumed, run.data.chunk)
        return Step(rate, norm, batch, result)

    def _forward_backward(self, micro: int) -> tuple[stream.Batch, icl.ClickBatch, icl.StepResult]:
        """The click loop of micro-batch `micro` of a step; the last one exchanges the gradients of all."""
        run, step = self.run, self.state.step
        self.pulse.at(f"waiting for the samples of step {step + 1}", waiting=True)
        arrays = self.meter.wait(lambda: next(self.batches))
        self.pulse.at(f"computing step {step + 1}")
        batch = _to_device(arrays, self.device, run.seed)
        # Dropout's draws belong to (seed, step, rank, micro), so no generator state has to be kept.
        torch.manual_seed(int(np.random.SeedSequence((run.seed, step, self.rank, micro)).generate_state(1)[0]))
        last = micro == run.train.accumulate - 1
        take_step = icl.icl_step if run.loss.mode == "icl" else icl.iter_mask_step
        no_sync = parallel.no_sync(self.wrapped)
        count = icl.draw_steps(run.loss, run.seed, step)

        def backward(loss: torch.Tensor) -> None:
            (loss / run.train.accumulate).backward()

        with forward_precision(run.train.precision, batch.image.device):
            result = take_step(self.wrapped, batch, run.loss, count, backward=backward, no_sync=no_sync, sync_last=last)
        self.guard.check_loss(result, step, arrays, self.state.model)
        self.meter.add(result)
        return arrays, batch, result

    def after_step(self, done: Step) -> bool:
        """Log, validate and save where it is time to. Returns whether the driver wants the run to stop here."""
        train, step = self.run.train, self.state.step
        ended = step == self.run.total_steps
        logs = step % train.log_every == 0 or ended
        validates = ended or bool(train.val_every and step % train.val_every == 0)
        if step == self.first + 1:
            self.post.send(Event("phase", step, f"step {step} is done"))
        if logs:
            self._log(done)
        if self.rank == 0 and (step == 1 or validates):
            self.post.send(Event("pictures", step, _pictures(done.batch, done.result)))
        self.pulse.at(f"waiting for the other ranks after step {step}")
        stop, busy = parallel.agree([self.post.stop, self.checkpoints.busy], self.world, self.device)
        if self.checkpoints.waits_for_others and not busy:
            self.checkpoints.publish_together()
        self.checkpoints.check()
        if validates or stop or (self.leaving and logs) or step % train.checkpoint_every == 0:
            with averaged(self.state.optimizer):
                self.pulse.at(f"validating after step {step}")
                scores = self._validate() if validates else {}
                self.wrapped.train()
                self.pulse.at(f"saving step {step}")
                self._save(scores)
            self.meter.restart()
        return bool(stop)

    def _log(self, done: Step) -> None:
        times = {"time/checkpoint_s": self.checkpoints.written} if self.checkpoints.written else {}
        metrics = {"optim/lr": done.rate, "optim/grad_norm": done.norm, **self.meter.flush(), **times}
        self.post.send(Event("metrics", self.state.step, metrics))
        self.leaving = self.leaving or ray.train.get_preemption_info() is not None

    def _validate(self) -> dict[str, float]:
        """Mean metrics over the objects of all ranks, each rank having evaluated its share."""
        if self.validate is None:
            return {}
        model = self.state.model
        evaluated = parallel.whole_model(model).eval()
        if evaluated is not model:  # a gathered copy
            evaluated.register_forward_hook(self.pulse.move)
        with ClickSegmenter.uncompiled() if self.run.train.compile else nullcontext():
            parts: list[Any] = [self.validate(evaluated, self.rank, self.world)]
        if self.world > 1:
            mine, parts = parts[0], [None] * self.world
            dist.all_gather_object(parts, mine)
        total = sum(n for n, _ in parts)
        names = sorted({name for n, means in parts if n for name in means})
        return {name: sum(n * means[name] for n, means in parts if n) / total for name in names}

    def _save(self, scores: dict[str, float]) -> None:
        """Validation scores to the driver, and a checkpoint begun; every rank reports, which keeps them together."""
        state = self.state
        if scores and (state.best is None or scores[BEST_BY] < state.best[0]):
            state.best = (scores[BEST_BY], state.step)
        metrics = {f"val/{name}": value for name, value in scores.items()}
        if self.device.type == "cuda":
            metrics["device/peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
        self.post.send(Event("metrics", state.step, metrics))
        self.checkpoints.begin(state)
        ray.train.report({"step": state.step, **scores})


def _to_device(arrays: dict[str, np.ndarray], device: torch.device, seed: int) -> icl.ClickBatch:
    """Blocks of the stream are read-only views of shared memory: copy, then move; channels first on the device."""
    image = torch.from_numpy(arrays["image"].copy()).to(device).permute(0, 3, 1, 2).contiguous()
    target = torch.from_numpy(arrays["target"].copy()).to(device)[:, None]
    points = torch.from_numpy(arrays["points"].copy()).to(device)
    keys = [(seed, int(c), int(r)) for c, r in zip(arrays["chunk"], arrays["row"], strict=True)]
    return icl.ClickBatch(image, target, points, keys)


def _pictures(batch: icl.ClickBatch, result: icl.StepResult) -> dict[str, np.ndarray]:
    """Samples and predictions of the first of a batch, to be drawn by the driver."""
    assert result.prob is not None and result.points is not None
    n = PICTURES
    return {
        "images": batch.image[:n].permute(0, 2, 3, 1).cpu().numpy(),
        "targets": batch.target[:n, 0].cpu().numpy(),
        "points": batch.points[:n].cpu().numpy(),
        "probs": result.prob[:n, 0].cpu().numpy(),
        "last_points": result.points[:n].cpu().numpy(),
    }
