"""Requests checked before any work, the plan, and parts merged into tables."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter, deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jobs.tune_cfr_log import _about
from pipeline.config import Cfr, Eval, TrainConfig
from pipeline.config.evaluation import GPU_BATCH, EvaluateConfig, EvaluationBase
from pipeline.config.sweeps import CfrSweepConfig, fields_of
from pipeline.data.schema import ObjectInfo, Row
from pipeline.errors import UserError
from pipeline.evaluate import results
from pipeline.evaluate.plan import OBJECTS, DataSet, Place, WorkUnit, open_dataset, plan
from pipeline.evaluate.pool import next_call
from pipeline.evaluate.request import cfr_of, check
from pipeline.evaluate.setting import Setting
from pipeline.evaluate.sources import default_crop, parse_data
from pipeline.evaluate.units import evaluate_units
from pipeline.model.checkpoints import CheckpointInfo, load_model
from pipeline.tune import cfr_request
from tests.made import SIDE, Scripted, rows_of_blobs, write_checkpoint, write_dataset

RULES = Eval(max_clicks=3)
SETTINGS = [Setting(0, 1, False), Setting(2, 1, False)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint and a data set of 10 pictures with 2 objects each."""
    folder = tmp_path_factory.mktemp("made")
    write_checkpoint(folder / "checkpoint")
    write_dataset(folder / "blobs", rows_of_blobs(10))
    return folder


def request(made: Path, to: Path, **changes: object) -> EvaluateConfig:
    base = EvaluateConfig(
        checkpoint=str(made / "checkpoint"), data=(f"blobs={made / 'blobs'}",), out=str(to), eval=RULES
    )
    return dataclasses.replace(base, **changes)


def test_data_words() -> None:
    assert parse_data(("a=/x", "b-1=s3://bucket/k=v")) == (("a", "/x"), ("b-1", "s3://bucket/k=v"))
    for words in (("a",), ("=x",), ("a=",), ("a/b=x",), ("a=x", "a=y")):
        with pytest.raises(UserError, match="--data"):
            parse_data(words)


def test_voc_grey(made: Path, tmp_path: Path) -> None:
    words = ("grabcut=/x", "voc=/y")
    assert parse_data(words, voc_grey=True) == (("grabcut", "/x"), ("voc-grey", "/y"))
    assert parse_data(words) == (("grabcut", "/x"), ("voc", "/y"))
    with pytest.raises(UserError, match="--voc-grey"):
        parse_data(("grabcut=/x",), voc_grey=True)
    write_dataset(tmp_path / "voc", rows_of_blobs(2))
    manifest = tmp_path / "voc" / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "source": "voc"}))
    assert check(request(made, tmp_path / "a", data=(f"voc={tmp_path / 'voc'}",))).sources[0].name == "voc"
    with pytest.raises(UserError, match="prepared as 'voc', not as 'voc-grey'"):
        check(request(made, tmp_path / "b", data=(f"voc-grey={tmp_path / 'voc'}",)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint": "/nowhere"}, "no checkpoint /nowhere"),
        ({"data": ()}, "nothing to evaluate on"),
        ({"data": ("blobs=/nowhere",)}, "no data set /nowhere"),
        ({"data": ("davi=.",)}, "Did you mean 'davis'"),
        ({"cfr_steps": (1, 1)}, "--cfr-steps"),
        ({"cfr_steps": (-1,)}, "--cfr-steps"),
        ({"crop": 65}, "--crop 65"),
        ({"batch_size": -1}, "--batch-size"),
        ({"out": "."}, "holds something that is not an evaluation"),
    ],
)
def test_mistakes(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], message: str
) -> None:
    monkeypatch.chdir(made)
    with pytest.raises(UserError, match=message):
        check(request(made, tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_a_broken_checkpoint_is_no_checkpoint(made: Path, tmp_path: Path) -> None:
    for name, content in (("notes.txt", b"no checkpoint"), ("half.pth", b"PK\x03\x04" + bytes(50))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name):
            check(request(made, tmp_path / "out", checkpoint=str(tmp_path / name)))


def test_an_unfinished_data_set_says_so(made: Path, tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "plan.json").write_text("{}")
    with pytest.raises(UserError, match="unfinished"):
        check(request(made, tmp_path / "out", data=(f"half={tmp_path / 'half'}",)))


def test_the_same_request_continues_and_another_is_refused(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = check(request(made, out))
    assert check(request(made, out, eval=dataclasses.replace(RULES, actors=3))) != first
    for changes, named in (
        ({"cfr_steps": (0, 1)}, "cfr_steps"),
        ({"eval": Eval(max_clicks=4)}, "max_clicks"),
        ({"cfr": Cfr(flip=False)}, r"another cfr\.flip \(cfr\.flip: true there, false here\)"),
        ({"batch_size": 2}, "batch_size"),
        ({"crop": 2 * SIDE}, "data"),
    ):
        with pytest.raises(UserError, match=named):
            check(request(made, out, **changes))
    write_checkpoint(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match="another checkpoint"):
        check(request(made, out, checkpoint=str(tmp_path / "other")))


def test_crop_of_the_checkpoint() -> None:
    ours = CheckpointInfo("", "cfr-icl", "", TrainConfig().model, config=TrainConfig())
    published = CheckpointInfo("", "published", "", TrainConfig().model)
    assert (default_crop("davis", ours), default_crop("grabcut", ours)) == (448, 448)
    assert (default_crop("davis", published), default_crop("grabcut", published)) == (672, 448)
    assert cfr_of(EvaluateConfig(checkpoint="", data=(), out=""), Setting(4, 2, True), 672) == Cfr(
        steps=4, clicks=2, adaptive=True, crop=672
    )


def test_the_plan_holds_every_object_once(made: Path) -> None:
    data = open_dataset("blobs", str(made / "blobs"), SIDE)
    assert (data.objects, data.images) == (20, 10)
    units = list(plan([data]))
    assert len({unit.name for unit in units}) == len(units)
    places = [(u.group, p.row, p.object_id) for u in units for p in u.places]
    assert places == [(g, p.row, p.object_id) for _, g, ps in data.groups for p in ps]
    assert all(len(unit.places) <= OBJECTS for unit in units)


def test_limit_takes_the_first_objects(made: Path) -> None:
    data = open_dataset("blobs", str(made / "blobs"), SIDE, limit=11)
    assert (data.objects, data.images) == (11, 6)
    assert [len(places) for _, _, places in data.groups] == [8, 3]


def test_stuff_is_not_evaluated(tmp_path: Path) -> None:
    (row,) = rows_of_blobs(1)
    row = dataclasses.replace(row, objects=[dataclasses.replace(row.objects[0], kind="stuff"), row.objects[1]])
    data = open_dataset("stuff", write_dataset(tmp_path / "stuff", [row]), SIDE)
    assert data.groups[0][2] == [Place(0, "blob-000", 1)]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_bad_objects_are_set_aside_and_the_rest_merged(made: Path, tmp_path: Path, batch_size: int) -> None:
    rows = rows_of_blobs(4)
    rows[1] = dataclasses.replace(rows[1], image=b"no image")
    rows[2] = dataclasses.replace(rows[2], objects=[*rows[2].objects, ObjectInfo(0, 9, -1, 5)])
    data = open_dataset("spoilt", write_dataset(tmp_path / "spoilt", rows), SIDE)
    asked, model = request(made, tmp_path), load_model(str(made / "checkpoint"))[0]
    settings = {i: cfr_of(asked, setting, SIDE) for i, setting in enumerate(SETTINGS)}
    units = list(plan([data]))
    parts = {unit.name: str(tmp_path / f"{unit.name}.parquet") for unit in units}
    done: list[WorkUnit] = []
    for unit, part in evaluate_units(model, units, lambda _: rows, settings, RULES, batch_size, "cpu", 1, strict=True):
        results.write_table(parts[unit.name], part)
        done.append(unit)
    assert sorted(done, key=lambda unit: unit.name) == units
    objects, rejected = results.merge(results.read_parts(units, parts, [0, 1]))
    assert objects.schema == results.OBJECTS
    keys = list(zip(objects["image_id"].to_pylist(), objects["object_id"].to_pylist(), strict=True))
    good = [(f"blob-{i:03d}", k) for i in (0, 2, 3) for k in (0, 1)]
    assert keys == good * len(SETTINGS)
    assert results.reasons(rejected, "spoilt") == {"image does not decode": 2, "object has no pixels": 1}
    assert results.reasons(rejected, "other") == {}
    figures = results.entry(objects, data, SETTINGS[1], RULES)
    assert (figures["objects"], figures["images"], figures["cfr_steps"]) == (6, 3, 2)
    assert figures["forward_passes"] == figures["clicks"] + 2 * 6
    passes = results.passes(objects)  # CFR-2's first pass is CFR-0's
    assert passes["separate"] - 6 >= passes["computed"] > figures["forward_passes"]
    saved = results.read_table(parts[units[0].name])
    row = saved.to_pylist()[0]
    mask = results.decode_mask(row["masks"][-1]["png"])
    assert row["masks"][-1]["clicks"] == len(row["iou"]) and mask.shape == (72, 88) and mask.dtype == bool
    (tmp_path / f"{units[0].name}.parquet").write_bytes(b"PAR1 cut")
    with pytest.raises(UserError, match="damaged"):
        results.read_parts(units, parts, [0, 1])
    for wrong in (saved.slice(1), saved.slice(0, saved.num_rows - 1)):
        results.write_table(parts[units[0].name], wrong)
        with pytest.raises(UserError, match="other objects"):
            results.read_parts(units, parts, [0, 1])


def test_batches_go_on_from_unit_to_unit(tmp_path: Path) -> None:
    rows = rows_of_blobs(8, objects=1)
    units = list(plan([open_dataset("blobs", write_dataset(tmp_path / "blobs", rows, rows_per_group=2), SIDE)]))
    assert [len(unit.places) for unit in units] == [2] * 4
    network, settings = Scripted(), {0: Cfr(crop=SIDE, flip=False)}
    rules = Eval(max_clicks=3, full_curve=True)

    def read(unit: WorkUnit) -> list[Row]:
        return rows[2 * unit.group : 2 * unit.group + 2]

    done = list(evaluate_units(network, units, read, settings, rules, 4, "cpu", 1, strict=True))
    assert [unit for unit, _ in done] == units and network.calls == [4] * 6
    for unit, part in done:
        assert part["image_id"].to_pylist() == [place.image_id for place in unit.places]


def test_figures_without_objects() -> None:
    data = DataSet("none", "", "", SIDE, [], {})
    assert results.entry(results.OBJECTS.empty_table(), data, SETTINGS[0], RULES)["objects"] == 0


def test_units_of_a_call() -> None:
    def waiting() -> deque[WorkUnit]:
        places = [Place(0, "a", k) for k in range(4)]
        return deque(WorkUnit(f"u{n}", "d", "", "", 0, places, 64 if n < 30 else 96) for n in range(40))

    def taken(actors: int, batch_size: int, tries: Counter[str]) -> list[int]:
        left, counts = waiting(), []
        while left:
            counts.append(len(next_call(left, tries, actors, batch_size)))
        return counts

    assert taken(1, 1, Counter()) == [1] * 40
    assert taken(1, 8, Counter()) == [30, 10]  # crops differ
    found = taken(2, 2, Counter())
    assert sum(found) == 40 and found[:5] == [10, 7, 5, 4, 3]
    assert taken(1, 8, Counter(u3=2))[:3] == [3, 1, 26]
    assert taken(1, 8, Counter(u3=1))[0] == 30


def test_masks_survive_their_encoding() -> None:
    mask = np.random.default_rng(0).random((37, 41)) < 0.5
    assert np.array_equal(results.decode_mask(results.encode_mask(mask)), mask)


@pytest.mark.parametrize(("gpu", "batch"), [(True, GPU_BATCH), (False, 1)])
def test_a_sweep_says_the_batch_that_its_device_decided(made: Path, tmp_path: Path, gpu: bool, batch: int) -> None:
    asked = request(made, tmp_path / "out")
    checked = cfr_request.check(CfrSweepConfig(**fields_of(asked, EvaluationBase), trials=2))
    on_device = dataclasses.replace(asked.eval, gpu=gpu)
    checked = dataclasses.replace(checked, config=dataclasses.replace(checked.config, eval=on_device))
    sweep: Any = SimpleNamespace(checked=checked, datasets=[], exhausted=False)
    assert _about(sweep)["options"]["batch_size"] == batch
    assert cfr_request.identity(checked)["batch_size"] == 1  # the same sweep on any machine
