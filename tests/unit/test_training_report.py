"""The report of a training run: what it says of runs of every state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.report.training_report import VALIDATIONS, shown, write_training_report

HOSTILE = "<script>document.title='owned'</script>"


def summary(**more: Any) -> dict[str, Any]:
    base = {"recipe": "tiny", "out": "runs/first", "step": 400, "steps": 400, "data": {"train": HOSTILE}}
    base |= {"options": {"optim.lr": 1e-3}, "checkpoints": [0, 300, 400], "best": (12.5, 300), "command": "python -m x"}
    return {**base, **more}


def png(width: int) -> bytes:
    return cv2.imencode(".png", np.zeros((10, width, 3), np.uint8))[1].tobytes()


def rows(validations: int) -> list[dict[str, float]]:
    found: list[dict[str, float]] = [{"step": s, "train/loss": 1 / s} for s in range(10, 410, 10)]
    steps = [400 * (i + 1) // validations for i in range(validations)]
    return found + [{"step": step, "val/noc90": 20 - i, "val/iou5": 0.5} for i, step in enumerate(steps)]


def test_a_finished_run(tmp_path: Path) -> None:
    pictures = {f"{kind}_{step:08d}": png(step) for kind in ("samples", "predictions") for step in (1, 200, 400)}
    files = write_training_report(tmp_path, summary(), rows(4), pictures)
    text, page = files["report.md"].decode(), files["report.html"].decode()
    assert (tmp_path / "report.html").read_bytes() == files["report.html"]
    assert "All 400 steps are done. Checkpoints in runs/first: steps 0, 300, 400" in text
    assert "300 (best)" in page and "4 of 4 validations" in page and "17.00" in page
    assert HOSTILE not in page and "Step 400. Predictions" in page and "Step 200" not in page
    names = ("learning_curves", "samples_00000001", "samples_00000400", "predictions_00000400")
    assert {f"report-figures/{name}.png" for name in names} <= set(files)
    assert "width:400px" in page


def test_a_stopped_run(tmp_path: Path) -> None:
    text = write_training_report(tmp_path, summary(step=30, best=None), rows(1)[:3], {})["report.md"].decode()
    assert "30 of 400 steps are done; the same command continues the run" in text
    assert "Validation" not in text and "Samples" not in text and "learning_curves.png" in text


def test_a_run_without_a_step(tmp_path: Path) -> None:
    text = write_training_report(tmp_path, summary(step=0, best=None, checkpoints=[]), [], {})["report.md"].decode()
    assert "Nothing was logged yet" in text and "steps none" in text


@pytest.mark.parametrize("validations", [VALIDATIONS, VALIDATIONS + 1, 200])
def test_many_validations_are_thinned_but_for_best_and_last(tmp_path: Path, validations: int) -> None:
    found = rows(validations)
    best = int(found[-2]["step"])
    page = write_training_report(tmp_path, summary(best=(1.0, best)), found, {})["report.html"].decode()
    assert f"{best} (best)" in page and ">400<" in page
    assert f" of {validations} validations" in page and page.count("<tr>") <= VALIDATIONS + 2


def test_damage_costs_a_part_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = write_training_report(tmp_path, summary(), rows(2), {"samples_00000001": b"no png"})["report.html"].decode()
    assert "This part could not be drawn" in page and "Learning curves" in page
    assert "Pictures could not be drawn" in capsys.readouterr().out


def test_first_and_last_of_each_kind() -> None:
    names = ["samples_00000001", "samples_00000002", "samples_00000003", "predictions_00000001", "other_1"]
    assert shown(names) == ["samples_00000001", "samples_00000003", "predictions_00000001"]
