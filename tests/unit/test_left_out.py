"""What was not evaluated is said: what, how many of how many, why, and which option takes it in."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from pipeline.data.manifest import load_manifest
from pipeline.evaluate.left_out import Held, held_by, sentences
from pipeline.evaluate.plan import open_dataset
from tests.made import rows_of_blobs, write_dataset


def test_nothing_left_out(tmp_path: Path) -> None:
    data = open_dataset("blobs", write_dataset(tmp_path / "d", rows_of_blobs(5)), 64)
    assert sentences("blobs", data.uri, data.held, data.objects, 0, {}) == []


def test_a_limit(tmp_path: Path) -> None:
    uri = write_dataset(tmp_path / "d", rows_of_blobs(5))
    data = open_dataset("blobs", uri, 64, limit=3)
    assert sentences("blobs", uri, data.held, data.objects, 3, {}) == [
        "blobs: 3 of 10 objects were evaluated: --limit 3 takes the first; --limit 0 takes all."
    ]
    data = open_dataset("blobs", uri, 64, limit=10)
    assert (data.objects, sentences("blobs", uri, data.held, data.objects, 10, {})) == (10, [])
    data = open_dataset("blobs", uri, 64, limit=50)
    assert sentences("blobs", uri, data.held, data.objects, 50, {}) == []


def test_stuff(tmp_path: Path) -> None:
    rows = rows_of_blobs(2)
    stuff = [dataclasses.replace(rows[0].objects[0], kind="stuff"), rows[0].objects[1]]
    uri = write_dataset(tmp_path / "d", [dataclasses.replace(rows[0], objects=stuff), rows[1]])
    data = open_dataset("d", uri, 64)
    (line,) = sentences("d", uri, data.held, data.objects, 0, {})
    assert line.startswith("d: 1 of 4 regions are stuff")


def test_images_and_objects_set_aside(tmp_path: Path) -> None:
    manifest = load_manifest(write_dataset(tmp_path / "d", rows_of_blobs(5)))
    manifest = dataclasses.replace(manifest, rejected={"mask is missing": 2}, left_out={"image without objects": 3})
    held = held_by(manifest, 10, 0)
    prepared, empty = sentences("d", "/d", held, 10, 0, {})
    assert prepared.startswith("d: 2 were set aside when its 8 images were prepared: 2 x mask is missing.")
    assert "/d/rejected.parquet" in prepared
    assert empty == "d: 3 of 8 images have nothing to evaluate: 3 x image without objects."
    first, *_ = sentences("d", "/d", held, 10, 0, {"a": 1, "b": 4})
    assert first.startswith("d: 5 set aside beside 10 objects: 4 x b, 1 x a. ")
    assert sentences("d", "/d", Held(), 0, 0, {}) == []
