"""One trial of a sweep over training settings: a training run inside a Ray Tune trial.

The trial's process drives its training run as `jobs.train` does (`train.launch`), with workers of their own, and hands
each validation to Tune once the checkpoint of that step is written. It ends its run by asking for it, so that the
workers save and go: the scheduler's early stop, the end of the budget and SIGTERM all come this way.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import ray
from ray import tune

from pipeline.config import Tracking, TrainConfig
from pipeline.config import io as config_io
from pipeline.engine import stop
from pipeline.errors import user_error_in
from pipeline.evaluate.validate import validate_share
from pipeline.train.launch import fit
from pipeline.train.relay import Event
from pipeline.train.run_folder import open_folder
from pipeline.train.state import adopt, complete_checkpoints, step_of
from pipeline.tune import icl_folder
from pipeline.tune.icl_folder import Segment, validation_figures

STEP, ERROR, ENDED = "step", "error", "ended"
POINTER = "checkpoint.json"
LOOK_SECONDS = 1.0
STOP_SECONDS = 120.0  # that a run has for saving when it is stopped


class TrialLog(Protocol):
    """What shows a trial's training while it runs."""

    def on_event(self, event: Event) -> None:
        """Take news of the training."""

    @property
    def run_id(self) -> str | None:
        """The tracking run."""


OpenLog = Callable[[int, TrainConfig, str, int], AbstractContextManager[TrialLog]]
"""(trial, its config, the trial's folder, first step) -> log. Handed in by the job."""


@dataclass(frozen=True)
class TrialContext:
    """What all trials of a sweep have in common.

    Attributes:
        run: the config without the setting; `out` is the sweep's folder.
        open_log: see `OpenLog`.
    """

    run: TrainConfig
    open_log: OpenLog


def config_of_trial(common: TrainConfig, setting: dict[str, Any], out: str) -> TrainConfig:
    """The training config of a trial's run."""
    return config_io.replace(common, **{**setting, "out": out})


class IclTrial(tune.Trainable):
    """The trial as Tune sees it. Config: {"number": int}, and maybe {"setting": JSON of dotted names}, else as it was.

    A result is {"step": optimizer steps, objectives ..., "done": False}, one for each validation; the last one has
    done=True, "ended" (whether all steps were done) and, where training failed, "error".
    """

    def setup(self, config: dict[str, Any], context: TrialContext | None = None, wishes: Any = None) -> None:
        assert context is not None
        self._context, self._wishes = context, wishes
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Make this process the trial of `new_config`; the training of the trial that it was is stopped."""
        self.cleanup()
        self._number, out = int(new_config["number"]), self._context.run.out
        self._folder = icl_folder.trial_uri(out, self._number)
        given = new_config.get("setting")  # of a population's member that takes over from another one
        self._setting = icl_folder.from_json(json.loads(given)) if given else icl_folder.setting_now(out, self._number)
        self._source = ""  # checkpoint of another trial to go on from
        self._results: queue.Queue[dict[str, Any]] = queue.Queue()
        self._stop = threading.Event()
        self._thread = None
        self._error: Exception | None = None
        self._complete = False
        self._last: dict[str, Any] = {STEP: 0}
        self._segment: Segment | None = None
        return True

    def step(self) -> dict[str, Any]:
        """The next validation, or the end."""
        if self._thread is None:
            if ray.get(self._wishes.stopping.remote()):
                return self._last | {"done": True, ENDED: False}
            self._begin()
        assert self._thread is not None
        while True:
            alive = self._thread.is_alive()  # looked up first: what it put before it ended is then in the queue
            try:
                self._last = self._results.get(timeout=LOOK_SECONDS if alive else 0)
                return self._last | {"done": False}
            except queue.Empty:
                if not alive:
                    break
                if ray.get(self._wishes.stopping.remote()):
                    self._stop.set()
        failed = {} if self._error is None else {ERROR: _text(self._error)}
        return self._last | {"done": True, ENDED: self._complete, **failed}

    def cleanup(self) -> None:
        """Stop training: the workers save and end before the next trial needs their place."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Point to the checkpoint of the last result, from where another trial may go on, and stop training.

        Tune asks for it when a member of a population is to wait for the others.
        """
        assert self._segment is not None
        self.cleanup()
        pointer = {"number": self._number, "run": self._segment.uri, "step": self._last[STEP]}
        Path(checkpoint_dir, POINTER).write_text(json.dumps(pointer))

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Go on from what a pointer names: another trial's checkpoint, or where this one was.

        Where the other trial has trained on and deleted that checkpoint meanwhile, the next one it kept.
        """
        pointer = json.loads(Path(checkpoint, POINTER).read_text())
        if pointer["number"] != self._number:
            kept = complete_checkpoints(pointer["run"])
            self._source = next(uri for uri in kept if step_of(uri) >= pointer["step"])

    def _begin(self) -> None:
        held = icl_folder.segments(self._folder)
        unchanged = held and held[-1].setting == self._setting and not self._source
        self._segment = held[-1] if unchanged else icl_folder.begin_segment(self._folder, self._setting, self._source)
        for row in icl_folder.history(self._folder):  # told before, but perhaps not to this scheduler
            self._results.put(dict(row))
        self._thread = threading.Thread(target=self._work, name=f"trial-{self._number}", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            self._train()
        except Exception as error:
            self._error = error

    def _train(self) -> None:
        assert self._segment is not None
        segment = self._segment
        run = config_of_trial(self._context.run, self._setting, segment.uri)
        open_folder(run, also=icl_folder.BEGUN)
        if segment.source and not complete_checkpoints(run.out):
            adopt(segment.source, run.out)
        found = complete_checkpoints(run.out)
        first = step_of(found[-1]) if found else 0
        if first >= run.total_steps:
            self._complete = True
            return
        waiting: dict[int, dict[str, float]] = {}  # validations whose checkpoint is not written yet
        with self._context.open_log(self._number, run, self._folder, first) as log:

            def on_event(event: Event) -> None:
                log.on_event(event)
                if event.kind == "metrics" and (figures := validation_figures(event.payload)):
                    waiting[event.step] = figures
                elif event.kind == "checkpoint" and event.step in waiting:
                    self._results.put({STEP: event.step, **waiting.pop(event.step)})

            # Workers need no way to MLflow, and Ray shows what they were given.
            quiet = config_io.replace(run, **{"tracking.uri": Tracking().uri})
            self._complete = fit(quiet, partial(validate_share, cfg=quiet), on_event, log.run_id, stop=self._stop)
            if not self._complete and ray.get(self._wishes.stopping.remote()):
                raise SystemExit(stop.code())  # the tracking run is marked as killed; the same command goes on


def _text(error: Exception) -> str:
    """What a trial failed with, in one line."""
    known = user_error_in(error) or error
    return " ".join(f"{'' if known is not error else type(known).__name__ + ': '}{known}".split())[:2000]
