"""A made evaluation for tests of the report: two data sets, three settings, hostile names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.clicks.encode import Click
from pipeline.evaluate.metrics import summarize
from pipeline.evaluate.results import OBJECTS
from pipeline.evaluate.setting import Setting
from pipeline.report.overlay import object_strip
from pipeline.report.report import ObjectPicture, pick_objects

HOSTILE = "<script>document.title='owned'</script> | [x](y) `z` & \"q\""
SETTINGS = ((0, 1, False), (1, 1, False), (4, 1, False))
SIZES = {"grabcut": 14, "my objects": 9}


def objects_table(rng: np.random.Generator) -> pa.Table:
    """A table in the schema of objects.parquet with curves that rise towards 1."""
    rows = []
    for dataset, size in SIZES.items():
        for steps, refined, adaptive in SETTINGS:
            for number in range(size):
                rate = rng.uniform(0.1, 0.9) + 0.05 * steps
                curve = 1 - (0.6 * np.exp(-rate * np.arange(20)) + rng.uniform(0, 0.08))
                stop = int(np.argmax(curve >= 0.95)) + 1 if (curve >= 0.95).any() else 20
                clicks = [{"row": int(r), "col": int(c), "positive": bool(p)} for r, c, p in _places(rng, stop)]
                rows.append(
                    {
                        "dataset": dataset,
                        "image_id": HOSTILE if number == 0 else f"image_{number:03d}",
                        "object_id": number % 3,
                        "cfr_steps": steps,
                        "cfr_clicks": refined,
                        "adaptive": adaptive,
                        "clicks": clicks,
                        "iou": curve[:stop].astype(np.float32),
                        "forward_passes": stop + steps,
                        "seconds": float(stop * (0.2 + 0.1 * steps)),
                    }
                )
    return pa.Table.from_pylist(rows, schema=OBJECTS)


def _places(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 3): row, col, positive."""
    return np.stack([rng.integers(0, 240, count), rng.integers(0, 320, count), rng.integers(0, 2, count)], axis=1)


def summary_of(objects: pa.Table) -> dict[str, Any]:
    """The summary.json of such a table."""
    results = []
    table = objects.to_pylist()
    for dataset in SIZES:
        for setting in SETTINGS:
            rows = [r for r in table if (r["dataset"], r["cfr_steps"]) == (dataset, setting[0])]
            seconds, clicks = sum(r["seconds"] for r in rows), sum(len(r["iou"]) for r in rows)
            results.append(
                {
                    **dict(zip(("cfr_steps", "cfr_clicks", "adaptive"), setting, strict=True)),
                    "dataset": dataset,
                    "crop": 448,
                    **summarize([r["iou"] for r in rows], 20, 0.95),
                    "seconds_per_click": seconds / clicks,
                    "objects_per_second": len(rows) / seconds,
                }
            )
    return {
        "schema_version": 1,
        "checkpoint": {
            "uri": "/models/tiny_run",
            "format": "cfr-icl",
            "sha256": "ab" * 32,
            "step": 600,
            "recipe": "tiny",
            "mlflow_run": "0" * 32,
            "model": {"patch": 16, "dim": 128, "depth": 4},
        },
        "date": "2026-01-31T12:00:00Z",
        "command": f"python -m jobs.evaluate --checkpoint /models/tiny_run --data 'grabcut={HOSTILE}' --out /results",
        "mlflow_run": "1" * 32,
        "environment": {"git_commit": "c" * 40, "git_dirty": True, "python": "3.11.2", "cpus": 2, "gpus": []},
        "options": {"cfr.threshold": 0.49, "cfr.flip": True, "eval.max_clicks": 20, "eval.target_iou": 0.95},
        "results": results,
        "rejected": {"my objects": {"image does not decode": 2, HOSTILE: 1}},
        "data": {"grabcut": {"uri": "/data/grabcut", "source": "grabcut"}},
    }


def pictures_of(objects: pa.Table, rng: np.random.Generator) -> list[ObjectPicture]:
    """Strips for the objects that the report would show; noise for photographs."""
    found = []
    for kind, rows in zip(("worst", "typical"), pick_objects(objects), strict=True):
        for row in rows:
            image = rng.integers(0, 255, (240, 320, 3), dtype=np.uint8)
            truth = np.zeros((240, 320), np.int8)
            truth[60:180, 80:240] = 1
            masks = {k: np.roll(truth == 1, 60 // k, axis=1) for k in (1, 3, 5, 10, 20) if k <= len(row["iou"])}
            clicks = [Click(c["row"], c["col"], c["positive"]) for c in row["clicks"]]
            found.append(
                ObjectPicture(
                    row["dataset"],
                    row["image_id"],
                    row["object_id"],
                    Setting.of(row).name,
                    row["iou"][-1],
                    object_strip(image, truth, clicks, masks, row["iou"]),
                    kind,
                )
            )
    return found
