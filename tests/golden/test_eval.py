"""Full evaluations equal those of the original code, click by click, as far as it reproduces itself."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from pipeline.config import Cfr, Eval
from pipeline.evaluate.batch import evaluate_objects
from pipeline.evaluate.cfr import Session
from pipeline.evaluate.metrics import IOU_LEVELS, noc, summarize
from pipeline.evaluate.shared import ObjectResult, Target, evaluate_shared
from pipeline.evaluate.zoom import Box
from pipeline.model.checkpoints import load_model

pytestmark = pytest.mark.slow

LEVELS = [str(level) for level in IOU_LEVELS]


@dataclass(frozen=True)
class Run:
    """One setting evaluated: what was recorded, what was found, and per object and click (mean probability, pixels)."""

    recorded: dict[str, Any]
    found: dict[str, ObjectResult]
    maps: dict[str, list[tuple[float, int]]]


@cache
def evaluation(golden: Path) -> dict[str, Any]:
    return json.loads((golden / "eval.json").read_text())


@cache
def model(golden: Path, device: str = "cpu") -> torch.nn.Module:
    return load_model(str(golden / "tiny.pth"), device)[0]


def target(golden: Path, image: str) -> Target:
    picture = cv2.imread(str(golden / "eval" / "images" / image), cv2.IMREAD_COLOR_RGB)
    mask = cv2.imread(str(golden / "eval" / "masks" / f"{Path(image).stem}.png"), cv2.IMREAD_GRAYSCALE)
    assert picture is not None and mask is not None
    return Target(image, picture, np.select([mask == 128, mask == 255], [-1, 1], 0).astype(np.int8))


def recorded_setting(golden: Path, name: str) -> tuple[dict[str, Any], Cfr]:
    """What was recorded of a setting, and the setting."""
    recorded = next(s for s in evaluation(golden)["settings"] if s["name"] == name)
    assert evaluation(golden)["flip"] is True
    return recorded, Cfr(
        steps=recorded["cf_n"],
        clicks=recorded["cascade_clicks"],
        adaptive=recorded["adaptive"],
        crop=recorded["target_size"][0],
    )


def recorded_rules(golden: Path) -> Eval:
    return Eval(max_clicks=evaluation(golden)["max_clicks"], target_iou=evaluation(golden)["target_iou"])


def evaluate(golden: Path, name: str, batch_size: int, only: int | None = None, device: str = "cpu") -> Run:
    """Evaluate the first `only` objects of a recorded setting (default all)."""
    recorded, cfr = recorded_setting(golden, name)
    rules = recorded_rules(golden)
    maps: dict[str, list[tuple[float, int]]] = {}

    def note(key: str, session: Session) -> None:
        maps.setdefault(key, []).append((float(session.probability.mean()), int(session.mask.sum())))

    targets = (target(golden, result["image"]) for result in recorded["results"][:only])
    found = {
        r.key: r for r in evaluate_objects(model(golden, device), targets, cfr, rules, batch_size, device, observe=note)
    }
    assert list(recorded["results"][0]["noc"]) == LEVELS
    return Run(recorded, found, maps)


def compare(run: Run) -> None:
    """Object by object, up to the number of clicks that the original repeats under rounding noise."""
    for expected in run.recorded["results"]:
        image = expected["image"]
        if image not in run.found:
            continue
        found, stable = run.found[image], min(expected["stable_clicks"].values())
        clicks = [[click.row, click.col, click.positive] for click in found.clicks[:stable]]
        assert clicks == expected["clicks"][:stable], image
        np.testing.assert_allclose(found.ious[:stable], expected["ious"][:stable], atol=1e-3, err_msg=image)
        assert found.rois[:stable] == [Box(*roi) for roi in expected["roi"][:stable]], image
        assert found.forwards[:stable] == expected["forwards"][:stable], image
        means, pixels = np.array(run.maps[image][:stable]).T
        np.testing.assert_allclose(means, expected["prob_mean"][:stable], atol=1e-4, err_msg=image)
        np.testing.assert_allclose(pixels, expected["pred_area"][:stable], rtol=1e-3, atol=20, err_msg=image)
        if stable == len(expected["clicks"]):
            assert len(found.clicks) == stable, image
            assert [noc(found.ious, level, 20) for level in IOU_LEVELS] == [expected["noc"][q] for q in LEVELS], image


def compare_means(run: Run) -> None:
    """NoC of the data set within the spread of the original's own perturbed runs."""
    figures = summarize([result.ious for result in run.found.values()], max_clicks=20, target_iou=0.95)
    for i, level in enumerate(LEVELS):
        own = [run.recorded["noc"][level], *(noise[i] for noise in run.recorded["noc_perturbed"].values())]
        assert min(own) - 1e-9 <= figures["noc"][level] <= max(own) + 1e-9, level
    assert figures["nof"] == run.recorded["failures"]
    assert figures["noc_std"] == pytest.approx(run.recorded["noc_std"])


@pytest.mark.parametrize("name", ["cf0", "cf1", "cf4", "acf4", "cf2_20", "acf4_672"])
def test_every_setting(golden: Path, name: str, device: str) -> None:
    run = evaluate(golden, name, batch_size=1, device=device)
    assert len(run.found) == len(run.recorded["results"])
    compare(run)
    compare_means(run)


def test_in_batches(golden: Path, device: str) -> None:
    """Objects that share forward passes; a slot is refilled, as one of them ends before the others."""
    run = evaluate(golden, "cf1", batch_size=3, only=7, device=device)
    assert len(run.found) == 7
    compare(run)


def test_settings_together(golden: Path) -> None:
    """All settings of one crop at once, sharing forward passes."""
    settings = {name: recorded_setting(golden, name) for name in ("cf0", "cf1", "cf4", "acf4", "cf2_20")}
    asked = {name: cfr for name, (_, cfr) in settings.items()}
    maps: dict[str, dict[str, list[tuple[float, int]]]] = {name: {} for name in settings}

    def note(key: tuple[str, str], session: Session) -> None:
        image, name = key
        maps[name].setdefault(image, []).append((float(session.probability.mean()), int(session.mask.sum())))

    targets = [target(golden, result["image"]) for result in settings["cf0"][0]["results"][:2]]
    found = list(evaluate_shared(model(golden), targets, asked, recorded_rules(golden), observe=note))
    for name, (recorded, _) in settings.items():
        results = {one.key: result for one in found if (result := one.settings[name].result)}
        assert len(results) == 2
        compare(Run(recorded, results, maps[name]))
    assert sum(one.computed for one in found) < sum(one.separate for one in found)


def test_thresholds(golden: Path) -> None:
    assert evaluation(golden)["iou_thresholds"] == np.arange(0.8, 0.951, 0.05).tolist()
    zoom_in, cfr = evaluation(golden)["zoom"], Cfr()
    assert cfr.threshold == evaluation(golden)["pred_thr"]
    assert (cfr.expansion, cfr.min_crop) == (zoom_in["expansion_ratio"], zoom_in["min_crop_size"])
    assert (cfr.recompute_iou, cfr.zoom_threshold) == (zoom_in["recompute_thresh_iou"], zoom_in["prob_thresh"])
