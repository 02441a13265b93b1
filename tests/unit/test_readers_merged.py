"""The shared merged COCO+LVIS pickles, in made files of the published layout."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.data.images import decode_sample
from pipeline.data.readers import Skipped, open_reader
from pipeline.data.readers.merged import MergedReader
from pipeline.data.readers.synthetic import write_synthetic
from pipeline.data.schema import Row, decode_map
from pipeline.errors import BadRow, UserError


def problems(reader: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for item in reader.items():
        aside: list[BadRow] = []
        try:
            reader.read(item, aside)
        except BadRow as bad:
            aside.append(bad)
        if aside:
            found[reader.name_of(item)] = [bad.reason for bad in aside]
    return found


def published(row: Row, folder: Path, protocol: int) -> dict[str, Any]:
    """Write a row as the published converter does; returns its entry in hannotation.pickle."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "masks").mkdir(exist_ok=True)
    (folder / "images" / f"{row.image_id}.jpg").write_bytes(row.image)
    layers = [cv2.imencode(".png", decode_map(layer))[1] for layer in row.layers]
    content = (layers, [(o.layer, np.int64(o.label)) for o in row.objects])
    (folder / "masks" / f"{row.image_id}.pickle").write_bytes(pickle.dumps(content, protocol))
    things = [o for o in row.objects if o.kind == "thing"]
    hierarchy: dict[Any, Any] = {}
    for index, info in enumerate(things):
        children = [np.int64(i) for i, o in enumerate(things) if o.parent == index]
        parent = None if info.parent < 0 else np.int64(info.parent)
        node = {"children": children, "parent": parent, "node_level": 0}
        hierarchy[np.int64(index)] = node if children or parent is not None else None
    return {"num_instance_masks": len(things), "hierarchy": hierarchy}


@pytest.fixture
def merged(tmp_path: Path) -> tuple[Path, list[Row]]:
    """Drawn images in the published layout, and their rows as coco-lvis gives them."""
    write_synthetic(str(tmp_path / "raw"), train=1, val=3, seed=4, size=(96, 128), evaluation=1)
    reader = open_reader("coco-lvis", str(tmp_path / "raw"), "val")
    rows = sorted((reader.read(item) for item in reader.items()), key=lambda row: row.image_id)
    folder = tmp_path / "merged" / "val"
    entries = {row.image_id: published(row, folder, 3 + n % 3) for n, row in enumerate(rows)}
    (folder / "hannotation.pickle").write_bytes(pickle.dumps(entries, 4))
    return tmp_path / "merged", rows


def test_merged_gives_what_was_merged(merged: tuple[Path, list[Row]]) -> None:
    root, rows = merged
    reader = open_reader("merged", str(root), "val")
    found = [reader.read(item) for item in reader.items()]
    assert found == [Row(**{**row.__dict__, "source": "merged"}) for row in rows]
    assert any(o.parent >= 0 for row in found for o in row.objects)
    assert any(o.kind == "stuff" for row in found for o in row.objects)


def test_merged_malicious(merged: tuple[Path, list[Row]], tmp_path: Path) -> None:
    root, rows = merged
    proof = tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {proof}",)

    masks = root / "val" / "masks" / f"{rows[0].image_id}.pickle"
    masks.write_bytes(pickle.dumps(([Payload()], [])))
    assert problems(open_reader("merged", str(root), "val")) == {rows[0].image_id: ["mask does not decode"]}
    (root / "val" / "hannotation.pickle").write_bytes(pickle.dumps({"a": Payload()}))
    with pytest.raises(UserError, match=r"asks for posix\.system. Nothing in it was run"):
        open_reader("merged", str(root), "val").items()
    assert not proof.exists()


def test_merged_bad_rows(merged: tuple[Path, list[Row]]) -> None:
    root, rows = merged
    row = rows[0]
    masks = root / "val" / "masks" / f"{row.image_id}.pickle"
    layers, places = pickle.loads(masks.read_bytes())
    small = cv2.imencode(".png", np.zeros((5, 5), np.uint8))[1]
    colours = cv2.imencode(".png", np.zeros((96, 128, 3), np.uint8))[1]
    for content, reason in (
        ((layers, places[:1]), "annotation is malformed"),
        ((layers, [(9, 1)] * len(places)), "annotation is malformed"),
        ((layers, [(0, 0)] * len(places)), "annotation is malformed"),
        ((layers, [(0, "a")] * len(places)), "annotation is malformed"),
        (layers, "annotation is malformed"),
        (([np.zeros(3)], places), "annotation is malformed"),
        (([layers[0][:99]] * len(layers), places), "mask does not decode"),
        (([colours] * len(layers), places), "mask does not decode"),
        (([small] * len(layers), places), "mask has another size"),
    ):
        masks.write_bytes(pickle.dumps(content))
        assert problems(open_reader("merged", str(root), "val")) == {row.image_id: [reason]}
    masks.write_bytes(masks.read_bytes()[:50])
    assert problems(open_reader("merged", str(root), "val")) == {row.image_id: ["mask does not decode"]}
    masks.unlink()
    assert problems(open_reader("merged", str(root), "val")) == {row.image_id: ["mask is missing"]}
    with pytest.raises(UserError, match="has no train/images/"):
        open_reader("merged", str(root)).items()


def test_merged_objects_without_pixels(merged: tuple[Path, list[Row]]) -> None:
    """A parent that vanished leaves its children to its own parent; the others keep their places."""
    root, rows = merged
    row = max(rows, key=lambda row: sum(o.parent >= 0 for o in row.objects))
    parent = next(o.parent for o in row.objects if o.parent >= 0)
    masks = root / "val" / "masks" / f"{row.image_id}.pickle"
    layers, places = pickle.loads(masks.read_bytes())
    places[parent] = (places[parent][0], 255)
    masks.write_bytes(pickle.dumps((layers, places)))
    reader = open_reader("merged", str(root), "val")
    item = next(item for item in reader.items() if reader.name_of(item) == row.image_id)
    aside: list[BadRow] = []
    got, before = decode_sample(reader.read(item, aside)), decode_sample(row)
    assert [bad.reason for bad in aside] == ["object with no pixels"]
    kept = [i for i in range(len(row.objects)) if i != parent]
    assert len(got.objects) == len(kept)
    for index, old in enumerate(kept):
        np.testing.assert_array_equal(got.mask(index), before.mask(old))
        up = row.objects[old].parent
        up = row.objects[parent].parent if up == parent else up
        assert got.objects[index].parent == (kept.index(up) if up >= 0 else -1)


@pytest.mark.parametrize(
    "entry",
    [
        None,
        {"num_instance_masks": 1},
        {"num_instance_masks": -1, "hierarchy": {}},
        {"num_instance_masks": 1 << 40, "hierarchy": {}},
        {"num_instance_masks": 2, "hierarchy": {0: {"parent": 1}, 1: {"parent": 0}}},
        {"num_instance_masks": 1, "hierarchy": {0: {"parent": 0}}},
        {"num_instance_masks": 1, "hierarchy": {0: {"parent": 5}}},
        {"num_instance_masks": 1, "hierarchy": {"a": {"parent": 0}}},
        {"num_instance_masks": 1, "hierarchy": {0: 3}},
    ],
)
def test_merged_malformed_entries(merged: tuple[Path, list[Row]], entry: Any) -> None:
    root, rows = merged
    (root / "val" / "hannotation.pickle").write_bytes(pickle.dumps({rows[0].image_id: entry}))
    reader = open_reader("merged", str(root), "val")
    assert problems(reader) == {rows[0].image_id: ["annotation is malformed"]}


def test_merged_image_of_stuff_alone(merged: tuple[Path, list[Row]]) -> None:
    root, rows = merged
    entry = {"num_instance_masks": 0, "hierarchy": {}}
    (root / "val" / "hannotation.pickle").write_bytes(pickle.dumps({rows[0].image_id: entry}))
    reader = MergedReader(str(root), "val")
    with pytest.raises(Skipped):
        reader.read(reader.items()[0])
    (root / "val" / "hannotation.pickle").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(UserError, match="no dictionary"):
        reader.items()
