"""What a cfr sweep shows of its trials: MLflow runs, summary, report, best.json, the front on the terminal."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline import config, storage
from pipeline.config_io import to_dict
from pipeline.errors import UserError
from pipeline.report.environment import describe_environment
from pipeline.report.sweep_report import describe_setting, write_sweep_report
from pipeline.report.tracking import Run, open_run, resolve_tracking
from pipeline.tune import cfr_parts
from pipeline.tune.best import BEST, write_settings
from pipeline.tune.cfr_request import CheckedSweep, identity
from pipeline.tune.cfr_sweep import Sweep
from pipeline.tune.outcome import summary_of
from pipeline.tune.trials import Trial, paired_difference, split

WAIT = 3.0  # seconds that a trial's run may take to be made, and its records to be sent; the spool keeps the rest


class SweepLog:
    """The tracking side of one sweep: a run, and a child run for each trial."""

    def __init__(self, checked: CheckedSweep, tracking: config.Tracking, run: Run) -> None:
        self.checked, self.tracking, self.run = checked, tracking, run

    def trial(self, trial: Trial) -> str | None:
        """Log an ended trial as a child run; returns its id, None when the store does not answer.

        While the sweep's own run does not exist there is nothing to be a child of: the trial is offered again at the
        end, and by the same command.
        """
        if self.run.run_id is None:
            return None
        child = open_run(
            self.tracking,
            kind="tune",
            name=trial.name or f"trial {trial.id}",
            params=trial.setting,
            tags={"trial": str(trial.id), "state": trial.state, **({"error": trial.error} if trial.error else {})},
            out=storage.join(self.checked.out, "trials", f"{trial.id:04d}"),
            parent=self.run.run_id,
            wait=WAIT,
        )
        child.metrics(trial.metrics)
        for clicks, value in enumerate(trial.curve, start=1):
            child.metrics({"mean_iou": value}, step=clicks)
        child.close("FAILED" if trial.state == "failed" else "FINISHED", WAIT)
        return child.run_id

    def finish(self, sweep: Sweep) -> dict[str, Any]:
        """Write summary.json, best.json and the report; the same goes to MLflow.

        Raises:
            UserError: every trial failed.
        """
        checked = self.checked
        summary = {**_about(sweep), "mlflow_run": self.run.run_id, **_summary(sweep)}
        text = json.dumps(summary, indent=1)
        storage.write_bytes(storage.join(checked.out, "summary.json"), text.encode())
        write_settings(checked.out, summary, sweep.trials, checked.space, checked.objectives)
        with tempfile.TemporaryDirectory(prefix="cfr-icl-") as folder:
            for path in write_sweep_report(folder, summary):
                inside = Path(path).relative_to(folder)
                storage.write_bytes(storage.join(checked.out, *inside.parts), Path(path).read_bytes())
                self.run.file(path, folder=str(inside.parent) if inside.parent.parts else "")
        self.run.text(text, "summary.json")
        if summary["best"] is None:
            raise UserError(f"All {len(sweep.trials)} trials failed; the first with: {sweep.trials[0].error}")
        self.run.text(json.dumps(summary["best"], indent=1), BEST)
        self.run.metrics({f"best/{name}": value for name, value in summary["best"]["objectives"].items()})
        self.run.metrics({f"passes_{name}": float(count) for name, count in summary["passes"].items()})
        return summary


def _summary(sweep: Sweep) -> dict[str, Any]:
    checked = sweep.checked
    rules = checked.evaluation.request.rules
    quality, _ = split(checked.objectives)

    def difference(a: Trial, b: Trial) -> tuple[float, float, float]:
        assert quality is not None
        both = [cfr_parts.by_object(cfr_parts.rows_of(sweep.objects, t.id), quality.name, rules) for t in (a, b)]
        return paired_difference(*both)

    return {
        **summary_of(sweep.trials, checked.space, checked.objectives, difference, checked.out),
        "passes": cfr_parts.passes(sweep.objects),
        "rejected": sweep.rejected.num_rows,
    }


def _about(sweep: Sweep) -> dict[str, Any]:
    checked = sweep.checked
    info, environment = checked.evaluation.checkpoint, describe_environment()
    return {
        "schema_version": 1,
        "checkpoint": {
            "uri": info.uri,
            "format": info.format,
            "sha256": info.sha256,
            "step": info.step,
            "recipe": info.config.recipe if info.config else None,
            "mlflow_run": info.mlflow_run,
            "model": to_dict(info.model),
        },
        "options": {name: value for name, value in identity(checked).items() if name not in ("checkpoint", "space")},
        "data": {data.name: {"objects": data.objects, "images": data.images} for data in sweep.datasets},
        "wanted": checked.request.trials,
        "exhausted": sweep.exhausted,
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "environment": environment,
        "command": environment["command"],
    }


@contextlib.contextmanager
def tracked(checked: CheckedSweep, tracking: config.Tracking) -> Iterator[SweepLog]:
    """A sweep's MLflow run; the same output folder continues the same run."""
    info, out = checked.evaluation.checkpoint, checked.out
    tags = {"checkpoint": info.uri, "checkpoint_sha256": info.sha256, "sweep": "cfr"}
    if info.mlflow_run:
        tags["training_run"] = info.mlflow_run
    resolved = resolve_tracking(tracking, fallback_root=out.rsplit("/", 1)[0])
    request = checked.request
    params = {f"space.{name}": text for name, text in checked.space.to_dict().items()}
    params |= {"search": request.search, "objectives": list(request.objectives), "trials": request.trials}
    params |= {"seed": request.seed, "generation": checked.generation}
    params["data"] = [source.name for source in checked.evaluation.sources]
    name = f"sweep {out.rsplit('/', 1)[-1]}"
    with open_run(resolved, kind="tune", name=name, params=params, tags=tags, out=out) as run:
        yield SweepLog(checked, resolved, run)


def print_front(summary: dict[str, Any]) -> None:
    """The settings worth using at each cost, or the best one."""
    trials, names = summary["trials"], summary["objectives"]
    print(f"\n{'trial':>5}  " + "".join(f"{name:>10}" for name in names) + "  setting")
    shown = [step["trial"] for step in summary["worth"] if step["worth"]] or [summary["best"]["trial"]]
    for number in shown:
        trial = trials[number]
        figures = "".join(f"{trial['metrics'][name]:>10.3f}" for name in names)
        print(f"{number:>5}  {figures}  {trial['name'] or describe_setting(trial['setting'], summary['base'])}")
    failed = sum(trial["state"] == "failed" for trial in trials)
    counts = summary["passes"]
    saved = 1 - counts["computed"] / max(1, counts["separate"])
    print(
        f"{len(trials)} trials, {failed} failed; {counts['computed']} forward passes computed where separate "
        f"evaluations take {counts['separate']} ({saved:.0%} saved). Best: trial {summary['best']['trial']}."
    )
