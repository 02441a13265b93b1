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
from pipeline.evaluate.batch import evaluate_objects, evaluate_settings
from pipeline.evaluate.cfr import Replay, Session
from pipeline.evaluate.metrics import IOU_LEVELS, noc, summarize
from pipeline.evaluate.shared import ObjectResult, SharedResult, Target
from pipeline.evaluate.zoom import Box
from pipeline.model.checkpoints import load_model

pytestmark = pytest.mark.slow

SETTINGS = [("cf0", "cf1", "cf4", "acf4", "cf2_20"), ("acf4_672",)]  # those of a tuple were recorded on the same images
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


def evaluate(
    golden: Path, name: str, batch_size: int, only: int | None = None, device: str = "cpu", tensors: bool | None = None
) -> Run:
    """Evaluate the first `only` objects of a recorded setting (default all)."""
    recorded, cfr = recorded_setting(golden, name)
    rules = recorded_rules(golden)
    maps: dict[str, list[tuple[float, int]]] = {}

    def note(key: str, session: Session | Replay) -> None:
        maps.setdefault(key, []).append((float(session.probability.mean()), int(session.mask.sum())))

    targets = (target(golden, result["image"]) for result in recorded["results"][:only])
    asked = (model(golden, device), targets, cfr, rules, batch_size, device)
    found = {r.key: r for r in evaluate_objects(*asked, observe=note, tensor_clicks=tensors)}
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


@cache
def together(golden: Path, names: tuple[str, ...], device: str) -> tuple[dict[str, Run], list[SharedResult]]:
    """Settings recorded on the same images, at once, sharing passes; results equal those alone (`test_shared`)."""
    settings = {name: recorded_setting(golden, name) for name in names}
    images = [result["image"] for result in settings[names[0]][0]["results"]]
    assert all([result["image"] for result in recorded["results"]] == images for recorded, _ in settings.values())
    maps: dict[str, dict[str, list[tuple[float, int]]]] = {name: {} for name in settings}

    def note(key: tuple[str, str], session: Session | Replay) -> None:
        image, name = key
        maps[name].setdefault(image, []).append((float(session.probability.mean()), int(session.mask.sum())))

    targets, asked = (target(golden, image) for image in images), {name: cfr for name, (_, cfr) in settings.items()}
    rules = recorded_rules(golden)
    found = list(evaluate_settings(model(golden, device), targets, asked, rules, device=device, observe=note))
    runs: dict[str, Run] = {}
    for name, (recorded, _) in settings.items():
        results = {one.key: result for one in found if (result := one.settings[name].result)}
        runs[name] = Run(recorded, results, maps[name])
    return runs, found


@pytest.mark.parametrize("name", [name for names in SETTINGS for name in names])
def test_every_setting(golden: Path, name: str, device: str) -> None:
    run = together(golden, next(names for names in SETTINGS if name in names), device)[0][name]
    assert list(run.recorded["results"][0]["noc"]) == LEVELS
    assert len(run.found) == len(run.recorded["results"])
    compare(run)
    compare_means(run)


def test_settings_share_passes(golden: Path, device: str) -> None:
    found = together(golden, SETTINGS[0], device)[1]
    assert sum(one.computed for one in found) < sum(one.separate for one in found)


@pytest.mark.parametrize("tensors", [False, True])
def test_in_batches(golden: Path, device: str, tensors: bool) -> None:
    """Objects that share forward passes; a slot is refilled, as one of them ends before the others."""
    run = evaluate(golden, "cf1", batch_size=3, only=7, device=device, tensors=tensors)
    assert len(run.found) == 7
    compare(run)


def test_thresholds(golden: Path) -> None:
    assert evaluation(golden)["iou_thresholds"] == np.arange(0.8, 0.951, 0.05).tolist()
    zoom_in, cfr = evaluation(golden)["zoom"], Cfr()
    assert cfr.threshold == evaluation(golden)["pred_thr"]
    assert (cfr.expansion, cfr.min_crop) == (zoom_in["expansion_ratio"], zoom_in["min_crop_size"])
    assert (cfr.recompute_iou, cfr.zoom_threshold) == (zoom_in["recompute_thresh_iou"], zoom_in["prob_thresh"])
