"""What the evaluation job shows of its results: report, MLflow run, table on the terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from pipeline import storage
from pipeline.errors import describe
from pipeline.evaluate.job import Evaluation
from pipeline.evaluate.request import CheckedEvaluation, options
from pipeline.evaluate.setting import Setting
from pipeline.evaluate.views import view
from pipeline.report.compare import Earlier, differences
from pipeline.report.environment import describe_environment
from pipeline.report.naming import model_name
from pipeline.report.overlay import object_strip
from pipeline.report.reasons import reasons
from pipeline.report.report import ObjectPicture, pick_objects, write_report
from pipeline.storage.json_files import write_json
from pipeline.tracking.run import Run, open_run
from pipeline.tracking.store_uri import resolve_tracking

LEVEL = 0.9  # IoU that an object should reach, in the words about it


class EvaluationLog:
    """The tracking side of one evaluation.

    Attributes:
        tracking_uri: where its run is, "" when it is not tracked.
    """

    def __init__(self, run: Run, tracking_uri: str) -> None:
        self.run, self.tracking_uri = run, tracking_uri

    def about(self) -> dict[str, Any]:
        """What the summary says besides the results."""
        environment = describe_environment()
        return {"environment": environment, "command": environment["command"], "mlflow_run": self.run.run_id}

    def report(self, evaluation: Evaluation) -> None:
        """Write the report beside the results."""
        pictures = []
        for kind, rows in zip(("worst", "typical"), pick_objects(evaluation.objects), strict=True):
            for row in rows:
                try:
                    pictures.append(_picture(row, kind, evaluation))
                except Exception as error:  # a picture that cannot be drawn costs no result
                    what = f"{row['dataset']}, image {row['image_id']}, object {row['object_id']}"
                    reason = describe(error)
                    print(f"report: the picture of {what} could not be drawn ({reason})", flush=True)
        write_report(evaluation.out, evaluation.summary, evaluation.objects, pictures)


def with_comparison(evaluation: Evaluation, earlier: Earlier) -> Evaluation:
    """The evaluation whose summary, the file too, says how it differs from an earlier one."""
    compared = differences(evaluation.summary, evaluation.objects, earlier)
    summary = {**evaluation.summary, "compared": compared}
    write_json(storage.join(evaluation.out, "summary.json"), summary)
    return replace(evaluation, summary=summary)


@contextlib.contextmanager
def tracked(checked: CheckedEvaluation) -> Iterator[EvaluationLog]:
    """An evaluation's MLflow run; the same output folder continues the same run."""
    info, out = checked.checkpoint, checked.out
    tags = {"checkpoint": info.uri, "checkpoint_sha256": info.sha256}
    if info.mlflow_run:
        tags["training_run"] = info.mlflow_run
    if info.config:
        tags["recipe"] = info.config.recipe
    steps, data = list(checked.config.cfr_steps), [source.name for source in checked.sources]
    tracking = resolve_tracking(checked.config.tracking, fallback_root=out.rsplit("/", 1)[0])
    with open_run(
        tracking,
        kind="evaluate",
        name=checked.config.tracking.name or f"evaluate {out.rsplit('/', 1)[-1]}",
        params={**options(checked.config), "cfr.steps": steps, "data": data},
        tags=tags,
        out=out,
        wait=0.0,  # nothing needs the run before the work is done
    ) as run:
        yield EvaluationLog(run, tracking.uri if tracking.enabled else "")


def _picture(row: dict[str, Any], kind: Any, evaluation: Evaluation) -> ObjectPicture:
    seen = view(row, evaluation.units, evaluation.parts)
    target = evaluation.summary["options"].get("eval.target_iou", 0.95)
    return ObjectPicture(
        dataset=row["dataset"],
        image_id=row["image_id"],
        object_id=row["object_id"],
        setting=Setting.of(row).name,
        iou=row["iou"][-1],
        strip=object_strip(seen.image, seen.truth, seen.clicks, seen.masks, seen.ious),
        kind=kind,
        why=reasons(seen.ious, seen.truth, min(LEVEL, target)),
    )


def print_table(summary: dict[str, Any]) -> None:
    """The main figures, one line per data set and setting."""
    print(f"\n{model_name(summary['checkpoint'])}")
    print(f"{'data set':<16}{'setting':<12}{'objects':>8}{'NoC@80':>8}{'NoC@85':>8}{'NoC@90':>8}{'NoC@95':>8}", end="")
    print(f"{'IoU@1':>8}{'IoU@5':>8}{'s/click':>9}")
    for entry in summary["results"]:
        label = Setting.of(entry).name
        print(f"{entry['dataset']:<16}{label:<12}{entry['objects']:>8}", end="")
        if entry["objects"]:
            cells = [entry["noc"].get(level) for level in ("80", "85", "90", "95")]
            print("".join(f"{'-' if value is None else f'{value:.2f}':>8}" for value in cells), end="")
            cells = [entry["iou_at"].get(clicks) for clicks in ("1", "5")]
            print("".join(f"{'-' if value is None else f'{value:.3f}':>8}" for value in cells), end="")
            print(f"{entry['seconds_per_click']:>9.3f}", end="")
        print()
