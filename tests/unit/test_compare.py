"""Two evaluations side by side: exact differences, intervals, what is not compared, and broken folders."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.evaluate import carry_out
from jobs.evaluation_log import with_comparison
from pipeline.config import TrainConfig
from pipeline.config.evaluation import EvaluateConfig
from pipeline.errors import UserError
from pipeline.evaluate.bootstrap import interval
from pipeline.evaluate.job import Evaluation
from pipeline.evaluate.metrics import noc
from pipeline.evaluate.request import CheckedEvaluation, identity, options
from pipeline.evaluate.results import OBJECTS, write_table
from pipeline.model.checkpoints import CheckpointInfo
from pipeline.report.blocks import to_html, to_markdown
from pipeline.report.compare import RESAMPLES, Earlier, _notes, differences, read_earlier
from pipeline.report.compared import compared_blocks
from pipeline.report.report import write_report
from tests.report_example import HOSTILE, SETTINGS, objects_table, summary_of

CFR_0 = (0, 1, False)
MODEL = {"uri": "/models/y", "sha256": "1" * 64}
Curves = dict[str, list[float]]


def made(
    curves: Curves, name: str = "set", setting: tuple[int, int, bool] = CFR_0, **options: object
) -> tuple[dict[str, Any], pa.Table]:
    """Summary and objects of an evaluation with these IoU curves, one object per image."""
    steps, refined, adaptive = setting
    entry = {"dataset": name, "cfr_steps": steps, "cfr_clicks": refined, "adaptive": adaptive}
    rows = [
        {**entry, "image_id": image, "object_id": 0, "clicks": [], "iou": iou, "forward_passes": 1, "seconds": 1.0}
        for image, iou in curves.items()
    ]
    values = {"eval.max_clicks": 5, "eval.target_iou": 0.95, "eval.full_curve": False}
    values |= {f"eval.{key}": value for key, value in options.items()}
    summary = {
        "schema_version": 1,
        "checkpoint": {"uri": "/models/x", "sha256": "0" * 64},
        "options": values,
        "data": {name: {"uri": "/data", "source": "folder"}},
        "results": [{**entry, "objects": len(rows)}],
    }
    return summary, pa.Table.from_pylist(rows, schema=OBJECTS)


def compared(here: tuple[dict[str, Any], pa.Table], there: tuple[dict[str, Any], pa.Table]) -> dict[str, Any]:
    return differences(*here, Earlier("/earlier", *there))


def save(folder: Path, evaluation: tuple[dict[str, Any], pa.Table]) -> Path:
    folder.mkdir()
    (folder / "summary.json").write_text(json.dumps(evaluation[0]))
    write_table(str(folder / "objects.parquet"), evaluation[1])
    return folder


def test_exact_values() -> None:
    here = made({"a": [0.5, 0.875, 0.96], "b": [0.96], "new": [0.1] * 5})
    there = made({"b": [0.75, 0.96], "a": [0.25, 0.5, 0.75, 0.8125, 0.9375], "old": [0.96], "older": [0.96]})
    found = compared(here, there)
    (row,) = found["results"]
    assert (row["paired"], row["only_here"], row["only_there"]) == (2, 1, 2)
    changes = {level: figure["difference"] for level, figure in row["noc"].items()}
    # a: 2 to 4, 2 to 5, 3 to 5, 3 to 5 (never); b: 1 to 2 always
    assert changes == {"80": -1.5, "85": -2.0, "90": -1.5, "95": -1.5}
    assert (row["noc"]["80"]["here"], row["noc"]["80"]["there"]) == (1.5, 3.0)
    assert (row["noc"]["80"]["low"], row["noc"]["80"]["high"]) == (-2.0, -1.0)  # the means of aa, ab, bb
    ious = {k: figure["difference"] for k, figure in row["iou_at"].items()}
    assert ious == pytest.approx({"1": (0.25 + 0.21) / 2, "3": (0.21 + 0) / 2, "5": (0.96 - 0.9375) / 2}, abs=1e-7)
    assert [(o["image_id"], o["noc_here"], o["noc_there"]) for o in row["largest"]] == [("a", 3, 5), ("b", 1, 2)]
    assert found["notes"] == []
    json.dumps(found)


def test_identical_evaluations_have_no_difference() -> None:
    objects = objects_table(np.random.default_rng(0))
    summary = summary_of(objects)
    found = differences(summary, objects, Earlier("/earlier", summary, objects))
    assert len(found["results"]) == len(summary["results"])
    for row in found["results"]:
        figures = [*row["noc"].values(), *row["iou_at"].values()]
        assert len(figures) == 7
        assert all(figure["low"] == figure["difference"] == figure["high"] == 0 for figure in figures)
        assert (row["only_here"], row["only_there"], row["largest"]) == (0, 0, [])
    assert "largest differences" not in to_markdown(compared_blocks(found, MODEL), "figures")


def test_noise_covers_zero_and_a_shift_does_not() -> None:
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 1, (400, 1))
    noise -= noise.mean() - 0.02
    low, high = interval([np.concatenate([noise, noise + 0.5], axis=1)], RESAMPLES)
    assert low[0] < 0 < high[0]
    assert 0 < low[1] < 0.52 < high[1]
    half = 1.96 * noise.std() / np.sqrt(len(noise))
    assert high - low == pytest.approx([2 * half] * 2, rel=0.05)
    assert (interval([noise], RESAMPLES) == interval([noise], RESAMPLES)).all()


@given(st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_swapping_the_two_changes_the_signs(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, two = (
        made({str(i): rng.random(rng.integers(1, 6)).tolist() for i in rng.permutation(count)}) for _ in range(2)
    )
    (a,), (b,) = compared(one, two)["results"], compared(two, one)["results"]
    for kind in ("noc", "iou_at"):
        for key, figure in a[kind].items():
            other = b[kind][key]
            assert figure["difference"] == pytest.approx(-other["difference"])
            assert [figure["low"], figure["high"]] == pytest.approx([-other["high"], -other["low"]], abs=1e-9)
            assert figure["low"] <= figure["high"]
    curves = [{row["image_id"]: row["iou"] for row in table.to_pylist()} for _, table in (one, two)]
    for level, figure in a["noc"].items():
        changes = np.array([noc(iou, int(level), 5) - noc(curves[1][i], int(level), 5) for i, iou in curves[0].items()])
        assert figure["difference"] == pytest.approx(changes.mean())
        assert changes.min() <= figure["low"] and figure["high"] <= changes.max()


def test_lower_target_and_budget_of_both() -> None:
    here = made({"a": [0.7, 0.86, 0.9, 0.96]}, max_clicks=20)
    there = made({"a": [0.6, 0.87]}, max_clicks=3, target_iou=0.85)
    found = compared(here, there)
    (row,) = found["results"]
    assert {level: figure["difference"] for level, figure in row["noc"].items()} == {"80": 0, "85": 0}
    assert row["iou_at"]["3"]["difference"] == pytest.approx(0.86 - 0.87)  # here it would have stopped at 0.86
    assert set(row["iou_at"]) == {"1", "3"}
    assert "Option eval.target_iou is 0.95 here, 0.85 there." in found["notes"]
    low = compared(here, made({"a": [0.6]}, target_iou=0.5))
    assert low["results"][0]["noc"] == {}
    assert "NoC@" not in to_markdown(compared_blocks(low, MODEL), "figures")


def test_a_full_curve_is_stopped_like_the_other() -> None:
    here = made({"a": [0.96, 0.5, 0.5, 0.5, 0.5]}, full_curve=True)
    assert compared(here, made({"a": [0.96]}))["results"][0]["largest"] == []
    assert compared(here, here)["results"][0]["iou_at"]["5"]["here"] == 0.5


def test_other_settings_and_data_sets_are_named_not_guessed() -> None:
    here, there = made({"a": [0.96]}), made({"a": [0.96]}, setting=(4, 1, False))
    found = compared(here, there)
    assert [(row["paired"], row["only_here"], row["only_there"]) for row in found["results"]] == [(0, 1, 0)]
    assert "evaluated here with CFR-0, there with CFR-4 only" in found["notes"][0]
    elsewhere = compared(here, made({"a": [0.96]}, name="other"))
    assert elsewhere["notes"] == ["The earlier evaluation has no objects of set.", "other was evaluated there only."]
    for result in (found, elsewhere):
        assert "| set | CFR-0 | 0 | 1 | 0 |" in to_markdown(compared_blocks(result, MODEL), "figures")
    unrefined = compared(here, made({"a": [0.96]}, setting=(0, 20, True)))  # CFR-0 refines nothing
    assert unrefined["results"][0]["paired"] == 1


def test_section_in_both_forms_with_hostile_names(tmp_path: Path) -> None:
    objects, earlier = (objects_table(np.random.default_rng(seed)) for seed in (0, 1))
    summary = summary_of(objects)
    other = {**summary_of(earlier), "date": HOSTILE, "options": {**summary["options"], HOSTILE: HOSTILE}}
    summary["compared"] = differences(summary, objects, Earlier(HOSTILE, other, earlier))
    assert any(o["image_id"] == HOSTILE for row in summary["compared"]["results"] for o in row["largest"])
    write_report(tmp_path, summary, objects, [])
    page, markdown = ((tmp_path / f"report.{form}").read_text() for form in ("html", "md"))
    heading = "Compared with tiny_run, step 600 (earlier)"  # the same model
    assert f"<h2>{heading}</h2>" in page and heading.replace("_", "\\_") in markdown.replace("\\(", "(")
    assert "<script>" not in page
    outside_code = re.sub(r"(`+).*?\1", "", markdown)
    assert "<script>" not in outside_code and "[x](y)" not in outside_code
    assert all(f"| difference in {name} |" in markdown for name in ("NoC@80", "NoC@95", "IoU@1", "IoU@5"))
    figure = summary["compared"]["results"][0]["noc"]["90"]
    assert f"{figure['difference']:+.2f} \\[{figure['low']:+.2f}, {figure['high']:+.2f}\\]" in markdown
    assert str(RESAMPLES) in page and len(SETTINGS) == 3


def test_marks_say_what_is_better() -> None:
    good = {str(i): [0.96] for i in range(9)}
    bad = {str(i): [0.5, 0.96] for i in range(9)}
    assert 'class="good">-1.00 [-1.00, -1.00]<' in to_html(compared_blocks(compared(made(good), made(bad)), MODEL), "x")
    page = to_html(compared_blocks(compared(made(bad), made(good)), MODEL), "x")
    assert 'class="bad">+1.00 [' in page and 'class="bad">-0.460 [' in page and 'class="good"' not in page


def test_read_back(tmp_path: Path) -> None:
    folder = save(tmp_path / "earlier", made({"a": [0.5, 0.96], HOSTILE: [0.96]}))
    earlier = read_earlier(str(folder))
    assert earlier.objects["image_id"].to_pylist() == ["a", HOSTILE]
    assert compared(made({"a": [0.96]}), (earlier.summary, earlier.objects))["results"][0]["paired"] == 1


def test_folders_that_are_no_evaluation(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folder .*/nowhere"):
        read_earlier(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"finished evaluation: it has no summary.json"):
        read_earlier(str(tmp_path))
    folder = save(tmp_path / "earlier", made({"a": [0.96]}))
    whole, table = (folder / "summary.json").read_text(), folder / "objects.parquet"
    content = json.loads(whole)
    wrong = [whole[:40], "[]", "{}", "[" * 100_000, json.dumps({**content, "schema_version": 2})]
    wrong += [json.dumps({**content, "date": "\ud800"}), json.dumps({**content, "checkpoint": {}})]
    wrong += [json.dumps({**content, "data": []}), json.dumps({**content, "options": {"eval.max_clicks": "5"}})]
    for text in wrong:
        (folder / "summary.json").write_text(text)
        with pytest.raises(UserError, match=r"summary.json \(--compare\) is not an evaluation's summary"):
            read_earlier(str(folder))
    (folder / "summary.json").write_text(whole)
    for rows in (["a", "a"], [None]):
        twice = pa.concat_tables([made({"a": [0.96]})[1]] * len(rows))
        write_table(str(table), twice.set_column(1, "image_id", pa.array(rows, pa.string())))
        with pytest.raises(UserError, match="is damaged"):
            read_earlier(str(folder))
    for curve in ([], [0.5] * 6, [1.5], [float("nan")]):
        write_table(str(table), made({"a": curve})[1])
        with pytest.raises(UserError, match="is damaged"):
            read_earlier(str(folder))
    for other in (pa.table({"a": [1]}), made({"a": [0.96]})[1].drop_columns(["iou"])):
        write_table(str(table), other)
        with pytest.raises(UserError, match="is damaged"):
            read_earlier(str(folder))
    table.unlink()
    with pytest.raises(UserError, match=r"it has no objects.parquet"):
        read_earlier(str(folder))


def test_damaged_tables_are_user_errors(tmp_path: Path) -> None:
    evaluation = made({f"image {i}": [0.5, 0.25 * (i % 4), 0.96] for i in range(50)})
    folder = save(tmp_path / "earlier", evaluation)
    file = folder / "objects.parquet"
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    for number in range(150):
        data = bytearray(whole)
        if number % 3 == 0:
            del data[rng.integers(len(data)) :]
        else:
            data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        file.write_bytes(data)
        try:
            objects = read_earlier(str(folder)).objects
        except UserError:
            continue
        assert objects.num_columns == 7
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"objects.parquet .* is damaged"):
        read_earlier(str(folder))
    assert pq.read_table(io.BytesIO(whole)).num_rows == 50


def test_the_summary_file_holds_the_comparison(tmp_path: Path) -> None:
    summary, objects = made({"a": [0.96]})
    earlier = read_earlier(str(save(tmp_path / "earlier", made({"a": [0.5, 0.96]}))))
    done = with_comparison(Evaluation(str(tmp_path / "out"), summary, objects, [], {}), earlier)
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == done.summary
    assert done.summary["compared"]["uri"] == str(tmp_path / "earlier")
    assert done.summary["compared"]["results"][0]["noc"]["95"]["difference"] == -1


def test_what_is_compared_with_is_no_part_of_the_evaluation(tmp_path: Path) -> None:
    base = EvaluateConfig(checkpoint="x", data=("a=/x",), out=str(tmp_path))
    compared = dataclasses.replace(base, compare="/nowhere")
    info = CheckpointInfo("", "cfr-icl", "", TrainConfig().model)
    first, second = (
        identity(CheckedEvaluation(config=c, out="", checkpoint=info, sources=[], settings=[]))
        for c in (base, compared)
    )
    assert first == second and options(base) == options(compared)
    with pytest.raises(UserError, match="no folder /nowhere"):
        carry_out(compared)
    with pytest.raises(UserError, match="output folder"):
        carry_out(dataclasses.replace(base, compare=f"{tmp_path}/"))


def test_other_data_under_the_same_name_is_said() -> None:
    summary = {"options": {}, "data": {"a": {"uri": "/x", "source": "s"}, "b": {"uri": "/y", "source": "s"}}}
    here, there = ({**summary, "content": {"a": mark, "b": "1"}} for mark in ("1", "2"))
    notes = _notes(here, Earlier("/e", there, OBJECTS.empty_table()))
    assert notes == ["The images or masks of a are not those of the earlier evaluation."]
    assert _notes(here, Earlier("/e", summary, OBJECTS.empty_table())) == []  # of a version that did not note it
