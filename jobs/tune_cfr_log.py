"""What a cfr sweep shows besides what all sweeps do: child runs made from results, and forward passes saved."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from jobs.tune_log import SweepLog, about_sweep, print_best, tracked
from pipeline.evaluate.results import passes
from pipeline.tracking.contents import DataInput, digest
from pipeline.tune.cfr_request import CheckedSweep, identity
from pipeline.tune.cfr_sweep import Sweep, by_object, rows_of
from pipeline.tune.summary import summary_of
from pipeline.tune.trials import Trial, paired_difference, split


class CfrLog:
    """The tracking side of one cfr sweep."""

    def __init__(self, checked: CheckedSweep, log: SweepLog) -> None:
        self.checked, self.log = checked, log

    def trial(self, trial: Trial) -> str | None:
        """Log an ended trial as a child run; returns its id, None when the store does not answer.

        While the sweep's own run does not exist there is nothing to be a child of: the trial is offered again at the
        end, and by the same command.
        """
        if self.log.run.run_id is None:
            return None
        return self.log.ended(trial)

    def finish(self, sweep: Sweep) -> dict[str, Any]:
        """Write the summary and the report.

        Raises:
            UserError: every trial failed.
        """
        datasets = [(d.name, d.uri, digest(d.marks), "test", d.images, d.objects) for d in sweep.datasets]
        self.log.run.data([DataInput(*data) for data in datasets])
        summary = {**about_sweep(), **_about(sweep), **_summary(sweep)}
        return self.log.finish(summary, sweep.trials, self.checked.space, self.checked.objectives)


def _summary(sweep: Sweep) -> dict[str, Any]:
    checked = sweep.checked
    rules = checked.config.eval
    quality, _ = split(checked.objectives)

    def difference(a: Trial, b: Trial) -> tuple[float, float, float]:
        assert quality is not None
        both = [by_object(rows_of(sweep.objects, t.id), quality.name, rules) for t in (a, b)]
        return paired_difference(*both)

    return {
        **summary_of(sweep.trials, checked.space, checked.objectives, difference, checked.out),
        "passes": passes(sweep.objects),
        "rejected": sweep.rejected.num_rows,
    }


def _about(sweep: Sweep) -> dict[str, Any]:
    checked = sweep.checked
    options = {name: value for name, value in identity(checked).items() if name not in ("checkpoint", "space")}
    return {
        "checkpoint": checked.checkpoint.to_dict(),
        "options": {**options, "batch_size": checked.config.batch},  # the device has decided it
        "data": {data.name: {"objects": data.objects, "images": data.images} for data in sweep.datasets},
        "wanted": checked.config.trials,
        "exhausted": sweep.exhausted,
    }


@contextlib.contextmanager
def tracked_cfr(checked: CheckedSweep) -> Iterator[CfrLog]:
    """The sweep's MLflow run; the same output folder continues the same run."""
    info, config = checked.checkpoint, checked.config
    tags = {"checkpoint": info.uri, "checkpoint_sha256": info.sha256, "sweep": "cfr"}
    if info.mlflow_run:
        tags["training_run"] = info.mlflow_run
    params = {f"space.{name}": text for name, text in checked.space.to_dict().items()}
    params |= {"search": config.search, "objectives": list(config.objectives), "trials": config.trials}
    params |= {"seed": config.search_seed, "generation": checked.generation}
    params["data"] = ", ".join(source.name for source in checked.sources)
    params["checkpoint"] = info.uri
    with tracked(checked.out, config.tracking, params, tags) as log:
        yield CfrLog(checked, log)


def print_passes(summary: dict[str, Any]) -> None:
    """The best settings, and what sharing saved."""
    print_best(summary)
    counts = summary["passes"]
    saved = 1 - counts["computed"] / max(1, counts["separate"])
    print(
        f"{counts['computed']} forward passes computed where separate evaluations take {counts['separate']} "
        f"({saved:.0%} saved)."
    )
