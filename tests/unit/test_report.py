"""What the report says, that it escapes everything, and which objects it shows."""

from __future__ import annotations

import dataclasses
import html
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.evaluate.results import OBJECTS
from pipeline.evaluate.setting import Setting
from pipeline.report.report import pick_objects, write_report
from tests.report_example import HOSTILE, SETTINGS, SIZES, objects_table, pictures_of, summary_of


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], dict[str, bytes]]:
    rng = np.random.default_rng(0)
    objects = objects_table(rng)
    summary = summary_of(objects)
    out = tmp_path_factory.mktemp("report")
    return out, summary, write_report(out, summary, objects, pictures_of(objects, rng))


class Page(HTMLParser):
    """Tags, attributes and text of a page; knows whether tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_files(example: tuple[Path, dict[str, Any], dict[str, bytes]]) -> None:
    out, _, files = example
    assert {Path(p).name for p in files} >= {"report.md", "report.html", "iou.png", "noc.png", "refinement.png"}
    assert all((out / name).read_bytes() == data for name, data in files.items())
    linked = re.findall(r"\]\((report-figures/[^)]+)\)", (out / "report.md").read_text())
    assert len(linked) == len(files) - 2
    assert all((out / name).is_file() for name in linked)


def test_page_is_whole_and_asks_for_nothing(example: tuple[Path, dict[str, Any], dict[str, bytes]]) -> None:
    page = Page((example[0] / "report.html").read_text())
    assert page.open == []
    names = [tag for tag, _ in page.tags]
    assert not {"script", "link", "iframe", "object", "base"} & set(names)
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        assert (attributes.get("src") or "data:image/").startswith("data:image/")
    assert names.count("img") == 3 + 10
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")


def test_hostile_text_is_shown_as_it_is(example: tuple[Path, dict[str, Any], dict[str, bytes]]) -> None:
    page = Page((example[0] / "report.html").read_text())
    assert page.text.count(HOSTILE) >= 2  # the command and a reason of rejection
    markdown = (example[0] / "report.md").read_text()
    outside_code = re.sub(r"(`+).*?\1", "", markdown)
    assert "<script>" not in outside_code and "[x](y)" not in outside_code


def test_figures_are_those_of_the_summary(example: tuple[Path, dict[str, Any], dict[str, bytes]]) -> None:
    out, summary, _ = example
    markdown = (out / "report.md").read_text()
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in markdown.splitlines() if line.startswith("|")]
    head = next(line for line in lines if "NoC@80" in line)
    rows = [dict(zip(head, line, strict=True)) for line in lines if len(line) == len(head) and line[1][:3] == "CFR"]
    assert len(rows) == len(SIZES) * len(SETTINGS)
    for row, result in zip(rows, summary["results"], strict=True):
        assert row["setting"] == Setting.of(result).name
        assert row["NoC@90"] == f"{result['noc']['90']:.2f}"
        assert row["NoF@95"] == str(result["nof"]["95"])
        assert row["IoU@5"] == f"{result['mean_iou'][4]:.3f}"
        assert row["s/click"] == f"{result['seconds_per_click']:.3f}"
    for expected in ("ab" * 32, "c" * 40, "2026-01-31T12:00:00Z", "uncommitted", "not run", "image does not decode"):
        assert expected in markdown


def test_reasons_stand_under_the_pictures_and_masks_are_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    objects = objects_table(rng)
    pictures = [dataclasses.replace(p, why=("never reached IoU 0.90", HOSTILE)) for p in pictures_of(objects, rng)]
    summary = {**summary_of(objects), "masks": {"masks/grabcut/cfr0": 14}}
    write_report(tmp_path, summary, objects, pictures)
    page, markdown = (tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()
    assert page.count(f"Never reached IoU 0.90; {html.escape(HOSTILE)}.</span>") == len(pictures)
    assert "<script>" not in page and "Never reached IoU 0.90; \\<script\\>" in markdown
    assert "| masks/grabcut/cfr0 | 14 |" in markdown
    assert "<h1>Evaluation of tiny_run, step 600</h1>" in page


def test_levels_above_the_target_and_empty_sets_are_dashes(tmp_path: Path) -> None:
    objects = objects_table(np.random.default_rng(1))
    summary = summary_of(objects)
    for row in summary["results"]:
        row["noc"] = {"80": 1.0}
        row["nof"] = {"80": 0}
    empty = {"dataset": "none", "cfr_steps": 0, "cfr_clicks": 1, "adaptive": False, "crop": 448, "objects": 0}
    summary["results"].append(empty)
    summary["rejected"] = {}
    write_report(tmp_path, summary, objects, [])
    markdown = (tmp_path / "report.md").read_text()
    assert "| none | CFR-0 | 0 | – |" in markdown
    assert "No image and no object was set aside" in markdown
    assert "IoU 80 %" in markdown
    assert "Worst objects" not in markdown


def test_an_evaluation_without_objects_still_reports(tmp_path: Path) -> None:
    objects = objects_table(np.random.default_rng(1))
    summary = summary_of(objects)
    summary["results"] = [{**summary["results"][0], "objects": 0, "noc": {}, "nof": {}, "mean_iou": []}]
    write_report(tmp_path, summary, objects.slice(0, 0), [])
    assert "Plots" not in (tmp_path / "report.md").read_text()


def test_picked_objects() -> None:
    objects = objects_table(np.random.default_rng(3))
    worst, typical = pick_objects(objects, worst=4, typical=3)
    assert [len(worst), len(typical)] == [4, 3]
    assert {row["cfr_steps"] for row in worst + typical} == {4}
    assert {row["dataset"] for row in worst} == set(SIZES)
    keys = [(row["dataset"], row["image_id"], row["object_id"]) for row in worst + typical]
    assert len(set(keys)) == 7

    def score(row: dict[str, Any]) -> float:
        return float(np.mean([*row["iou"], *[row["iou"][-1]] * (20 - len(row["iou"]))]))

    assert [score(r) for r in worst] == sorted(score(r) for r in worst)
    rows = [r for r in objects.to_pylist() if (r["dataset"], r["cfr_steps"]) == ("grabcut", 4)]
    assert min(score(r) for r in rows) == min(score(r) for r in worst if r["dataset"] == "grabcut")


def test_picking_from_few_or_none() -> None:
    assert pick_objects(pa.Table.from_pylist([], schema=OBJECTS)) == ([], [])
    few = objects_table(np.random.default_rng(3)).slice(0, 2)
    worst, typical = pick_objects(few)
    assert [len(worst), len(typical)] == [2, 0]


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ((0, 1, False), "CFR-0"),
        ((4, 1, False), "CFR-4"),
        ((4, 1, True), "A-CFR-4"),
        ((2, 20, False), "CFR-2 on 20 clicks"),
    ],
)
def test_setting_names(setting: tuple[int, int, bool], name: str) -> None:
    assert Setting(*setting).name == name
