"""Conversion as a Ray Data job: whole, resumed, with bad rows, and every user's mistake at the command line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs import prepare
from pipeline.data.manifest import load_manifest, read_group
from pipeline.data.readers import open_reader
from pipeline.data.readers.synthetic import write_synthetic
from pipeline.data.shards import write_shards
from pipeline.errors import UserError
from tests.conftest import Exits

pytestmark = pytest.mark.ray
ROOT = Path(__file__).resolve().parents[2]
TRAIN = 40


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drawn") / "raw"
    write_synthetic(str(root), train=TRAIN, val=3, seed=4, size=(96, 128), evaluation=4)
    return root


@pytest.fixture
def pictures(raw: Path, tmp_path: Path) -> Path:
    """img/ and gt/ of 20 good pictures, to spoil."""
    for index in range(20):
        for folder, ending in (("img", "jpg"), ("gt", "png")):
            (tmp_path / "raw" / folder).mkdir(parents=True, exist_ok=True)
            data = (raw / "eval" / folder / f"{index % 4:03d}.{ending}").read_bytes()
            (tmp_path / "raw" / folder / f"p{index:02d}.{ending}").write_bytes(data)
    return tmp_path / "raw"


def shard_files(out: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(out.glob("shard-*"))}


def test_rows_are_those_of_the_reader(raw: Path, tmp_path: Path, ray_session: None) -> None:
    reader = open_reader("coco-lvis", str(raw), "train")
    out = str(tmp_path / "out")
    manifest = write_shards(reader, out, "train", rows_per_group=4, groups_per_shard=3, seed=1)
    assert [s.row_groups for s in manifest.shards] == [[4, 3, 3]] * 4  # 40 images in 4 even shards
    rows = [r for s in manifest.shards for g in range(len(s.row_groups)) for r in read_group(out, s.path, g)]
    expected = {reader.name_of(item): reader.read(item) for item in reader.items()}
    assert {row.image_id: row for row in rows} == expected and len(rows) == TRAIN == manifest.rows
    assert [row.image_id for row in rows] != list(expected)  # shuffled
    assert manifest.objects == sum(len(row.objects) for row in rows)
    assert (manifest.name, manifest.source, manifest.split) == ("out", "coco+lvis", "train")
    assert load_manifest(out) == manifest


def test_same_arguments_same_shards_another_seed_another_order(raw: Path, tmp_path: Path, ray_session: None) -> None:
    reader = open_reader("coco-lvis", str(raw), "train")
    a, b, c = (
        write_shards(reader, str(tmp_path / name), "train", rows_per_group=8, groups_per_shard=2, seed=seed)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert a.shards == b.shards and a.shards != c.shards


def test_benchmarks_keep_the_order_of_the_files(pictures: Path, tmp_path: Path, ray_session: None) -> None:
    out = str(tmp_path / "out")
    manifest = write_shards(open_reader("folder", str(pictures)), out, "")
    ids = [row.image_id for row in read_group(out, manifest.shards[0].path, 0)]
    assert ids == [f"p{index:02d}" for index in range(20)] and manifest.split == ""


def test_bad_rows_are_set_aside_and_listed(pictures: Path, tmp_path: Path, ray_session: None) -> None:
    cut = pictures / "img" / "p03.jpg"
    good = cut.read_bytes()
    cut.write_bytes(good[: len(good) // 2])
    cv2.imwrite(str(pictures / "gt" / "p07.png"), np.zeros((96, 128), np.uint8))
    out = tmp_path / "out"

    def convert(allowed: float) -> object:
        return write_shards(open_reader("folder", str(pictures)), str(out), "", max_bad_fraction=allowed)

    with pytest.raises(UserError, match=r"2 of 20 images are bad.*1 x image does not decode") as caught:
        convert(0.05)
    assert "1 x object with no pixels" in str(caught.value) and not (out / "manifest.json").exists()
    listed = pq.read_table(out / "rejected.parquet").to_pylist()
    assert [(r["image_id"], r["reason"]) for r in listed] == [
        ("p03", "image does not decode"),
        ("p07", "object with no pixels"),
    ]
    assert listed[0]["path"] == str(cut)
    with pytest.raises(UserError, match="unfinished"):
        load_manifest(str(out))

    cut.write_bytes(good)  # mended: the same command goes on
    manifest = convert(0.05)
    assert manifest == load_manifest(str(out))
    assert (manifest.rows, manifest.rejected) == (19, {"object with no pixels": 1})  # type: ignore[attr-defined]
    assert pq.read_table(out / "rejected.parquet")["image_id"].to_pylist() == ["p07"]


def test_no_usable_image(pictures: Path, tmp_path: Path, ray_session: None) -> None:
    for path in (pictures / "gt").iterdir():
        cv2.imwrite(str(path), np.zeros((96, 128), np.uint8))
    with pytest.raises(UserError, match="none of 20 images can be used: 20 x object with no pixels"):
        write_shards(open_reader("folder", str(pictures)), str(tmp_path / "out"), "", max_bad_fraction=1.0)


def test_image_ids_that_occur_twice(raw: Path, tmp_path: Path, ray_session: None) -> None:
    root = Path(shutil.copytree(raw, tmp_path / "raw"))
    annotation = root / "annotations" / "panoptic_val2017.json"
    content = json.loads(annotation.read_text())
    content["images"][1]["file_name"] = content["images"][0]["file_name"]
    annotation.write_text(json.dumps(content))
    reader = open_reader("coco-lvis", str(root), "val")
    manifest = write_shards(reader, str(tmp_path / "out"), "val", max_bad_fraction=0.7)
    assert (manifest.rows, manifest.rejected) == (
        1,
        {"image_id occurs twice": 2},
    )  # neither: which is right is not known
    listed = pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist()
    name = content["images"][0]["file_name"]
    assert all(row["detail"].count(name) == 2 for row in listed)


def test_out_that_holds_something_else(raw: Path, pictures: Path, tmp_path: Path, ray_session: None) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    folder = open_reader("folder", str(pictures))
    for out in (tmp_path / "mine", tmp_path / "mine" / "thesis.txt", pictures):
        with pytest.raises(UserError, match="holds something else"):
            write_shards(folder, str(out), "")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"
    out = str(tmp_path / "out")
    done = write_shards(open_reader("coco-lvis", str(raw), "val"), out, "val")
    before = shard_files(tmp_path / "out")
    assert write_shards(open_reader("coco-lvis", str(raw), "val"), out, "val") == done  # nothing to do
    with pytest.raises(UserError, match="seed 0, now 5"):
        write_shards(open_reader("coco-lvis", str(raw), "val"), out, "val", seed=5)
    with pytest.raises(UserError, match=r"source 'coco\+lvis', now 'folder'"):
        write_shards(folder, out, "")
    assert shard_files(tmp_path / "out") == before


CONVERT = """
import sys
from pipeline.data.readers import open_reader
from pipeline.data.shards import write_shards

from tests.ray.slow_reader import Slow
write_shards(Slow(sys.argv[1], float(sys.argv[3])), sys.argv[2], "train", rows_per_group=2, groups_per_shard=2)
"""


@pytest.mark.slow
def test_killed_and_continued(raw: Path, tmp_path: Path, ray_session: None) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", CONVERT, str(raw), str(out), "0.15"]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        deadline = time.monotonic() + 100
        while len(list(out.glob("shard-*.json"))) < 2:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    time.sleep(3)  # the killed run's workers end
    kept = {p.name: p.stat().st_mtime_ns for p in out.glob("shard-*.json")}
    assert 2 <= len(kept) < 10 and not (out / "manifest.json").exists()
    with pytest.raises(UserError, match="unfinished"):
        load_manifest(str(out))
    reader = open_reader("coco-lvis", str(raw), "train")
    manifest = write_shards(reader, str(out), "train", rows_per_group=2, groups_per_shard=2)
    assert {name: (out / name).stat().st_mtime_ns for name in kept} == kept
    whole = write_shards(reader, str(tmp_path / "whole"), "train", rows_per_group=2, groups_per_shard=2)
    assert manifest.shards == whole.shards and manifest.rows == TRAIN
    assert shard_files(out) == shard_files(tmp_path / "whole")


def test_finished_shard_whose_file_was_cut_is_made_again(raw: Path, tmp_path: Path, ray_session: None) -> None:
    reader, out = open_reader("coco-lvis", str(raw), "train"), tmp_path / "out"
    whole = write_shards(reader, str(out), "train", rows_per_group=8, groups_per_shard=1)
    (out / "manifest.json").unlink()
    (out / "shard-00001.parquet").write_bytes(b"cut")
    assert write_shards(reader, str(out), "train", rows_per_group=8, groups_per_shard=1) == whole


def test_job(raw: Path, tmp_path: Path, ray_session: None, capsys: pytest.CaptureFixture[str]) -> None:
    prepare.job(["coco-lvis", "--root", str(raw), "--split", "val", "--out", str(tmp_path / "val")])
    assert "3 images" in capsys.readouterr().out
    prepare.job(["davis", "--root", str(raw / "eval"), "--out", str(tmp_path / "davis")])
    assert load_manifest(str(tmp_path / "davis")).objects == 4


def test_mistakes_end_with_one_message_and_code_2(raw: Path, tmp_path: Path, ray_session: None, exits: Exits) -> None:
    lvis = raw / "annotations" / "lvis_v1_val.json"
    half = tmp_path / "raw"
    (half / "annotations" / "panoptic_val2017").mkdir(parents=True)
    (half / "val2017").mkdir()
    text = (raw / "annotations" / "panoptic_val2017.json").read_text()
    (half / "annotations" / "panoptic_val2017.json").write_text(text[: len(text) // 2])
    (half / "annotations" / "lvis_v1_val.json").write_text(json.dumps(json.loads(lvis.read_text())))
    out = ["--out", str(tmp_path / "out")]
    cases = {
        "Did you mean 'coco-lvis'": ["coco-lviss", "--root", str(raw), *out],
        "There is no folder": ["coco-lvis", "--root", str(tmp_path / "absent"), *out],
        "not a whole JSON file": ["coco-lvis", "--root", str(half), "--split", "val", *out],
        "--root": ["folder", *out],
    }
    for message, args in cases.items():
        code, _, err = exits(prepare.job, *args)
        assert code == 2 and message in err and "Traceback" not in err, err
        assert err.startswith("error: ") and "Ray" not in err
    assert not (tmp_path / "out").exists()
    for args in (
        ["--max-bad-fraction", "7"],
        ["--max-bad-fraction", "nan"],
        ["--max-bad-fraction", "-inf"],
        ["--seed", "x"],
        ["--seed", "-1"],
        ["--splt", "val"],
        ["--crowd", "objects"],
    ):
        with pytest.raises(UserError):
            prepare.job(["folder", "--root", str(raw), *out, *args])
