"""What the training job does with rank 0's news: progress, metrics file, pictures, MLflow."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal

import cv2
import numpy as np

from pipeline import config, storage
from pipeline.clicks.encode import decode
from pipeline.config import io as config_io
from pipeline.engine.progress import Progress, duration
from pipeline.errors import describe
from pipeline.model.checkpoints import read_state
from pipeline.report.environment import describe_environment
from pipeline.report.overlay import overlay, strip, training_picture
from pipeline.report.training_report import shown, write_training_report
from pipeline.storage.json_files import write_json
from pipeline.tracking.contents import MODEL, SUMMARY, checkpoint_tags, prepared_input
from pipeline.tracking.run import open_run
from pipeline.train.mailbox import Event
from pipeline.train.run_folder import PICTURES, MetricsFile
from pipeline.train.state import checkpoint_uri, complete_checkpoints, step_of


class TrainingLog:
    """Context of a run: one MLflow run however often the training is continued."""

    def __init__(
        self,
        run: config.TrainConfig,
        first_step: int,
        kind: Literal["train", "tune"] = "train",
        out: str = "",
        tags: Mapping[str, str] | None = None,
        parent: str | None = None,
    ) -> None:
        """Args, of a sweep's trial: the folder that its MLflow run belongs to, tags, and the sweep's MLflow run."""
        self.run = run
        self.about: dict[str, Any] = {"kind": kind, "out": out or run.out, "parent": parent}
        self.about["tags"] = {"recipe": run.recipe, **(tags or {})}
        self.metrics = MetricsFile(run.out, first_step)
        self.progress = Progress("training", run.total_steps, "steps", done=first_step)

    def __enter__(self) -> TrainingLog:
        run = self.run
        self.tracked = open_run(
            run.tracking,
            name=run.tracking.name or f"{run.recipe} {run.out.rsplit('/', 1)[-1]}",
            params=config_io.flatten(run),
            **self.about,
        )
        if run.tracking.enabled:
            given = (("train", run.data.train), ("val", run.data.val))
            self.tracked.data([prepared_input(uri, context) for context, uri in given if uri])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.close()
        try:
            self.metrics.save()
            if any("train/loss" in row for row in self.metrics.lines):
                self._report()
                if error is None and self.run.tracking.enabled and self.about["kind"] == "train":
                    try:
                        self._model()
                    except Exception as failed:  # the run is trained and saved, whatever becomes of its copy for MLflow
                        print(f"tracking: its model is not in MLflow ({describe(failed)})", flush=True)
        except Exception as failed:  # a full disk, say: MLflow is told before the job ends
            if error is None:
                error = failed
                raise
            print(f"training: {failed}", flush=True)  # what ended the run is the news, and this often its echo
        finally:
            self.tracked.close("FINISHED" if error is None else "FAILED" if isinstance(error, Exception) else "KILLED")

    @property
    def run_id(self) -> str | None:
        return self.tracked.run_id

    def last_scores(self) -> dict[str, float]:
        """The last validation's metrics."""
        rows = [row for row in self.metrics.lines if any(k.startswith("val/") for k in row)]
        return {k: v for k, v in rows[-1].items() if k.startswith("val/")} if rows else {}

    def _scores(self, step: int) -> dict[str, float]:
        """The validation's metrics at a step, without their prefix."""
        rows = [row for row in self.metrics.lines if row["step"] == step]
        return {k.removeprefix("val/"): v for row in rows for k, v in row.items() if k.startswith("val/")}

    def _report(self) -> None:
        """Write the report beside the checkpoints; of a sweep's trial the sweep's report tells."""
        out = self.run.out
        if self.about["kind"] != "train":
            return
        saved = complete_checkpoints(out)
        data = {"train": self.run.data.train, "validation": self.run.data.val}
        environment = describe_environment()
        best = read_state(saved[-1])["best"] if saved else None
        summary = {
            "recipe": self.run.recipe,
            "out": out,
            "step": step_of(saved[-1]) if saved else 0,
            "steps": self.run.total_steps,
            "data": {name: uri for name, uri in data.items() if uri},
            "options": config_io.flat_masked(self.run),
            "checkpoints": [step_of(uri) for uri in saved],
            "best": best,
            "result": {"step": best[1], **self._scores(best[1])} if best else None,
            "command": environment["command"],
            "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "environment": environment,
            "mlflow_run": self.run_id,
        }
        drawn = {
            uri.rsplit("/", 1)[1].removesuffix(".png"): uri
            for uri in storage.list_files(storage.join(out, PICTURES), ".png")
        }
        pictures = {name: storage.read_bytes(drawn[name]) for name in shown(drawn)}
        write_json(storage.join(out, SUMMARY), summary)
        write_training_report(out, summary, self.metrics.lines, pictures)

    def _model(self) -> None:
        """The best checkpoint by validation, else the last, as an MLflow model in the output folder."""
        from pipeline.predict.mlflow_model import write_mlflow_model  # mlflow.pyfunc takes a second

        saved = complete_checkpoints(self.run.out)
        best = read_state(saved[-1])["best"]
        step = best[1] if best else step_of(saved[-1])
        folder = storage.join(self.run.out, MODEL.rstrip("/"))
        storage.remove(folder)
        write_mlflow_model(checkpoint_uri(self.run.out, step), storage.join(folder, f"step_{step:08d}"))
        if name := self.run.tracking.register:
            scores = {f"val.{name}": f"{value:.4f}" for name, value in self._scores(step).items()}
            data = {f"data.{name}": uri for name, uri in (("train", self.run.data.train), ("val", self.run.data.val))}
            self.tracked.model(name, {"recipe": self.run.recipe, "step": str(step), **scores, **data})

    def on_event(self, event: Event) -> None:
        if event.kind == "metrics" and event.payload:
            told = self.metrics.add(event.step, event.payload)
            self.tracked.metrics(event.payload, event.step, told)
            main = {k: v for k, v in event.payload.items() if k in ("train/loss", "val/noc90", "val/iou5")}
            note = "  ".join(f"{k} {v:.4f}" for k, v in main.items())
            self.progress.update(event.step - self.progress.done, note)
        elif event.kind == "phase":
            print(f"training: {event.payload} ({duration(time.monotonic() - self.progress.start)})", flush=True)
        elif event.kind == "save":
            self.metrics.save()
        elif event.kind == "checkpoint":
            self.tracked.tags(checkpoint_tags(event.payload))
        elif event.kind == "pictures":
            for name, picture in _pictures(event.payload).items():
                data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()
                uri = storage.join(self.run.out, PICTURES, f"{name}_{event.step:08d}.png")
                storage.write_bytes(uri, data)
                self.tracked.file(uri.removeprefix(f"{self.about['out']}/"))


def _pictures(payload: dict[str, Any]) -> dict[str, np.ndarray]:
    """Contact sheets: samples with target and first clicks; predictions with the clicks they were made from."""
    predictions = [
        overlay(image, prob > 0.49, target, decode(points))
        for image, prob, target, points in zip(
            payload["images"], payload["probs"], payload["targets"], payload["last_points"], strict=True
        )
    ]
    return {
        "samples": training_picture(payload["images"], payload["targets"], payload["points"]),
        "predictions": strip(predictions, ["" for _ in predictions]),
    }
