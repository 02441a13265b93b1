"""`pipeline.Predictor`: the masks of an evaluation for the same clicks, back and forth, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import Predictor
from pipeline.config import Cfr, Eval
from pipeline.data.images import decode_sample
from pipeline.data.schema import Sample
from pipeline.errors import UserError
from pipeline.evaluate.batch import evaluate_objects
from pipeline.evaluate.cfr import Replay, Session
from pipeline.evaluate.metrics import expected_iou
from pipeline.evaluate.shared import GivenClicks, Target
from tests.made import SIDE, rows_of_blobs, small_model, write_checkpoint

MODEL = small_model()
SETTINGS = {
    "cfr0": Cfr(crop=SIDE),
    "cfr2": Cfr(crop=SIDE, steps=2),
    "acfr4 on all clicks, no flip": Cfr(crop=SIDE, steps=4, clicks=20, adaptive=True, flip=False, min_crop=20),
}
CLICKS = 4
SAMPLES = [decode_sample(row) for row in rows_of_blobs(3)]


class Counted:
    """A network that counts its passes."""

    def __init__(self) -> None:
        self.passes = 0

    def __call__(self, image: torch.Tensor, prev_mask: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        return MODEL(image, prev_mask, points)


def evaluated(cfr: Cfr) -> dict[tuple[str, int], list[tuple[Any, np.ndarray]]]:
    """Of every object the clicks of an evaluation, each with the mask and the map after it."""
    found: dict[tuple[str, int], list[tuple[Any, np.ndarray]]] = {}

    def keep(key: tuple[str, int], session: Session | Replay) -> None:
        masks = found.setdefault(key, [])
        masks.append((session.clicks[len(masks)], session.mask.copy()))

    targets = [Target((s.image_id, k), s.image, s.target(k)) for s in SAMPLES for k in range(len(s.objects))]
    list(evaluate_objects(MODEL, targets, cfr, Eval(max_clicks=CLICKS, full_curve=True), observe=keep))
    return found


def points(clicks: list[Any]) -> tuple[list[list[float]], list[int]]:
    return [[c.col, c.row] for c in clicks], [int(c.positive) for c in clicks]


@pytest.mark.parametrize("name", SETTINGS)
def test_every_way_to_click_gives_the_masks_of_the_evaluation(name: str) -> None:
    cfr = SETTINGS[name]
    images = {s.image_id: s.image for s in SAMPLES}
    lists: dict[str, list[list[Any]]] = {}
    last: dict[str, list[np.ndarray]] = {}
    for (image_id, _), steps in evaluated(cfr).items():
        one, other = Predictor(MODEL, cfr), Predictor(MODEL, cfr)
        one.set_image(images[image_id])
        other.set_image(images[image_id])
        for number, (click, mask) in enumerate(steps, 1):
            assert np.array_equal(one.click(click.col, click.row, click.positive), mask)
            masks, _, _ = other.predict(*points([c for c, _ in steps[:number]]))
            assert np.array_equal(masks, mask[None])
        lists.setdefault(image_id, []).append([c for c, _ in steps])
        last.setdefault(image_id, []).append(steps[-1][1])
    for image_id, clicks in lists.items():
        several = Predictor(MODEL, cfr)
        several.set_image(images[image_id])
        coords, labels = zip(*map(points, clicks), strict=True)
        masks, scores, logits = several.predict_objects(coords, labels)
        assert np.array_equal(masks[:, 0], np.stack(last[image_id]))
        assert (scores.shape, logits.shape) == ((len(clicks), 1), masks.shape)
        assert several.clicks == []


@pytest.mark.parametrize("tensor_clicks", [False, True])
def test_given_clicks_share_batches_with_others(tensor_clicks: bool) -> None:
    """Objects with different numbers of clicks, some simulated: all end, each with its own clicks."""
    truth = SAMPLES[0].target(0)
    clicks = [step[0] for step in evaluated(SETTINGS["cfr2"])[(SAMPLES[1].image_id, 0)]]
    targets = [
        GivenClicks("one", SAMPLES[1].image, clicks[:1]),
        Target("simulated", SAMPLES[0].image, truth),
        GivenClicks("all", SAMPLES[1].image, clicks),
    ]
    rules = Eval(max_clicks=3)
    found = {r.key: r for r in evaluate_objects(MODEL, targets, Cfr(crop=SIDE), rules, 2, tensor_clicks=tensor_clicks)}
    assert found["one"].clicks == clicks[:1]
    assert found["all"].clicks == clicks
    assert found["all"].ious == []
    assert 1 <= len(found["simulated"].ious) <= 3


@settings(max_examples=10, deadline=None)
@given(st.lists(st.one_of(st.none(), st.tuples(st.integers(0, 999), st.integers(0, 999), st.booleans())), max_size=8))
def test_undo_is_exact(steps: list[tuple[int, int, bool] | None]) -> None:
    predictor = Predictor(MODEL, SETTINGS["cfr2"])
    predictor.set_image(SAMPLES[0].image)
    height, width = SAMPLES[0].image.shape[:2]
    stack: list[np.ndarray] = [predictor.probability]
    for step in steps:
        if step is None:
            predictor.undo()
            stack = stack[:-1] or stack
        else:
            predictor.click(step[0] % width, step[1] % height, step[2])
            stack.append(predictor.probability)
        assert np.array_equal(predictor.probability, stack[-1])
        assert np.array_equal(predictor.mask, stack[-1] > predictor.cfr.threshold)
        assert len(predictor.clicks) == len(stack) - 1


def test_a_longer_list_costs_its_new_clicks() -> None:
    network = Counted()
    predictor = Predictor(network, Cfr(crop=SIDE))
    predictor.set_image(SAMPLES[0].image)
    clicks = [[20, 20], [30, 30], [40, 40]]
    predictor.predict(clicks[:2], [1, 0])
    assert network.passes == 2
    whole = predictor.predict(clicks, [1, 0, 1])
    assert network.passes == 3
    predictor.predict([clicks[0], clicks[2]], [1, 1])  # what they have in common is not made again
    assert network.passes == 4
    again = predictor.predict(clicks, [1, 0, 1])
    assert network.passes == 6
    assert all(np.array_equal(a, b) for a, b in zip(whole, again, strict=True))


def test_mask_input_is_the_previous_map() -> None:
    predictor = Predictor(MODEL, Cfr(crop=SIDE))
    predictor.set_image(SAMPLES[0].image)
    _, _, logits = predictor.predict([[20, 20]], [1])
    plain, _, _ = predictor.predict([[40, 40]], [1])
    masks, scores, onward = predictor.predict([[40, 40]], [1], mask_input=logits)
    assert masks.shape == logits.shape == onward.shape
    assert not np.array_equal(onward, logits)
    first = predictor.probability
    predictor.click(5, 5, False)
    predictor.undo()
    assert np.array_equal(predictor.probability, first)
    predictor.undo()
    np.testing.assert_allclose(predictor.probability, 1 / (1 + np.exp(-logits[0])), atol=1e-6)
    predictor.predict([[40, 40]], [1], mask_input=logits)
    there = predictor.click(5, 5, False)
    further = predictor.probability
    predictor.undo()
    on, _, _ = predictor.predict([[40, 40], [5, 5]], [1, 0], mask_input=onward)  # from the map as it is
    assert np.array_equal(on[0], there) and np.array_equal(predictor.probability, further)
    on[:] = ~on  # an answer is the caller's own
    assert np.array_equal(predictor.mask, there)
    assert np.array_equal(predictor.predict([[40, 40]], [1])[0], plain)  # a call without it begins anew
    shown, _, _ = predictor.predict([[40, 40]], [1], return_logits=True)
    assert shown.dtype == np.float32
    assert 0 <= scores[0] <= 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p.click(SIDE * 9, 3), "outside of the image"),
        (lambda p: p.click(-1, 3), "outside of the image"),
        (lambda p: p.predict(), "no click"),
        (lambda p: p.predict([[1, 2]], [1, 0]), r"are \(1, 2\) and \(2,\)"),
        (lambda p: p.predict([[1, 2]], [2]), "1 .positive. or 0"),
        (lambda p: p.predict([[1, 2]], [1], box=[0, 0, 5, 5]), "click the middle"),
        (lambda p: p.predict([[1, 2]], [1], multimask_output=True), "multimask_output=False"),
        (lambda p: p.predict([[1, 2]], [1], mask_input=np.zeros((1, 256, 256), np.float32)), "mask_input is"),
        (lambda p: p.predict([[1, 2]], [1], mask_input=np.full((1, SIDE, SIDE), np.nan)), "NaN"),
        (lambda p: p.predict_objects([[[1, 2]]], []), "1 objects have point_coords and 0"),
        (lambda p: p.set_image(np.zeros((4, 4), np.uint8)), r"\(H, W, 3\) uint8 RGB; this one is \(4, 4\)"),
        (lambda p: p.set_image(np.zeros((4, 4, 3), np.float32)), "float32"),
        (lambda p: p.set_image(b"no image"), "does not decode"),
        (lambda p: p.set_image("nowhere.jpg"), "no image nowhere.jpg"),
        (lambda p: p.set_image(7), "not int"),
        (lambda p: p.set_image(np.zeros((4, 4, 3), np.uint8), "HSV"), "RGB or BGR"),
        (lambda p: p.new().click(1, 1), "set_image first"),
    ],
)
def test_what_is_refused_says_what_to_do(call: Any, message: str) -> None:
    predictor = Predictor(MODEL, Cfr(crop=SIDE))
    predictor.set_image(np.zeros((SIDE, SIDE, 3), np.uint8))
    before = predictor.click(10, 10)
    with pytest.raises(UserError, match=message):
        call(predictor)
    assert np.array_equal(predictor.mask, before)


def test_options_of_load() -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"treshold": 0.4}, "Did you mean 'threshold'"),
        ({"device": "tpu9"}, "device is auto, cpu or cuda"),
        ({"device": "cuda:7"}, "no GPU cuda:7"),
        ({"precision": "fp8"}, "precision is fp32"),
        ({"crop": 50}, "multiple of the network's patch"),
        ({"cfr_steps": -1}, "must be >= 0"),
        ({"checkpoint": "/nothing"}, "no checkpoint"),
    ]
    for options, message in wrong:
        with pytest.raises((UserError, ValueError), match=message):
            Predictor.load(**{"checkpoint": "small", **options})


def test_load_from_a_folder(tmp_path: Path) -> None:
    predictor = Predictor.load(write_checkpoint(tmp_path / "checkpoint"), cfr_steps=1, adaptive=True)
    assert (predictor.cfr.crop, predictor.cfr.steps, predictor.cfr.adaptive) == (SIDE, 1, True)
    assert predictor.info is not None and predictor.info.step == 7


def test_threads_with_predictors_of_their_own() -> None:
    first = Predictor(MODEL, SETTINGS["cfr2"])

    def masks(sample: Sample) -> list[np.ndarray]:
        predictor = first.new()
        predictor.set_image(sample.image)
        return [predictor.click(x, y).copy() for x in range(8, SIDE, 20) for y in range(8, SIDE, 20)]

    want = list(map(masks, SAMPLES))
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(masks, SAMPLES))
    for one, other in zip(found, want, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_pass_that_fails_leaves_the_object_as_it_was() -> None:
    class Failing(Counted):
        def __call__(self, image: torch.Tensor, prev_mask: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
            if self.passes == 2:
                raise RuntimeError("out of memory")
            return super().__call__(image, prev_mask, points)

    network = Failing()
    predictor = Predictor(network, Cfr(crop=SIDE))
    predictor.set_image(SAMPLES[0].image)
    predictor.click(10, 10)
    before = predictor.click(20, 20)
    with pytest.raises(RuntimeError, match="out of memory"):
        predictor.click(30, 30)
    assert len(predictor.clicks) == 2
    assert np.array_equal(predictor.mask, before)


def test_expected_iou() -> None:
    probability = np.array([[1.0, 1.0, 0.0, 0.5]], np.float32)
    assert expected_iou(probability, np.array([[True, True, False, False]])) == 2 / 2.5
    assert expected_iou(np.zeros((2, 2), np.float32), np.zeros((2, 2), bool)) == 1.0


def test_the_package_is_imported_at_once_and_the_predictor_without_engines() -> None:
    code = """
import sys
from concurrent.futures import ThreadPoolExecutor
import pipeline
heavy = {"torch", "ray", "mlflow", "numpy", "boto3"} & set(sys.modules)
assert not heavy, heavy
predictor = pipeline.Predictor.load("small")
heavy = {"ray", "mlflow", "boto3", "timm.models", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
try:
    pipeline.Predicter
except AttributeError as error:
    assert "Predicter" in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True)
