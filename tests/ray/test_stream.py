"""The stream on Ray: the same samples for every number of ranks, tasks and restarts; bad images; damaged shards."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.config import Clicks, Data, Train, TrainConfig
from pipeline.data.manifest import Manifest, ShardInfo, load_manifest
from pipeline.data.masks import build_row, region
from pipeline.data.schema import SCHEMA_VERSION, Row, table
from pipeline.errors import UserError
from pipeline.stream import stream
from pipeline.stream.order import Position, advance
from pipeline.stream.samples import Batch

pytestmark = pytest.mark.ray

GROUPS = [[5, 4], [5, 4]]
CHUNK, SIDE = 6, 40
START = Position()


def make_row(number: int) -> Row:
    image = np.random.default_rng(number).integers(0, 256, (44, 50, 3), dtype=np.uint8)
    mask = np.zeros((44, 50), bool)
    mask[8:32, 6 : 20 + number] = True
    regions = [r for r in [region(mask)] if r is not None]
    return build_row(f"image{number:02d}", cv2.imencode(".png", image)[1].tobytes(), (44, 50), regions)


def write(folder: Path, spoil: set[int] = frozenset()) -> Manifest:  # type: ignore[assignment]
    """Two shards of two row groups; the images of `spoil` do not decode."""
    shards, number = [], 0
    for index, groups in enumerate(GROUPS):
        path = folder / f"shard-{index:05d}.parquet"
        rows = [make_row(number + i) for i in range(sum(groups))]
        rows = [replace(r, image=b"spoilt") if int(r.image_id[5:]) in spoil else r for r in rows]
        with pq.ParquetWriter(path, table(rows).schema, write_page_checksum=True) as writer:
            for start, count in zip((0, groups[0]), groups, strict=True):
                writer.write_table(table(rows[start : start + count]))
        data = path.read_bytes()
        weights = [float(n) for n in groups]
        shards.append(ShardInfo(path.name, groups, weights, len(data), hashlib.sha256(data).hexdigest()))
        number += len(rows)
    manifest = Manifest(SCHEMA_VERSION, "made", "made", "train", number, number, shards)
    (folder / "manifest.json").write_bytes(manifest.to_json())
    return load_manifest(str(folder))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> TrainConfig:
    folder = tmp_path_factory.mktemp("shards")
    write(folder)
    return TrainConfig(
        seed=1,
        data=Data(train=str(folder), crop=SIDE, chunk=CHUNK, min_object_area=20, workers=2),
        clicks=Clicks(max_points=4),
        train=Train(batch=4, accumulate=2),
    )


def collect(config: TrainConfig, steps: int, position: Position = START, rank: int = 0, world: int = 1) -> list[Batch]:
    manifest = load_manifest(config.data.train)
    return list(stream.batches(config, manifest, position, rank, world, steps))


def joined(batches: list[Batch]) -> Batch:
    return {k: np.concatenate([b[k] for b in batches]) for k in batches[0]}


def by_place(batches: list[Batch]) -> dict[tuple[int, int], bytes]:
    """Digest of every sample by (chunk, row); fails on a doubled one."""
    whole = joined(batches)
    found = {}
    for i in range(len(whole["row"])):
        place = int(whole["chunk"][i]), int(whole["row"][i])
        assert place not in found
        parts = [whole[k][i] for k in ("image", "target", "points")]
        name = json.dumps([str(whole["image_id"][i]), str(whole["bad"][i])]).encode()
        found[place] = b"".join([hashlib.sha256(p.tobytes()).digest() for p in parts]) + name
    return found


def test_batches_have_the_micro_size_and_follow_the_plan(config: TrainConfig) -> None:
    batches = collect(config, 6)
    assert [b["image"].shape for b in batches] == [(2, SIDE, SIDE, 3)] * 12
    whole = joined(batches)
    assert whole["image"].dtype == np.uint8 and whole["target"].dtype == np.int8
    assert whole["points"].shape == (24, 8, 3) and whole["points"].dtype == np.float32
    assert whole["chunk"].tolist() == [i // CHUNK for i in range(24)]
    assert whole["row"].tolist() == [i % CHUNK for i in range(24)]


def test_ranks_workers_and_segments_do_not_change_samples(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = by_place(collect(config, 6))
    for workers in (1, 3):
        assert by_place(collect(replace(config, data=replace(config.data, workers=workers)), 6)) == whole
    two = replace(config, train=Train(batch=8, accumulate=2, workers=2))
    parts = [by_place(collect(two, 3, Position(0, 0, 2), rank, 2)) for rank in (0, 1)]
    assert not parts[0].keys() & parts[1].keys() and {**parts[0], **parts[1]} == whole
    monkeypatch.setattr(stream, "SEGMENT", 2)
    assert by_place(collect(config, 6)) == whole


def test_continuing_from_the_middle_gives_the_rest(config: TrainConfig) -> None:
    whole = collect(config, 6)
    middle = advance(START, 1, 2 * config.train.batch, CHUNK)
    assert middle == Position(1, 2, 1)
    rest = collect(config, 4, middle)
    assert len(rest) == 8
    for a, b in zip(rest, whole[4:], strict=True):
        assert all(np.array_equal(a[k], b[k]) for k in a)


def test_change_of_world_in_the_middle_doubles_nothing(config: TrainConfig) -> None:
    first = by_place(collect(config, 1))
    position = advance(START, 1, config.train.batch, CHUNK)
    two = replace(config, train=Train(batch=4, accumulate=1, workers=2))
    second = [by_place(collect(two, 2, position, rank, 2)) for rank in (0, 1)]
    places = [*first, *second[0], *second[1]]
    assert len(set(places)) == len(places) == 12
    whole = by_place(collect(config, 6))
    assert all(whole[place] == digest for part in (first, *second) for place, digest in part.items())


def test_bad_images_are_replaced_until_they_are_too_many(config: TrainConfig, tmp_path: Path) -> None:
    write(tmp_path, spoil={2})
    spoilt = replace(config, data=replace(config.data, train=str(tmp_path), max_bad_fraction=0.1))
    whole = joined(collect(spoilt, 6))
    assert "image02" in whole["bad"] and "image02" not in whole["image_id"]
    strict = replace(spoilt, data=replace(spoilt.data, max_bad_fraction=0.01))
    with pytest.raises(UserError, match="image02"):
        collect(strict, 6)


def test_damaged_shard_is_named(config: TrainConfig, tmp_path: Path) -> None:
    manifest = write(tmp_path)
    path = tmp_path / manifest.shards[1].path
    data = bytearray(path.read_bytes())
    for at in range(200, len(data) - 3000, 50):
        data[at] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match=manifest.shards[1].path):
        collect(replace(config, data=replace(config.data, train=str(tmp_path))), 6)


def test_training_workers_must_leave_a_cpu(config: TrainConfig) -> None:
    greedy = replace(config, train=Train(batch=4, workers=2, cpus_per_worker=3))
    with pytest.raises(UserError, match="CPU"):
        collect(greedy, 1, world=2)
