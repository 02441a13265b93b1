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
from pipeline.tracking.contents import DIGEST, SETTINGS, DataInput
from pipeline.tracking.run import Run, open_run
from pipeline.tracking.store_uri import resolve_tracking

LEVEL = 0.9  # IoU that an object should reach, in the words about it
WAIT = 3.0  # seconds that such a run may take to be made, and what is known of it to be sent


class EvaluationLog:
    """The tracking side of one evaluation: a run, and where it has several settings a child run for each."""

    def __init__(self, run: Run, checked: CheckedEvaluation) -> None:
        self.run, self.checked = run, checked

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
        self._track(evaluation.summary)

    def _track(self, summary: dict[str, Any]) -> None:
        """Say what was evaluated on, and give each of several settings a run, so that MLflow's pages compare them.

        While the evaluation's own run does not exist there is nothing to be a child of: the same command makes them.
        """
        self.run.data(_inputs(summary))
        if len(self.checked.settings) < 2 or self.run.run_id is None:
            return
        for setting in self.checked.settings:
            out = storage.join(self.checked.out, SETTINGS, setting.label)
            own = [entry for entry in summary["results"] if Setting.of(entry) == setting]
            write_json(storage.join(out, "summary.json"), {**summary, "results": own})
            child = open_run(
                self.checked.config.tracking,
                kind="evaluate",
                name=f"{setting.name} of {self.checked.out.rsplit('/', 1)[-1]}",
                params={**_params(self.checked), **_numbers(setting)},
                tags=_tags(self.checked),
                out=out,
                parent=self.run.run_id,
                wait=WAIT,
            )
            child.data(_inputs(summary))
            child.close(timeout=WAIT)


def with_comparison(evaluation: Evaluation, earlier: Earlier) -> Evaluation:
    """The evaluation whose summary, the file too, says how it differs from an earlier one."""
    compared = differences(evaluation.summary, evaluation.objects, earlier)
    summary = {**evaluation.summary, "compared": compared}
    write_json(storage.join(evaluation.out, "summary.json"), summary)
    return replace(evaluation, summary=summary)


@contextlib.contextmanager
def tracked(checked: CheckedEvaluation) -> Iterator[EvaluationLog]:
    """An evaluation's MLflow run; the same output folder continues the same run."""
    out = checked.out
    tracking = resolve_tracking(checked.config.tracking, fallback_root=out.rsplit("/", 1)[0])
    checked = replace(checked, config=replace(checked.config, tracking=tracking))
    one = _numbers(checked.settings[0]) if len(checked.settings) == 1 else {}
    with open_run(
        tracking,
        kind="evaluate",
        name=tracking.name or f"evaluate {out.rsplit('/', 1)[-1]}",
        params={**_params(checked), **one, "settings": ", ".join(setting.name for setting in checked.settings)},
        tags=_tags(checked),
        out=out,
        wait=0.0,  # nothing needs the run before the work is done
    ) as run:
        yield EvaluationLog(run, checked)


def _params(checked: CheckedEvaluation) -> dict[str, Any]:
    """What tells two evaluations apart, but for the settings."""
    info = checked.checkpoint
    made = {"recipe": info.config.recipe if info.config else None, "checkpoint.step": info.step}
    known = {name: value for name, value in made.items() if value is not None}
    shared = {n: v for n, v in options(checked.config).items() if n not in ("cfr.clicks", "cfr.adaptive")}
    return {"checkpoint": info.uri, **known, **shared, "data": ", ".join(source.name for source in checked.sources)}


def _numbers(setting: Setting) -> dict[str, Any]:
    return {"cfr.steps": setting.steps, "cfr.clicks": setting.clicks, "cfr.adaptive": setting.adaptive}


def _tags(checked: CheckedEvaluation) -> dict[str, str]:
    info = checked.checkpoint
    tags = {"checkpoint": info.uri, "checkpoint_sha256": info.sha256}
    if info.mlflow_run:
        tags["training_run"] = info.mlflow_run
    if info.config:
        tags["recipe"] = info.config.recipe
    return tags


def _inputs(summary: dict[str, Any]) -> list[DataInput]:
    """The data sets, as MLflow knows them."""
    content = summary["content"]
    return [
        DataInput(name, data["uri"], content[name][:DIGEST], "test", data["images"], data["objects"])
        for name, data in summary["data"].items()
    ]


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
