"""The command line reproduces the recorded evaluation of the original code, from its checkpoint and its raw files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs import evaluate
from pipeline.clicks.encode import Click
from pipeline.evaluate.metrics import IOU_LEVELS, noc
from pipeline.evaluate.results import clicks_of

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_the_golden_checkpoint_gives_the_golden_clicks(golden: Path, tmp_path: Path, ray_session: None) -> None:
    args = ["--checkpoint", str(golden / "tiny.pth"), "--data", f"golden={golden / 'eval'}", "--cfr-steps", "0"]
    args += ["--actors", "2", "--out", str(tmp_path / "out"), "--tracking-uri", f"sqlite:///{tmp_path / 'mlflow.db'}"]
    evaluate.job(args)
    recorded = next(s for s in json.loads((golden / "eval.json").read_text())["settings"] if s["name"] == "cf0")
    table = pq.read_table(tmp_path / "out" / "objects.parquet").to_pylist()
    found = {row["image_id"]: row for row in table}
    assert len(found) == len(table)
    assert set(found) == {Path(expected["image"]).stem for expected in recorded["results"]}
    for expected in recorded["results"]:
        row = found[Path(expected["image"]).stem]
        assert (row["dataset"], row["object_id"], row["cfr_steps"]) == ("golden", 0, 0)
        stable = min(expected["stable_clicks"].values())
        assert clicks_of(row)[:stable] == [Click(*click) for click in expected["clicks"][:stable]], row["image_id"]
        np.testing.assert_allclose(row["iou"][:stable], expected["ious"][:stable], atol=1e-3, err_msg=row["image_id"])
        if stable == len(expected["clicks"]):
            assert len(row["clicks"]) == stable, row["image_id"]
            assert row["forward_passes"] == sum(expected["forwards"]), row["image_id"]
            for level in IOU_LEVELS:
                assert noc(row["iou"], level, 20) == expected["noc"][str(level)], (row["image_id"], level)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    noise = np.array(list(recorded["noc_perturbed"].values()))
    for i, level in enumerate(map(str, IOU_LEVELS)):
        own = [recorded["noc"][level], *noise[:, i]]
        assert min(own) - 1e-9 <= summary["results"][0]["noc"][level] <= max(own) + 1e-9, level
