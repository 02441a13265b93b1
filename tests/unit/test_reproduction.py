"""The small reproduction: intervals with known answers, pairing, the order of cells, commands that the jobs read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmarks import reproduction
from benchmarks.reproduction_data import write_some
from benchmarks.reproduction_report import QUESTIONS, numbers, picture, table
from benchmarks.reproduction_results import (
    ARMS,
    BASE,
    FIGURES,
    SETTINGS,
    Model,
    answers,
    hierarchical_interval,
    paired,
    read,
)
from jobs import evaluate, train
from pipeline.data.images import decode_sample
from pipeline.data.readers import open_reader
from pipeline.errors import UserError
from pipeline.evaluate.bootstrap import interval
from pipeline.evaluate.results import OBJECTS, write_table
from pipeline.evaluate.setting import Setting
from tests.made import rows_of_blobs, write_dataset

FAST = 400  # resamples
changes = arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 6), st.just(2)), elements=st.integers(-20, 20))


def test_seeds_alone_differ() -> None:
    """Two seeds, -1 and 1 on every object: a quarter of the resamples each is -1 and 1."""
    change = np.stack([np.full((50, 1), -1.0), np.full((50, 1), 1.0)])
    assert hierarchical_interval(change).ravel().tolist() == [-1.0, 1.0]


def test_objects_alone_differ() -> None:
    """Seeds that agree leave the interval of the mean over objects, as wide as for one seed."""
    values = np.random.default_rng(1).normal(0.3, 1.0, (400, 1))
    one, three = (hierarchical_interval(np.stack([values] * seeds)).ravel() for seeds in (1, 3))
    expected = values.mean() + 1.96 * values.std() / 20 * np.array([-1, 1])
    assert one == pytest.approx(expected, abs=0.01)
    assert three == pytest.approx(expected, abs=0.01)
    assert one == pytest.approx(interval([values], 4000).ravel(), abs=0.01)


@settings(max_examples=40, deadline=None)
@given(changes, st.sampled_from([-2.0, 0.5, 4.0]), st.integers(-5, 5))
def test_interval_follows_scale_and_shift(change: np.ndarray, scale: float, shift: int) -> None:
    low, high = hierarchical_interval(change, resamples=FAST)
    moved = hierarchical_interval(scale * change + shift, resamples=FAST)
    assert moved == pytest.approx(np.sort(scale * np.stack([low, high]) + shift, axis=0), abs=1e-9)
    flat = change.reshape(-1, 2)
    assert (flat.min(axis=0) - 1e-9 <= low).all() and (high <= flat.max(axis=0) + 1e-9).all()


@settings(max_examples=40, deadline=None)
@given(changes, st.integers(1, 4))
def test_copies_of_an_object_are_no_evidence(change: np.ndarray, copies: int) -> None:
    """Drawn with their image, equal objects of an image count as one."""
    images = np.repeat(np.arange(change.shape[1]), copies)
    copied = hierarchical_interval(np.repeat(change, copies, axis=1), images, FAST)
    assert copied == pytest.approx(hierarchical_interval(change, resamples=FAST), abs=1e-9)


def options(out: str = "/out", *more: str) -> Any:
    words = ["--base", "/base", "--data", "/train", "--val", "/val", "--out", out, "--steps", "40"]
    return reproduction.parse([*words, *more])


def test_seed_0_of_every_arm_comes_first() -> None:
    plan = reproduction.cells(["plain", "icl"], 2)
    assert [cell.name for cell in plan] == [BASE, "plain-seed0", "icl-seed0", "plain-seed1", "icl-seed1"]


@pytest.mark.parametrize("arm", list(ARMS))
def test_training_commands(arm: str) -> None:
    """The jobs' own parsers read them; arms of one seed differ in loss and SUEM alone."""
    job, *words = reproduction.training(options(), reproduction.Cell(arm, 2))
    plain = train.parse(reproduction.training(options(), reproduction.Cell("plain", 2))[1:])
    run = train.parse(words)
    assert job == "jobs.train"
    assert (run.seed, run.total_steps, run.model.start, run.optim.warmup_steps) == (2, 40, "/base", 4)
    assert (run.data, run.optim, run.clicks, run.model) == (plain.data, plain.optim, plain.clicks, plain.model)
    assert run.loss.mode == ("icl" if arm.startswith("icl") else "iter_mask")
    assert run.suem.off == ("suem" not in arm)
    weights = {"icl": (1, 2, 3), "icl-suem": (1, 2, 3), "icl-1": (1,), "icl-2": (1, 2), "icl-equal": (1, 1, 1)}
    assert arm not in weights or run.loss.weights == weights[arm]


def test_evaluation_commands() -> None:
    cell = reproduction.Cell("icl", 1)
    plain, adaptive = (reproduction.evaluation(options("/out", "--objects", "7"), cell, a) for a in (False, True))
    first, second = evaluate.parse(plain[1:]), evaluate.parse(adaptive[1:])
    assert (first.cfr_steps, first.cfr.adaptive, first.limit, first.crop) == ((0, 1, 2, 4), False, 7, 128)
    assert (second.cfr_steps, second.cfr.adaptive) == ((4,), True)
    assert first.checkpoint == second.checkpoint == "/out/cells/icl-seed1/run"
    assert first.out != second.out
    of_base = reproduction.evaluation(options(), reproduction.Cell(BASE), False)
    assert evaluate.parse(of_base[1:]).checkpoint == "/base"


CURVES = {"a": [0.5, 0.7, 0.82], "b": [0.4, 0.86, 0.91]}


def evaluated(folder: Path, better: float, images: dict[str, list[float]] = CURVES) -> None:
    """Evaluations whose first IoU is higher by so much; two passes a click, twice as many with refinement."""
    for part, held in (("cfr", SETTINGS[:-1]), ("adaptive", SETTINGS[-1:])):
        rows = [
            {
                "dataset": "val",
                "image_id": image,
                "object_id": 0,
                "trial": 0,
                **setting.columns(),
                "iou": [curve[0] + better, *curve[1:]],
                "clicks": [],
                "seconds": 0.5,
                "forward_passes": 6 if setting.steps == 0 else 12,
            }
            for setting in held
            for image, curve in images.items()
        ]
        write_table(str(folder / part / "objects.parquet"), pa.Table.from_pylist(rows, schema=OBJECTS))
        (folder / part / "summary.json").write_text("{}")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    about = {"base": "0" * 64, "steps": 40, "lr": 3e-4, "objects": 0, "max_clicks": 20}
    (tmp_path / "setting.json").write_text(json.dumps(about))
    evaluated(tmp_path / "cells" / BASE, -0.1)
    evaluated(tmp_path / "cells" / "plain-seed0", 0.0)
    evaluated(tmp_path / "cells" / "plain-seed1", 0.0)
    evaluated(tmp_path / "cells" / "icl-seed0", 0.2)
    evaluated(tmp_path / "cells" / "icl-seed1", 0.4)
    (tmp_path / "cells" / "icl-seed2" / "cfr").mkdir(parents=True)  # begun
    return tmp_path


def test_differences_are_paired_by_seed_and_object(out: Path) -> None:
    results = read(str(out))
    pair = paired(results, Model("icl"), Model("plain"))
    assert pair is not None and pair[0] == [0, 1] and pair[1].shape == (2, 2, len(FIGURES))
    first, noc80, noc85 = (pair[1][:, :, FIGURES.index(name)] for name in ("iou1", "noc80", "noc85"))
    assert first == pytest.approx(np.array([[0.2, 0.2], [0.4, 0.4]]), abs=1e-6)
    assert noc80.tolist() == [[0, 0], [-2, -1]]  # 0.9 and 0.8 at the first click instead of the third and second
    assert noc85.tolist() == [[0, 0], [-19, 0]]  # never reached there: 20
    with_base = paired(results, Model("plain"), Model(BASE))
    assert with_base is not None and with_base[0] == [0, 1]
    assert paired(results, Model("icl-1"), Model("plain")) is None


def test_answers_tables_and_picture(out: Path) -> None:
    results = read(str(out))
    found = {answer.question.label: answer for answer in answers(results, QUESTIONS)}
    icl = found["ICL, 3 clicks, weights 1 2 3 - plain"]
    assert icl.difference[FIGURES.index("iou1")] == pytest.approx(0.3)
    assert (icl.verdict("iou1"), icl.verdict("noc90")) == (1, 0)
    assert found["base: A-CFR-4 - CFR-0"].passes == 2
    text = table(results, list(found.values()))
    assert "**+30.0 [+20.0, +40.0]**" in text and "not at hand" in text
    assert "ICL, 1 click - plain" not in text
    assert picture(list(found.values())) is not None
    kept = json.loads(json.dumps(numbers(results, list(found.values()))))
    assert (kept["objects"], kept["images"], len(kept["standing"])) == (2, 2, 15)


def test_evaluations_of_other_objects_are_refused(out: Path) -> None:
    evaluated(out / "cells" / "icl-2-seed0", 0.0, {"c": [0.5]})
    with pytest.raises(UserError, match="other objects"):
        read(str(out))


def test_what_is_done_is_not_done_again(out: Path) -> None:
    asked = options(str(out))
    assert reproduction.commands(asked, reproduction.Cell("icl", 1)) == []
    assert [words[0] for words in reproduction.commands(asked, reproduction.Cell("icl", 2))] == [
        "jobs.train",
        "jobs.evaluate",
        "jobs.evaluate",
    ]
    assert [words[0] for words in reproduction.commands(asked, reproduction.Cell(BASE))] == []
    assert Setting(0) in read(str(out)).values[BASE][0]


def test_some_objects_of_every_image(tmp_path: Path) -> None:
    rows = rows_of_blobs(12)
    write_dataset(tmp_path / "blobs", rows)
    folder = Path(write_some(str(tmp_path / "blobs"), str(tmp_path / "out"), 1))
    reader = open_reader("folder", str(folder))
    found = [reader.read(item) for item in reader.items()]
    assert [row.image_id for row in found] == [row.image_id for row in rows]
    chosen = json.loads((folder / "chosen.json").read_text())["objects"]
    for row, have in zip(rows, found, strict=True):
        (index,) = chosen[row.image_id]
        assert np.array_equal(decode_sample(have).target(0), decode_sample(row).target(index))
    assert len({index for (index,) in chosen.values()}) > 1, "always the same object"
    before = (folder / "chosen.json").stat().st_mtime_ns
    write_some(str(tmp_path / "blobs"), str(tmp_path / "out"), 1)
    assert (folder / "chosen.json").stat().st_mtime_ns == before
