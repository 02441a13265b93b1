"""One trial of a sweep over training settings: a training run inside a Ray Tune trial.

The trial's process drives its training run as `jobs.train` does (`train.launch`), with workers of their own, and hands
each validation to Tune once the checkpoint of that step is written. It ends its run by asking for it, so that the
workers save and go: the scheduler's early stop, the end of the budget and SIGTERM all come this way.

Not a function with `tune.report`: Tune ends one of those by ending its process. Tried with Ray 2.60, of two trials that
ASHA stopped the run's workers were gone, but their CPUs stayed taken until the sweep ended, which starves later trials.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import ray
from ray import tune

from pipeline.config import Tracking, TrainConfig
from pipeline.config import io as config_io
from pipeline.engine import stop
from pipeline.errors import user_error_in
from pipeline.evaluate.validate import validate_share
from pipeline.train.launch import fit
from pipeline.train.mailbox import Event
from pipeline.train.run_folder import open_folder
from pipeline.train.state import complete_checkpoints, step_of
from pipeline.tune import icl_folder

STEP, ERROR, ENDED = "step", "error", "ended"
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
        wishes: the actor by which the sweep tells its trials to end.
    """

    run: TrainConfig
    open_log: OpenLog
    wishes: Any

    def stopping(self) -> bool:
        """Whether the sweep wants all trials to save and end."""
        return ray.get(self.wishes.stopping.remote())


class IclTrial(tune.Trainable):
    """The trial as Tune sees it. Config: {"number": int}.

    A result is {"step": optimizer steps, objectives ..., "done": False}, one for each validation; the last one has
    done=True, "ended" (whether all steps were done) and, where training failed, "error".
    """

    def setup(self, config: dict[str, Any], context: TrialContext | None = None) -> None:
        assert context is not None
        self._results: queue.Queue[dict[str, Any]] = queue.Queue()
        self._last: dict[str, Any] = {STEP: 0}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(int(config["number"]), context), daemon=True)
        self._context = context
        self._thread.start()

    def step(self) -> dict[str, Any]:
        """The next validation, or the end."""
        while True:
            try:
                self._last |= self._results.get(timeout=LOOK_SECONDS)
                return dict(self._last)
            except queue.Empty:
                if self._context.stopping():
                    self._stop.set()

    def cleanup(self) -> None:
        """Stop training: the workers save and end before the next trial needs their place."""
        self._stop.set()
        self._thread.join(STOP_SECONDS)

    def _work(self, number: int, context: TrialContext) -> None:
        end: dict[str, Any] = {"done": True, ENDED: False}
        try:
            end[ENDED] = self._train(number, context)
        except Exception as error:
            end[ERROR] = _text(error)
        finally:  # also after SystemExit
            self._results.put(end)

    def _train(self, number: int, context: TrialContext) -> bool:
        """Train from wherever the trial stands. Returns whether all steps are done."""
        if context.stopping():
            return False
        out = context.run.out
        setting = icl_folder.read_proposal(out, number).setting
        run = config_io.replace(context.run, **{**setting, "out": icl_folder.run_uri(out, number)})
        open_folder(run)
        for row in icl_folder.history(out, number):  # told before, but perhaps not to this scheduler
            self._tell(row)
        found = complete_checkpoints(run.out)
        first = step_of(found[-1]) if found else 0
        if first >= run.total_steps:
            return True
        waiting: dict[int, dict[str, float]] = {}  # validations whose checkpoint is not written yet
        with context.open_log(number, run, icl_folder.trial_uri(out, number), first) as log:

            def on_event(event: Event) -> None:
                log.on_event(event)
                if event.kind == "metrics" and (figures := icl_folder.validation_figures(event.payload)):
                    waiting[event.step] = figures
                elif event.kind == "checkpoint" and event.step in waiting:
                    self._tell({STEP: event.step, **waiting.pop(event.step)})

            # Workers need no way to MLflow, and Ray shows what they were given.
            quiet = config_io.replace(run, **{"tracking.uri": Tracking().uri})
            complete = fit(quiet, partial(validate_share, cfg=quiet), on_event, log.run_id, stop=self._stop)
            if not complete and context.stopping():
                raise SystemExit(stop.code())  # the tracking run is marked as killed; the same command goes on
        return complete

    def _tell(self, row: dict[str, float]) -> None:
        self._results.put({**row, "done": False})


def _text(error: Exception) -> str:
    """What a trial failed with, in one line."""
    known = user_error_in(error) or error
    return " ".join(f"{'' if known is not error else type(known).__name__ + ': '}{known}".split())[:2000]
