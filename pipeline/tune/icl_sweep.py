"""The state of a sweep over training settings: which trial is next, which have ended, what was spent.

`tune.icl_folder` holds what there is of a sweep, so the same command continues after any kill, may raise the number of
trials, and repeats no trial that has ended. `tune.icl_tuner` runs the trials.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.engine.capacity import runs_at_once
from pipeline.engine.preflight import capacity
from pipeline.train.launch import preflight
from pipeline.train.mailbox import Mailbox
from pipeline.tune import icl_folder
from pipeline.tune.icl_request import CheckedIcl
from pipeline.tune.icl_trial import ENDED, ERROR, STEP
from pipeline.tune.proposals import Proposal, key_of
from pipeline.tune.search import propose
from pipeline.tune.trials import Trial

OnTrial = Callable[[Trial], Trial]
"""Called with a trial that has ended, before it is kept; returns it, its tracking run noted."""


class IclSweep:
    """A sweep being carried out on the connected cluster.

    Attributes:
        trials: those that have ended, in the order of their ids.
        exhausted: the space held no further setting.
        spent: seconds of work, and of GPUs, by all commands.
        begun: trials that this command has begun.
        wishes: the actor by which running trials are told to end.
        stopping: SIGTERM came.
    """

    def __init__(self, checked: CheckedIcl, on_trial: OnTrial) -> None:
        """Look up what there is.

        Raises:
            UserError: trials that no machine of the cluster can hold, paths that not all machines see.
        """
        self.checked, self._on_trial = checked, on_trial
        preflight(checked.run)
        self.proposals = {n: icl_folder.read_proposal(checked.out, n) for n in icl_folder.numbers(checked.out)}
        held = [icl_folder.read_ended(checked.out, number) for number in self.proposals]
        self.trials = [trial for trial in held if trial is not None]
        self.spent = icl_folder.read_spent(checked.out)
        self.exhausted = False
        self.stopping = False
        self.begun: set[int] = set()
        self._since = time.monotonic()
        # On this machine, so that it lives as long as this process does.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor: Any = ray.remote(Mailbox)
        self.wishes = actor.options(num_cpus=0, scheduling_strategy=here).remote()

    @property
    def concurrent(self) -> int:
        """Trials at once."""
        config = self.checked.config
        most = config.concurrent or runs_at_once(capacity(), self.checked.run.train)
        return max(1, min(most, config.trials - len(self.trials)))

    @property
    def unfinished(self) -> list[int]:
        """Trials that were begun, now or under an earlier command, and have not ended."""
        ended = {trial.id for trial in self.trials}
        return [number for number in self.proposals if number not in ended]

    @property
    def wants_more(self) -> bool:
        """Whether trials are left to be trained."""
        return len(self.trials) < self.checked.config.trials and not self.stopping and not self.over_budget

    @property
    def over_budget(self) -> bool:
        """Whether the hours are used up."""
        config = self.checked.config
        seconds, gpu_seconds = self.spent
        return bool(
            (config.hours and seconds >= config.hours * 3600)
            or (config.gpu_hours and gpu_seconds >= config.gpu_hours * 3600)
        )

    def stop(self) -> None:
        """Have all trials save and end; they stay unfinished."""
        self.stopping = True
        self.wishes.stop.remote()

    def account(self, gpus: int = 0) -> None:
        """Note the time since the last call, in which `gpus` were in use; end all trials when a budget is used up."""
        now = time.monotonic()
        seconds, self._since = now - self._since, now
        was_over = self.over_budget
        self.spent = (self.spent[0] + seconds, self.spent[1] + seconds * gpus)
        if self.over_budget and not was_over:
            self.wishes.stop.remote()

    def keep_spent(self) -> None:
        """Write down what was spent, for the next command."""
        icl_folder.write_spent(self.checked.out, *self.spent)

    def next(self) -> tuple[int, Proposal] | None:
        """The next trial to train, noted on storage under its number; None when there is none.

        Unfinished trials of an earlier command come first, then the published setting and the points, then what the
        searcher proposes from the trials that have ended.
        """
        waiting = [number for number in self.unfinished if number not in self.begun]
        if self.stopping or self.over_budget:
            return None
        if waiting:
            number = waiting[0]
        else:
            number = len(self.proposals)
            if number >= self.checked.config.trials:
                return None
            proposal = self._propose(number)
            if proposal is None:
                self.exhausted = True
                return None
            icl_folder.write_proposal(self.checked.out, number, proposal)
            self.proposals[number] = proposal
        self.begun.add(number)
        return number, self.proposals[number]

    def _propose(self, number: int) -> Proposal | None:
        checked, config = self.checked, self.checked.config
        taken = {key_of(proposal.setting) for proposal in self.proposals.values()}
        first = [p for p in checked.first if key_of(p.setting) not in taken]
        if first:
            return first[0]
        planned = [self.proposals[number] for number in self.unfinished]
        space, objectives = checked.space, checked.objectives
        found = propose(space, objectives, config.search, config.search_seed, number, self.trials, planned, 1)
        return found[0] if found else None

    def ended(self, number: int, result: dict[str, Any], error: str = "") -> None:
        """Keep a trial that has ended; one that SIGTERM or the budget interrupted stays unfinished."""
        trial = self._ended(number, result, error)
        if trial is None:
            return
        trial = self._on_trial(trial)
        icl_folder.write_ended(self.checked.out, trial)
        self.trials = sorted([*self.trials, trial], key=lambda t: t.id)
        icl_folder.write_trials(self.checked.out, self.trials)

    def _ended(self, number: int, result: dict[str, Any], error: str) -> Trial | None:
        history = icl_folder.history(self.checked.out, number)
        about: dict[str, Any] = {**asdict(self.proposals[number]), "history": history}
        seconds = float(result.get("time_total_s", 0.0))
        if error or ERROR in result:
            return Trial(number, "failed", error=error or result[ERROR], seconds=seconds, **about)
        if not result.get(ENDED) and (self.stopping or self.over_budget):
            return None
        if not result.get(ENDED):  # its training may have gone on while the scheduler decided
            history = about["history"] = [row for row in history if row[STEP] <= result[STEP]]
        metrics = {name: value for name, value in history[-1].items() if name != STEP}
        whole = history[-1][STEP] >= self.checked.run.total_steps
        return Trial(number, "done" if whole else "stopped", metrics=metrics, seconds=seconds, **about)
