"""Ray Tune for a sweep over training settings: trial runner, early stopping (ASHA), population based training.

Tune's own record of an experiment is not used: a command that goes on with a sweep tells a new searcher and a new
scheduler the trials that have ended (`tune.icl_sweep`).
"""

from __future__ import annotations

import json
import logging
import os
import random
from types import SimpleNamespace
from typing import Any

# Read when Tune's modules are imported. The last result of a trial that failed has no figures.
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new one ignores verbose=0

import numpy as np
import optuna
from optuna.samplers import RandomSampler
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search import Searcher

from pipeline import storage
from pipeline.config import io as config_io
from pipeline.engine import stop
from pipeline.engine.capacity import stream_tasks
from pipeline.engine.preflight import capacity
from pipeline.tune import icl_folder
from pipeline.tune.icl_sweep import IclSweep
from pipeline.tune.icl_trial import STEP, IclTrial, OpenLog, TrialContext
from pipeline.tune.proposals import draw_of, mutate, setting_of
from pipeline.tune.trials import Trial

RETRIES = 2  # starts of a trial whose process was lost, with its machine for example
LEFT_OUT = 0.25  # of a population: the share that is replaced by as many of the best


def run(sweep: IclSweep, open_log: OpenLog) -> bool:
    """Train what is wanted, and write trials.json.

    Returns:
        False when the sweep was stopped (SIGTERM): it can be continued.
    """
    if sweep.wants_more:
        random.seed(sweep.checked.request.seed)  # by which a population's exchanges are drawn
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
    checked, request = sweep.checked, sweep.checked.request
    run = checked.run
    if not run.data.workers:  # trials share the CPUs that are left for making samples
        tasks = stream_tasks(capacity(), run.train, run.train.workers * sweep.concurrent)
        run = config_io.replace(run, **{"data.workers": tasks})
    filesystem, path = storage.arrow_filesystem(engine)
    # Workers take CPUs and GPUs. The trial's own process takes a share of the head node, which has one to give, so that
    # no more of them run than there is room for; the rest is for small helpers of the engine (0.001 for each run).
    share = tune.PlacementGroupFactory([{"node:__internal_head__": round(0.9 / sweep.concurrent, 4)}])
    trainable: Any = tune.with_parameters(IclTrial, context=TrialContext(run, open_log), wishes=sweep.wishes)
    population = request.search == "pbt"  # Tune has no searcher beside it: all members are begun at once
    members = iter(sweep.next, None) if population else iter(())
    return tune.Tuner(
        tune.with_resources(trainable, share),
        param_space={"number": tune.grid_search([number for number, _ in members])} if population else None,
        tune_config=tune.TuneConfig(
            search_alg=None if population else _Proposer(sweep),
            scheduler=scheduler(sweep),
            num_samples=1 if population else -1,
            max_concurrent_trials=None if population else sweep.concurrent,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="experiment",
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            callbacks=[TrialRecorder(sweep)],
            verbose=0,
        ),
    )


def scheduler(sweep: IclSweep) -> TrialScheduler:
    """Who decides which trials go on: early stopping, a population's exchanges, or nobody."""
    checked, request = sweep.checked, sweep.checked.request
    objective, steps = checked.objectives[0], checked.run.total_steps
    if request.search == "pbt":
        return _Population(sweep)
    if request.reduction == 1:
        return FIFOScheduler()
    scheduler = ASHAScheduler(
        time_attr=STEP,
        metric=objective.name,
        mode=objective.mode,
        max_t=steps + 1,  # a trial ends by itself
        grace_period=checked.grace,
        reduction_factor=request.reduction,
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


class NotPickled:
    """Belongs to this process: what Tune writes down of itself, which nobody reads, goes without it."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __deepcopy__(self, memo: dict[int, Any]) -> NotPickled:
        return self


class _Proposer(NotPickled, Searcher):
    """Tune's view of what is tried next; results reach the sweep through `TrialRecorder`."""

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


class TrialRecorder(NotPickled, tune.Callback):
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


class _Population(PopulationBasedTraining):
    """Population based training: every `grace` steps the worst members take over from the best.

    All members are compared at the same step (those that come there first wait), so that the outcome depends neither on
    how many train at once nor on who is faster. New settings are neighbours in our space. No exchange at the last step.
    """

    def __init__(self, sweep: IclSweep) -> None:
        checked = sweep.checked
        objective = checked.objectives[0]
        super().__init__(
            time_attr=STEP,
            metric=objective.name,
            mode=objective.mode,
            perturbation_interval=checked.grace,
            quantile_fraction=LEFT_OUT,
            log_config=False,
            synch=True,
            custom_explore_fn=lambda config: config,  # in its place: _get_new_config
        )
        self._checked = checked
        self._gone: set[Any] = set()  # members that have ended or failed
        self._rng = np.random.default_rng(checked.request.seed)
        self._study = optuna.create_study(sampler=RandomSampler(checked.request.seed))
        # Members that an earlier command began say again what they reached; exchanges go on from there.
        reached = max((rows[-1][STEP] for rows in map(sweep.history, sweep.unfinished) if rows), default=0)
        self._next_perturbation_sync = max(1, int(reached) // checked.grace) * checked.grace

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if not self._next_perturbation_sync <= result[STEP] < self._checked.run.total_steps:
            return TrialScheduler.CONTINUE
        self._gone.discard(trial)  # its process was lost, and it has begun again
        return self._compare(tune_controller, trial, result)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        self._go_on_without(tune_controller, trial)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self._go_on_without(tune_controller, trial)

    def _go_on_without(self, tune_controller: Any, gone: Any) -> None:
        """Nobody waits for a member that is gone, which Tune's own class would do for ever."""
        self._gone.add(gone)
        self._trial_state[gone].last_score = None
        others = [trial for trial in tune_controller.get_live_trials() if trial not in self._gone]
        waiting = [trial for trial in others if trial.status == trial.PAUSED and self._is_there(trial)]
        if waiting and all(map(self._is_there, others)):
            last = waiting[-1]
            self._compare(tune_controller, last, self._trial_state[last].last_result or {})

    def _compare(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        for gone in self._gone:
            self._trial_state[gone].last_train_time = self._next_perturbation_sync
        return super().on_trial_result(tune_controller, trial, result)

    def _is_there(self, trial: Any) -> bool:
        return self._trial_state[trial].last_train_time >= self._next_perturbation_sync

    def _get_new_config(self, trial: Any, trial_to_clone: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        setting = icl_folder.setting_now(self._checked.out, trial_to_clone.config["number"])
        space = self._checked.space
        drawn = mutate(space, draw_of(space, setting), self._rng, self._study.ask())
        return {"number": trial.config["number"], "setting": json.dumps(setting_of(space, drawn))}, {}
