"""Drawn data: the same from the same seed, in the real layout, hard enough."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.data.images import decode_image, decode_sample
from pipeline.data.readers import open_reader
from pipeline.data.readers.scenes import draw_scene
from pipeline.data.readers.synthetic import write_synthetic
from pipeline.errors import UserError

SIZE = (120, 160)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "raw"
    write_synthetic(str(folder), train=6, val=2, seed=1, size=SIZE, evaluation=3)
    return folder


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_same_seed_same_files(root: Path, tmp_path: Path) -> None:
    write_synthetic(str(tmp_path / "raw"), train=6, val=2, seed=1, size=SIZE, evaluation=3)
    assert contents(tmp_path / "raw") == contents(root)
    write_synthetic(str(tmp_path / "other"), train=1, val=0, seed=2, size=SIZE, evaluation=0)
    name = "train2017/000000000001.jpg"
    assert (tmp_path / "other" / name).read_bytes() != (root / name).read_bytes()


def test_interrupted_drawing_goes_on_and_other_folders_are_left_alone(root: Path, tmp_path: Path) -> None:
    arguments = {"train": 6, "val": 2, "seed": 1, "size": SIZE, "evaluation": 3}
    write_synthetic(str(root), **arguments)  # there already
    with pytest.raises(UserError, match="other drawn pictures"):
        write_synthetic(str(root), **{**arguments, "seed": 2})
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(UserError, match="something else"):
        write_synthetic(str(tmp_path), **arguments)


def test_real_readers_read_it(root: Path) -> None:
    reader = open_reader("synthetic", str(root), "train")
    rows = [reader.read(item) for item in reader.items()]
    assert len(rows) == 6 and {row.source for row in rows} == {"synthetic"}
    things = [o for row in rows for o in row.objects if o.kind == "thing"]
    assert any(o.parent >= 0 for o in things) and any(o.parent < 0 for o in things)
    assert any(o.kind == "stuff" for row in rows for o in row.objects)
    for row in rows:
        roots = [o for o in row.objects if o.kind == "thing" and o.parent < 0]
        assert len(roots) <= 8  # wholes that both files have are merged
    for source in ("folder", "davis"):
        evaluation = open_reader(source, str(root / "eval"))
        assert [len(evaluation.read(item).objects) for item in evaluation.items()] == [1, 1, 1]


def test_prepare_draws_where_there_is_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.data.readers.synthetic.IMAGES", {"train": 2, "val": 1})
    assert len(open_reader("synthetic", str(tmp_path / "raw"), "train", seed=3).items()) == 2
    assert len(open_reader("synthetic", str(tmp_path / "raw"), "val", seed=3).items()) == 1


def test_visible_masks_do_not_overlap_and_parts_lie_inside() -> None:
    for seed in range(6):
        scene = draw_scene(np.random.default_rng(seed), *SIZE)
        assert scene.things and np.sum([t.mask for t in scene.things] + scene.stuff, axis=0).max() == 1
        for thing in scene.things:
            assert all(not (part & ~thing.mask).any() for part in thing.parts)


def test_brightness_does_not_give_objects_away(root: Path) -> None:
    """The mean colour inside an object is no better than chance at telling it from outside."""
    reader = open_reader("synthetic", str(root), "train")
    brighter = []
    for item in reader.items():
        row = decode_sample(reader.read(item))
        for index, info in enumerate(row.objects):
            if info.kind == "thing" and info.parent < 0:
                inside, outside = (row.image[m].mean() for m in (row.mask(index), ~row.mask(index)))
                brighter.append(inside > outside)
    assert 0.2 < np.mean(brighter) < 0.8


def test_pictures_decode_whole(root: Path) -> None:
    for path in (root / "train2017").iterdir():
        assert decode_image(path.read_bytes(), strict=True).shape == (*SIZE, 3)
