"""What an icl sweep shows of its trials: each is a child run that lives while it trains."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from jobs.training_log import TrainingLog
from jobs.tune_log import SweepLog, about_sweep, tracked
from pipeline import config
from pipeline.config import io as config_io
from pipeline.tracking.contents import prepared_input
from pipeline.tune.icl_request import CheckedIcl, identity
from pipeline.tune.icl_sweep import IclSweep
from pipeline.tune.icl_trial import OpenLog
from pipeline.tune.summary import summary_of
from pipeline.tune.trials import Trial


class IclLog:
    """The tracking side of one sweep over training settings."""

    def __init__(self, checked: CheckedIcl, log: SweepLog) -> None:
        self.checked, self.log = checked, log

    def open_trial(self) -> OpenLog:
        """What a trial's process shows its training with."""
        return partial(_training_log, tracking=self.log.tracking, parent=self.log.run.run_id, sweep=self.checked.out)

    def ended(self, trial: Trial) -> Trial:
        """Say on the child run how the trial ended; returns it with the run's id."""
        return replace(trial, mlflow_run=self.log.ended(trial))

    def finish(self, sweep: IclSweep) -> dict[str, Any]:
        """Write the summary and the report.

        Raises:
            UserError: no trial came to its end.
        """
        checked = self.checked
        options = {name: value for name, value in identity(checked).items() if name not in ("config", "space")}
        summary = {
            **about_sweep(),
            "recipe": checked.run.recipe,
            "steps": checked.run.total_steps,
            "options": options,
            "data": checked.objects,
            "wanted": checked.config.trials,
            "exhausted": sweep.exhausted,
            "hours": sweep.spent[0] / 3600,
            "gpu_hours": sweep.spent[1] / 3600,
            **summary_of(sweep.trials, checked.space, checked.objectives, None, checked.out),
        }
        return self.log.finish(summary, sweep.trials, checked.space, checked.objectives)


def _training_log(
    trial: int,
    run: config.TrainConfig,
    folder: str,
    first_step: int,
    *,
    tracking: config.Tracking,
    parent: str | None,
    sweep: str,
) -> TrainingLog:
    run = replace(run, tracking=replace(tracking, name=f"trial {trial}"))
    return TrainingLog(run, first_step, "tune", folder, {"trial": str(trial), "sweep": sweep}, parent)


@contextlib.contextmanager
def tracked_icl(checked: CheckedIcl) -> Iterator[IclLog]:
    """The sweep's MLflow run; the same output folder continues the same run."""
    asked = checked.config
    params = {f"space.{name}": text for name, text in checked.space.to_dict().items()}
    params |= {"search": asked.search, "objectives": list(asked.objectives), "trials": asked.trials}
    params |= {"search_seed": asked.search_seed, "grace": checked.grace, "reduction": asked.reduction}
    params |= {n: v for n, v in config_io.flatten(checked.run).items() if n not in checked.space.searched}
    tags = {"recipe": checked.run.recipe, "sweep": "icl"}
    data = checked.run.data
    with tracked(checked.out, checked.run.tracking, params, tags) as log:
        if checked.run.tracking.enabled:
            log.run.data([prepared_input(uri, context) for uri, context in ((data.train, "train"), (data.val, "val"))])
        yield IclLog(checked, log)
