"""Small made things that several tests start from: prepared data without Ray, a small model, a stand-in network."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import torch
from safetensors.torch import save

from pipeline.config import Cfr, Data, Model, TrainConfig
from pipeline.config import io as config_io
from pipeline.data.manifest import MANIFEST, Manifest, ShardInfo
from pipeline.data.schema import SCHEMA_VERSION, ObjectInfo, Row, encode_map, table
from pipeline.evaluate.shared import Target
from pipeline.model.checkpoints import FORMAT, MODEL, STATE
from pipeline.model.segmenter import ClickSegmenter
from pipeline.model.tensor_files import file_name
from pipeline.train.state import TrainState, prune, publish, take_snapshot, write_parts

SIDE = 64


def rows_of_blobs(count: int, seed: int = 0, size: tuple[int, int] = (72, 88), objects: int = 2) -> list[Row]:
    """Pictures of noise with ellipses, `objects` of them side by side in each."""
    rows = []
    for index in range(count):
        rng = np.random.default_rng((seed, index))
        labels = np.zeros(size, np.uint8)
        image = rng.integers(0, 120, (*size, 3), dtype=np.uint8)
        width = size[1] // objects
        for label in range(1, objects + 1):
            center = (int(width * (label - 0.5)), int(rng.integers(25, size[0] - 25)))
            axes = (int(rng.integers(8, width // 2)), int(rng.integers(8, 22)))
            cv2.ellipse(labels, center, axes, float(rng.integers(0, 180)), 0, 360, label, -1)
            image[labels == label] += rng.integers(40, 120, 3, dtype=np.uint8)
        infos = [ObjectInfo(0, k, -1, int((labels == k).sum())) for k in range(1, objects + 1)]
        data = cv2.imencode(".png", image)[1].tobytes()
        rows.append(Row(f"blob-{index:03d}", data, *size, [encode_map(labels)], infos, source="made"))
    return rows


def write_dataset(folder: Path, rows: Sequence[Row], rows_per_group: int = 4) -> str:
    """Rows as a prepared data set of one shard; returns its URI."""
    groups = [list(rows[i : i + rows_per_group]) for i in range(0, len(rows), rows_per_group)]
    buffer = io.BytesIO()
    pq.write_table(table(list(rows)), buffer, row_group_size=rows_per_group, write_page_checksum=True)
    data = buffer.getvalue()
    folder.mkdir(parents=True)
    (folder / "shard-00000.parquet").write_bytes(data)
    weights = [float(sum(row.weight for row in group)) for group in groups]
    shard = ShardInfo(
        "shard-00000.parquet", [len(g) for g in groups], weights, len(data), hashlib.sha256(data).hexdigest()
    )
    objects = sum(len(row.objects) for row in rows)
    manifest = Manifest(SCHEMA_VERSION, folder.name, "made", "", len(rows), objects, [shard])
    (folder / MANIFEST).write_bytes(manifest.to_json())
    return str(folder)


def small_config() -> TrainConfig:
    """A model of some thousand weights at 64 pixels."""
    model = Model(patch=16, dim=32, depth=4, heads=2, neck_dims=(8, 8, 16, 16), head_dim=16, train_size=SIDE)
    return TrainConfig(model=model, data=Data(crop=SIDE), cfr=Cfr(crop=SIDE))


def small_model(seed: int = 0) -> ClickSegmenter:
    """Random weights, large enough that the answer depends on image and clicks; evaluation mode."""
    torch.manual_seed(seed)
    model = ClickSegmenter(small_config().model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(1.5)
    return model.eval()


def write_checkpoint(folder: Path, seed: int = 0, mlflow_run: str | None = None) -> str:
    """A checkpoint of `small_model` that can be evaluated (it has no optimizer state); returns its URI."""
    folder.mkdir(parents=True)
    (folder / file_name(MODEL)).write_bytes(
        save({k: v.contiguous() for k, v in small_model(seed).state_dict().items()})
    )
    state = {"format": FORMAT, "step": 7, "mlflow_run": mlflow_run, "config": config_io.to_dict(small_config())}
    (folder / STATE).write_text(json.dumps(state))
    return str(folder)


def save_checkpoint(s: TrainState, run: TrainConfig, keep: int) -> str:
    """Write a checkpoint at once, as one worker does; returns its URI."""
    snapshot = take_snapshot(s, run, writers=1, writes=True)
    publish(snapshot, write_parts(snapshot, 0))
    prune(run.out, keep)
    return snapshot.uri


class Scripted:
    """A network that answers with discs around positive clicks minus those around negative ones, growing with the map.

    Its answer for one element depends on nothing else in the batch. `calls` holds the batch sizes.
    """

    def __init__(self, radius: float = 12.0) -> None:
        self.radius, self.calls, self.points = radius, [], []

    def __call__(self, image: torch.Tensor, prev_mask: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        self.calls.append(len(image))
        self.points.append(points)
        side, n = image.shape[-1], points.shape[1] // 2
        rows, cols = torch.arange(side)[:, None], torch.arange(side)[None]
        logits = torch.full((len(image), 1, side, side), -4.0) + image.mean(1, keepdim=True) + 2 * prev_mask
        for element, clicks in zip(logits, points, strict=True):
            for i, (row, col, _) in enumerate(clicks.tolist()):
                if row >= 0 or col >= 0:
                    inside = (rows - row) ** 2 + (cols - col) ** 2 <= self.radius**2
                    element[0][inside] = 4.0 if i < n else -6.0
        return logits


def scene(seed: int, size: tuple[int, int] = (SIDE, SIDE)) -> Target:
    rng = np.random.default_rng(seed)
    truth = np.zeros(size, np.int8)
    r, c = rng.integers(4, 20, 2)
    truth[r : r + int(rng.integers(18, 36)), c : c + int(rng.integers(18, 36))] = 1
    truth[0] = -1
    return Target(seed, rng.integers(0, 256, (*size, 3), dtype=np.uint8), truth)
