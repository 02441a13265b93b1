"""A claim counts as measured only when everything about the measurement is as published."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from pipeline.report.claims import CLAIMS, Identity, compare, identify

HUGE = {"patch": 14, "dim": 1280, "depth": 32}


def published(name: str, model: dict[str, int] | None = None) -> dict[str, Any]:
    return {"uri": f"s3://weights/{name}", "format": "published", "sha256": "a" * 64, "model": model or HUGE}


def summary(dataset: str = "berkeley", objects: int = 100, noc: float = 1.48, **changes: Any) -> dict[str, Any]:
    row = {"dataset": dataset, "cfr_steps": 1, "cfr_clicks": 1, "adaptive": False, "crop": 448, "objects": objects}
    return {
        "checkpoint": published("cocolvis_icl_vit_huge.pth"),
        "mlflow_run": "run1",
        "options": {"cfr.threshold": 0.49, "eval.max_clicks": 20},
        "results": [{**row, "noc": {"90": noc, "95": noc}, **changes}],
    }


def statuses(made: dict[str, Any]) -> dict[tuple[str, str, str], str]:
    rows = compare(CLAIMS, made)
    return {(r.claim.benchmark, r.claim.model.system, r.claim.model.trained_on): r.status for r in rows}


def test_the_table_is_the_papers() -> None:
    table = {(c.benchmark, c.model.system, c.model.trained_on, c.cfr_steps, c.level): c.value for c in CLAIMS}
    assert table == {
        ("Berkeley", "ICL", "C+L", 1, 90): 1.46,
        ("DAVIS", "ICL", "C+L", 1, 90): 4.24,
        ("GrabCut", "SimpleClick", "SBD", 1, 90): 1.32,
        ("GrabCut", "ICL", "SBD", 1, 90): 1.42,
        ("PASCAL VOC", "ICL", "C+L", 1, 95): 2.45,
        ("SBD", "SimpleClick", "SBD", 1, 90): 4.08,
    }
    assert {c.model.variant for c in CLAIMS} == {"ViT-H"}


def test_a_matching_result_is_judged_and_the_rest_is_not_run() -> None:
    found = statuses(summary())
    assert found.pop(("Berkeley", "ICL", "C+L")) == "verified"
    assert set(found.values()) == {"not run"}
    row = compare(CLAIMS, summary())[0]
    assert (row.measured, row.objects, row.sha256, row.run) == (1.48, 100, "a" * 64, "run1")


@pytest.mark.parametrize(
    ("noc", "status"), [(1.41, "verified"), (1.51, "verified"), (1.40, "not verified"), (1.52, "not verified")]
)
def test_tolerance(noc: float, status: str) -> None:
    assert compare(CLAIMS, summary(noc=noc))[0].status == status


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"objects": 99}, "99 objects evaluated, the benchmark has 100"),
        ({"cfr_steps": 0}, "no CFR-1 result on Berkeley"),
        ({"cfr_clicks": 20}, "first click only"),
        ({"adaptive": True}, "first click only"),
        ({"crop": 672}, "672 px"),
        ({"dataset": "my-photos"}, "no CFR-1 result on Berkeley"),
    ],
)
def test_another_measurement_does_not_count(changes: dict[str, Any], note: str) -> None:
    row = compare(CLAIMS, summary(**changes))[0]
    assert (row.status, row.measured) == ("not run", None)
    assert note in row.note


def test_a_lower_target_does_not_count() -> None:
    made = summary()
    made["results"][0]["noc"] = {"80": 1.2}
    assert "not clicked up to IoU 90 %" in compare(CLAIMS, made)[0].note


@pytest.mark.parametrize(("name", "value"), [("cfr.threshold", 0.5), ("cfr.flip", False), ("eval.max_clicks", 30)])
def test_other_options_do_not_count(name: str, value: object) -> None:
    made = summary()
    made["options"][name] = value
    row = compare(CLAIMS, made)[0]
    assert row.status == "not run" and name in row.note


def test_another_model_does_not_count() -> None:
    made = summary()
    made["checkpoint"] = published("sbd_icl_vit_huge.pth")
    row = compare(CLAIMS, made)[0]
    assert row.status == "not run" and "ICL ViT-H trained on SBD" in row.note
    made["checkpoint"] = published("renamed.pth")
    assert "not one of the published models" in compare(CLAIMS, made)[0].note


def test_a_benchmark_is_known_by_its_source() -> None:
    made = summary(dataset="b")
    assert compare(CLAIMS, made)[0].status == "not run"
    made["data"] = {"b": {"uri": "/x", "source": "berkeley"}}
    assert compare(CLAIMS, made)[0].status == "verified"
    named = summary()
    named["data"] = {"berkeley": {"uri": "/x", "source": "folder"}}  # somebody's own images under that name
    assert compare(CLAIMS, named)[0].status == "not run"


def test_the_full_benchmark_wins_over_a_part_of_it() -> None:
    made = summary()
    part = copy.deepcopy(made["results"][0])
    made["results"].insert(0, {**part, "objects": 5, "noc": {"90": 9.0}})
    assert compare(CLAIMS, made)[0].measured == 1.48


@pytest.mark.parametrize(
    ("name", "model", "expected"),
    [
        ("cocolvis_icl_vit_huge.pth", HUGE, Identity("ICL", "ViT-H", "C+L")),
        ("sbd_vit_huge.pth", HUGE, Identity("SimpleClick", "ViT-H", "SBD")),
        ("cocolvis_vit_base.pth", {"patch": 16, "dim": 768, "depth": 12}, Identity("SimpleClick", "ViT-B", "C+L")),
        ("cocolvis_vit_huge.pth", {"patch": 16, "dim": 768, "depth": 12}, None),
        ("tiny.pth", {"patch": 16, "dim": 128, "depth": 4}, None),
        ("sbd_cocolvis_vit_huge.pth", HUGE, None),
    ],
)
def test_published_files_are_known_by_name_and_shape(
    name: str, model: dict[str, int], expected: Identity | None
) -> None:
    assert identify(published(name, model)) == expected


def test_our_checkpoints_are_known_by_their_recipe() -> None:
    ours = {"uri": "/runs/sbd_vit_huge", "format": "cfr-icl", "sha256": "", "model": HUGE}
    assert identify({**ours, "recipe": None}) is None
    assert identify({**ours, "recipe": "icl_huge_cocolvis"}) == Identity("ICL", "ViT-H", "C+L")
    assert identify({**ours, "recipe": "huge_cocolvis"}) is None
