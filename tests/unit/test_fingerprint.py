"""What a job continues is bound to what went into it: one changed byte is found and named, wherever it went in."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline import storage
from pipeline.config import Eval, TrainConfig
from pipeline.config import io as config_io
from pipeline.config.evaluation import EvaluateConfig, EvaluationBase
from pipeline.config.sweeps import CfrSweepConfig, fields_of
from pipeline.data import fingerprint
from pipeline.data.manifest import FILES, load_manifest
from pipeline.data.readers import open_reader
from pipeline.data.readers.base import fetch
from pipeline.data.shards import Job, _begin, write_shard
from pipeline.errors import BadRow, UserError
from pipeline.evaluate import request as evaluation
from pipeline.evaluate.plan import open_dataset
from pipeline.evaluate.request import check, hold_shards
from pipeline.model.checkpoints import STATE
from pipeline.storage.looks import look_of
from pipeline.train.run_folder import inputs_of, open_folder
from pipeline.tune import cfr_request
from tests.made import rows_of_blobs, small_config, write_checkpoint, write_dataset


@pytest.fixture
def made(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "checkpoint")
    write_dataset(tmp_path / "blobs", rows_of_blobs(6))
    return tmp_path


def request(made: Path) -> EvaluateConfig:
    return EvaluateConfig(
        checkpoint=str(made / "checkpoint"),
        data=(f"blobs={made / 'blobs'}",),
        out=str(made / "out"),
        eval=Eval(max_clicks=3),
    )


def other_row(made: Path) -> None:
    """The same shards but for one byte of one picture, prepared anew under the same path."""
    rows = rows_of_blobs(6)
    image = bytearray(rows[3].image)
    image[-5] ^= 1
    rows[3] = dataclasses.replace(rows[3], image=bytes(image))
    shutil.rmtree(made / "blobs")
    write_dataset(made / "blobs", rows)


def other_weight(made: Path) -> None:
    file = made / "blobs" / "manifest.json"
    content = json.loads(file.read_text())
    content["shards"][0]["weights"][0] += 1.0
    file.write_text(json.dumps(content))


def other_heads(made: Path) -> None:
    """A config that no tensor's shape shows."""
    file = made / "checkpoint" / STATE
    content = json.loads(file.read_text())
    content["config"]["model"]["click_radius"] += 1
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_row, r"data has changed since .*out was begun \(data blobs: 1 file differs, first shard-00000"),
        (other_weight, "data blobs: 1 file differs"),
        (other_heads, "checkpoint: 1 file differs, first config"),
    ],
)
def test_an_evaluation(made: Path, change: Callable[[Path], None], message: str) -> None:
    check(request(made))
    check(request(made))
    change(made)
    with pytest.raises(UserError, match=message):
        check(request(made))
    assert check(dataclasses.replace(request(made), out=str(made / "new")))


@pytest.mark.parametrize("change", [other_row, other_heads])
def test_a_cfr_sweep(made: Path, change: Callable[[Path], None]) -> None:
    sweep = CfrSweepConfig(**fields_of(request(made), EvaluationBase), trials=2)
    cfr_request.check(sweep)
    cfr_request.check(sweep)
    change(made)
    with pytest.raises(UserError, match="has changed since"):
        cfr_request.check(sweep)


def test_shards_of_a_raw_folder_made_anew_under_old_parts(made: Path) -> None:
    """Whoever deletes OUT/data but not OUT/parts has results of the old data."""
    check(request(made))
    out = str(made / "out")
    hold_shards(out, [open_dataset("raw", str(made / "blobs"), 64)])
    other_row(made)
    with pytest.raises(UserError, match="data raw: 1 file differs"):
        hold_shards(out, [open_dataset("raw", str(made / "blobs"), 64)])


def test_a_folder_begun_before_there_were_fingerprints_is_continued(made: Path) -> None:
    check(request(made))
    os.remove(made / "out" / fingerprint.INPUTS)
    check(request(made))
    other_row(made)
    with pytest.raises(UserError, match="has changed since"):  # from then on it has one
        check(request(made))


def run_of(made: Path, **changes: object) -> TrainConfig:
    values = {"data.train": str(made / "blobs"), "data.val": str(made / "val"), "out": str(made / "run"), **changes}
    return config_io.replace(small_config(), **values)


def opened(run: TrainConfig) -> bool:
    return open_folder(run, inputs=inputs_of(run))


def test_a_training_run(made: Path) -> None:
    write_dataset(made / "val", rows_of_blobs(2, seed=5))
    run = run_of(made)
    assert not opened(run) and opened(run)
    shutil.copytree(made / "blobs", made / "moved")
    assert opened(run_of(made, **{"data.train": str(made / "moved")}))  # the same content at another place
    before = (made / "run" / "config.json").read_text()
    other_row(made)
    with pytest.raises(UserError, match=r"data\.train: 1 file differs, first shard-00000"):
        opened(run)
    assert (made / "run" / "config.json").read_text() == before
    shutil.rmtree(made / "val")
    write_dataset(made / "val", rows_of_blobs(2, seed=6))
    with pytest.raises(UserError, match=r"data\.val: 1 file differs"):
        opened(run_of(made, **{"data.train": str(made / "moved")}))


def test_a_validation_set_may_come_later(made: Path) -> None:
    write_dataset(made / "val", rows_of_blobs(2, seed=5))
    opened(run_of(made, **{"data.val": ""}))
    assert opened(run_of(made)) and opened(run_of(made, **{"data.val": ""}))
    shutil.rmtree(made / "val")
    write_dataset(made / "val", rows_of_blobs(2, seed=6))
    with pytest.raises(UserError, match=r"data\.val"):
        opened(run_of(made))


def test_the_start_of_a_run(made: Path) -> None:
    write_dataset(made / "val", rows_of_blobs(2))
    first = write_checkpoint(made / "other" / "checkpoints" / "step_00000001")
    run = run_of(made, **{"model.start": str(made / "other")})
    opened(run)
    write_checkpoint(made / "other" / "checkpoints" / "step_00000002", seed=1)
    state = made / "other" / "checkpoints" / "step_00000002" / STATE
    state.write_text(json.dumps({**json.loads(state.read_text()), "step": 10**6}))
    with pytest.raises(UserError, match=r"model\.start: 2 files differ, first step_00000001"):
        opened(run)  # nothing is saved: it would start from another checkpoint
    (made / "run" / "checkpoints").mkdir()
    assert opened(run)  # it has its own now, and what it took is what it was
    shutil.rmtree(first)
    write_checkpoint(Path(first), seed=2)
    with pytest.raises(UserError, match=r"model\.start: 1 file differs"):
        opened(run)
    shutil.rmtree(made / "other")
    assert opened(run)


# --- raw files


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / "raw" / name).mkdir(parents=True)
    for index in range(3):
        mask = np.zeros((40, 50), np.uint8)
        mask[5:30, 5:30] = 255
        cv2.imwrite(str(tmp_path / "raw" / "images" / f"{index}.png"), rng.integers(0, 255, (40, 50, 3), np.uint8))
        cv2.imwrite(str(tmp_path / "raw" / "masks" / f"{index}.png"), mask)
    return tmp_path / "raw"


def converted(raw: Path, out: Path) -> dict[str, str]:
    """One shard of a folder, as a task makes it; gives the marks that it notes."""
    reader = open_reader("folder", str(raw))
    assert not _begin(str(out), {"a": 1}, str(raw))
    items = pickle.dumps([pickle.dumps(item) for item in reader.items()])
    return json.loads(write_shard(0, items, Job(reader, str(out), 2)))["files"]


def spoil(path: Path) -> None:
    """One byte, with size and time of the last write as they were."""
    about = path.stat()
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


def test_a_changed_byte_of_a_raw_file(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    marks = converted(raw, out)
    assert sorted(marks) == [f"{folder}/{i}.png" for folder in ("images", "masks") for i in range(3)]
    fingerprint.require_same_files(str(out), str(raw), [marks])
    spoil(raw / "masks" / "1.png")
    with pytest.raises(UserError, match=r"raw: 1 file differs, first masks/1\.png"):
        fingerprint.require_same_files(str(out), str(raw), [marks])
    spoil(raw / "masks" / "1.png")
    fingerprint.require_same_files(str(out), str(raw), [marks])  # put back: it looks different, and is the same
    os.remove(raw / "images" / "2.png")
    spoil(raw / "masks" / "0.png")
    with pytest.raises(UserError, match=r"2 files differ, first images/2\.png"):
        fingerprint.require_same_files(str(out), str(raw), [marks])


def test_other_files_beside_the_data_do_not_matter(raw: Path, tmp_path: Path) -> None:
    marks = converted(raw, tmp_path / "shards")
    (raw / "notes.txt").write_text("x")
    shutil.copytree(raw, tmp_path / "copy")
    shutil.rmtree(raw)
    os.rename(tmp_path / "copy", raw)  # other file numbers and times, the same contents
    fingerprint.require_same_files(str(tmp_path / "shards"), str(raw), [marks])


def test_unchanged_files_are_not_read_again(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marks = converted(raw, tmp_path / "shards")
    read: list[str] = []
    real = storage.read_bytes
    monkeypatch.setattr(storage, "read_bytes", lambda uri: (read.append(uri), real(uri))[1])
    fingerprint.require_same_files(str(tmp_path / "shards"), str(raw), [marks])
    assert read == [str(tmp_path / "shards" / FILES)]


def test_a_file_that_was_missing_and_is_there_now(raw: Path) -> None:
    with fingerprint.recording(str(raw)) as marks, pytest.raises(BadRow):
        fetch(str(raw / "masks"), "9.png")
    assert marks == {"masks/9.png": fingerprint.ABSENT}
    looks = look_of(str(raw))
    assert fingerprint.changed_files(str(raw), marks, looks) == []
    shutil.copy(raw / "masks" / "1.png", raw / "masks" / "9.png")
    assert fingerprint.changed_files(str(raw), marks, looks) == ["masks/9.png"]


def test_marks_of_shards_do_not_depend_on_their_place(made: Path) -> None:
    shutil.copytree(made / "blobs", made / "elsewhere")
    first, second = (fingerprint.of_shards(load_manifest(str(made / name))) for name in ("blobs", "elsewhere"))
    assert first == second and fingerprint.differing(first, {**second, "x": "1"}) == ["x"]


def test_a_damaged_note(made: Path) -> None:
    check(request(made))
    (made / "out" / fingerprint.INPUTS).write_text("[1]")
    with pytest.raises(UserError, match=r"inputs\.json is damaged"):
        check(request(made))
    assert evaluation.IDENTITY == "evaluation.json"
