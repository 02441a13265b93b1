"""Ray Tune for a sweep over training settings: trial runner, early stopping (ASHA).

Tune's own record of an experiment is not used: a command that goes on with a sweep tells a new searcher and a new
scheduler the trials that have ended (`tune.icl_sweep`).
"""

from __future__ import annotations

import logging
import os
from types import SimpleNamespace
from typing import Any

# Read when Tune's modules are imported. The last result of a trial that failed has no figures.
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new one ignores verbose=0

from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from pipeline import storage
from pipeline.config import io as config_io
from pipeline.engine import stop
from pipeline.engine.capacity import stream_tasks
from pipeline.engine.preflight import capacity
from pipeline.tune.icl_sweep import IclSweep
from pipeline.tune.icl_trial import STEP, IclTrial, OpenLog, TrialContext
from pipeline.tune.trials import Trial

RETRIES = 2  # starts of a trial whose process was lost, with its machine for example


def run(sweep: IclSweep, open_log: OpenLog) -> bool:
    """Train what is wanted, and write trials.json.

    Returns:
        False when the sweep was stopped (SIGTERM): it can be continued.
    """
    if sweep.wants_more:
        engine = storage.join(sweep.checked.out, "tune")  # Tune's own bookkeeping
        storage.remove(engine)
        for name in ("ray.tune", "ray.train"):  # Tune reports on its own record, of which there is none
            logging.getLogger(name).setLevel(logging.ERROR)
        with stop.stoppable(sweep.stop):
            _tuner(sweep, open_log, engine).fit()
        storage.remove(engine)
        sweep.keep_spent()
    return not sweep.stopping


def _tuner(sweep: IclSweep, open_log: OpenLog, engine: str) -> tune.Tuner:
    run = sweep.checked.run
    if not run.data.workers:  # trials share the CPUs that are left for making samples
        tasks = stream_tasks(capacity(), run.train, run.train.workers * sweep.concurrent)
        run = config_io.replace(run, **{"data.workers": tasks})
    filesystem, path = storage.arrow_filesystem(engine)
    # Workers take CPUs and GPUs. The trial's own process takes a share of the head node, which has one to give, so that
    # no more of them run than there is room for; the rest is for small helpers of the engine (0.001 for each run).
    share = tune.PlacementGroupFactory([{"node:__internal_head__": round(0.9 / sweep.concurrent, 4)}])
    trainable: Any = tune.with_parameters(IclTrial, context=TrialContext(run, open_log, sweep.wishes))
    return tune.Tuner(
        tune.with_resources(trainable, share),
        tune_config=tune.TuneConfig(
            search_alg=_Proposer(sweep),
            scheduler=_scheduler(sweep),
            num_samples=-1,
            max_concurrent_trials=sweep.concurrent,
        ),
        run_config=tune.RunConfig(
            name="experiment",
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # the training run has its own
            callbacks=[_TrialRecorder(sweep)],
            verbose=0,
        ),
    )


def _scheduler(sweep: IclSweep) -> TrialScheduler:
    """Who decides which trials go on: early stopping, or nobody."""
    checked, config = sweep.checked, sweep.checked.config
    objective, steps = checked.objectives[0], checked.run.total_steps
    if config.reduction == 1:
        return FIFOScheduler()
    scheduler = ASHAScheduler(
        time_attr=STEP,
        metric=objective.name,
        mode=objective.mode,
        max_t=steps + 1,  # a trial ends by itself
        grace_period=checked.grace,
        reduction_factor=config.reduction,
    )
    for trial in sweep.trials:
        _tell(scheduler, trial)
    return scheduler


def _tell(scheduler: ASHAScheduler, trial: Trial) -> None:
    """Let early stopping compare with a trial that ended under an earlier command."""
    known: Any = SimpleNamespace(trial_id=f"earlier-{trial.id}")  # all that ASHA looks at
    nobody: Any = None
    scheduler.on_trial_add(nobody, known)
    for row in trial.history:
        scheduler.on_trial_result(nobody, known, dict(row))
    scheduler.on_trial_remove(nobody, known)


class _NotPickled:
    """Belongs to this process: what Tune writes down of itself, which nobody reads, goes without it."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __deepcopy__(self, memo: dict[int, Any]) -> _NotPickled:
        return self


class _Proposer(_NotPickled, Searcher):
    """Tune's view of what is tried next; results reach the sweep through `_TrialRecorder`."""

    def __init__(self, sweep: IclSweep) -> None:
        objectives = sweep.checked.objectives
        super().__init__(metric=objectives[0].name, mode=objectives[0].mode)
        self._sweep = sweep

    def suggest(self, trial_id: str) -> Any:
        found = self._sweep.next()
        return Searcher.FINISHED if found is None else {"number": found[0]}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None: ...

    def save(self, checkpoint_path: str) -> None: ...

    def restore(self, checkpoint_path: str) -> None: ...


class _TrialRecorder(_NotPickled, tune.Callback):
    """Hears from Tune how trials get on."""

    def __init__(self, sweep: IclSweep) -> None:
        self._sweep = sweep
        self._shown: dict[int, int] = {}  # last step that was shown of each trial

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        train = self._sweep.checked.run.train
        running = sum(trial.status == trial.RUNNING for trial in trials)
        self._sweep.account(running * train.workers if train.gpu else 0)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self._sweep.keep_spent()
        number = trial.config["number"]
        objective = self._sweep.checked.objectives[0]
        if objective.name in result and result[STEP] > self._shown.get(number, 0):
            self._shown[number] = result[STEP]
            steps = f"step {result[STEP]} of {self._sweep.checked.run.total_steps}"
            print(f"trial {number}: {steps}, {objective.label} {result[objective.name]:.3f}", flush=True)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._sweep.ended(trial.config["number"], trial.last_result or {})

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        lost = trial.get_error()
        text = " ".join(str(lost).split())[:2000]
        self._sweep.ended(trial.config["number"], trial.last_result or {}, f"Its process was lost: {text}")
