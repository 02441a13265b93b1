"""What a sweep of either kind shows of its trials: MLflow runs, summary.json, best.json and the report."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pipeline import config, storage
from pipeline.errors import UserError
from pipeline.report.environment import describe_environment
from pipeline.report.sweep_history import indistinct
from pipeline.report.sweep_report import describe_setting, write_sweep_report
from pipeline.storage.json_files import write_json
from pipeline.tracking.run import Run, open_run
from pipeline.tracking.store_uri import resolve_tracking
from pipeline.tune import icl_folder
from pipeline.tune.setting_file import write_settings
from pipeline.tune.spaces import Space
from pipeline.tune.trials import Objective, Trial

WAIT = 3.0  # seconds that a trial's run may take to be made, and what is known of it to be sent


class SweepLog:
    """The tracking side of one sweep: a run, and a child run for each trial.

    Attributes:
        out: the sweep's folder.
        tracking: with its URI filled in.
        run: the sweep's own MLflow run.
    """

    def __init__(self, out: str, tracking: config.Tracking, run: Run) -> None:
        self.out, self.tracking, self.run = out, tracking, run

    @property
    def tracking_uri(self) -> str:
        """Where its runs are, "" when they are not tracked."""
        return self.tracking.uri if self.tracking.enabled else ""

    def ended(self, trial: Trial) -> str | None:
        """Log how a trial has ended on its child run, begun here or by the trial itself; returns its id."""
        if self.tracking.enabled:
            icl_folder.write_ended(self.out, trial)
        child = open_run(
            self.tracking,
            kind="tune",
            name=trial.name or f"trial {trial.id}",
            params=trial.setting,
            tags={"trial": str(trial.id), "state": trial.state, **({"error": trial.error} if trial.error else {})},
            out=icl_folder.trial_uri(self.out, trial.id),
            parent=self.run.run_id,
            wait=WAIT,
        )
        child.close("FAILED" if trial.state == "failed" else "FINISHED", WAIT)
        return child.run_id

    def finish(
        self, summary: dict[str, Any], trials: Sequence[Trial], space: Space, objectives: Sequence[Objective]
    ) -> dict[str, Any]:
        """Write summary.json, best.json and the report.

        Raises:
            UserError: no trial came to its end.
        """
        summary = {**summary, "mlflow_run": self.run.run_id}
        write_json(storage.join(self.out, "summary.json"), summary)
        write_settings(self.out, summary, trials, space, objectives)
        write_sweep_report(self.out, summary)
        if summary["best"] is None:
            failed = [t for t in trials if t.state == "failed"]
            why = f"; the first that failed, with: {failed[0].error}" if failed else ""
            raise UserError(f"None of the {len(trials)} trials came to its end{why}")
        return summary


def about_sweep() -> dict[str, Any]:
    """The parts of summary.json that do not depend on the kind of sweep."""
    environment = describe_environment()
    date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"schema_version": 1, "date": date, "environment": environment, "command": environment["command"]}


@contextlib.contextmanager
def tracked(
    out: str, tracking: config.Tracking, params: Mapping[str, Any], tags: Mapping[str, str]
) -> Iterator[SweepLog]:
    """A sweep's MLflow run; the same output folder continues the same run."""
    resolved = resolve_tracking(tracking, fallback_root=out.rsplit("/", 1)[0])
    name = tracking.name or f"sweep {out.rsplit('/', 1)[-1]}"
    with open_run(resolved, kind="tune", name=name, params=params, tags=tags, out=out) as run:
        yield SweepLog(out, resolved, run)


def print_best(summary: Mapping[str, Any]) -> None:
    """The settings worth using at each cost where cost is an objective, else those on the front, or the best one."""
    trials, names = {trial["id"]: trial for trial in summary["trials"]}, summary["objectives"]
    for text in indistinct(summary):
        print(f"\n{text}", end="")
    print(f"\n{'trial':>5}  " + "".join(f"{name:>10}" for name in names) + "  setting")
    worth = [step["trial"] for step in summary["worth"] if step["worth"]]
    for number in worth or summary["front"] or [summary["best"]["trial"]]:
        trial = trials[number]
        figures = "".join(f"{trial['metrics'][name]:>10.3f}" for name in names)
        print(f"{number:>5}  {figures}  {trial['name'] or describe_setting(trial['setting'], summary['base'])}")
    states = [trial["state"] for trial in trials.values()]
    counts = "".join(f", {states.count(state)} {state}" for state in ("failed", "stopped") if state in states)
    print(f"{len(trials)} trials{counts}. Best: trial {summary['best']['trial']}.")
