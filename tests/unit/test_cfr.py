"""CFR-n on one object and on many at once, with stand-in networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.clicks.encode import Click
from pipeline.config import Cfr, Eval
from pipeline.evaluate.batch import evaluate_objects
from pipeline.evaluate.cfr import Session
from pipeline.evaluate.shared import ObjectResult, Target, join_points
from tests.made import SIDE, Scripted, scene

TARGET = 0.65  # some of the scenes reach it, some do not


class Constant:
    """A network that answers run k of its life with the k-th of some masks, whatever it is asked."""

    def __init__(self, masks: list[np.ndarray]) -> None:
        self.masks, self.prev = [torch.from_numpy(m.astype(np.float32)) for m in masks], []

    def __call__(self, image: torch.Tensor, prev_mask: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        mask = self.masks[len(self.prev)]
        self.prev.append(prev_mask.clone())
        return (mask * 20 - 10).expand(len(image), 1, *mask.shape)


def square(rows: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[:rows] = True
    return mask


def one_by_one(targets: list[Target], cfr: Cfr, rules: Eval) -> list[Session]:
    sessions = []
    for target in targets:
        session, network = Session(target.image, target.truth, cfr, rules), Scripted()
        while not session.done:
            run = session.next_input()
            session.accept(network(run.image, run.prev_mask, run.points))
            if session.run_ended:
                session.end_click()
        sessions.append(session)
    return sessions


@pytest.mark.parametrize(
    ("steps", "clicks", "forwards"),
    [(0, 1, [1, 1, 1]), (2, 1, [3, 1, 1]), (2, 2, [3, 3, 1]), (3, 20, [4, 4, 4]), (2, 0, [1, 1, 1])],
)
def test_forward_passes_per_click(steps: int, clicks: int, forwards: list[int]) -> None:
    cfr = Cfr(steps=steps, clicks=clicks, crop=SIDE)
    (session,) = one_by_one([scene(1)], cfr, Eval(max_clicks=3, target_iou=1.0))
    assert session.forwards == forwards


def test_each_run_is_fed_the_map_of_the_run_before() -> None:
    masks = [square(10), square(30), square(40), square(50)]
    network = Constant(masks)
    truth = np.zeros((SIDE, SIDE), np.int8)
    truth[:60] = 1
    target = Target(0, np.zeros((SIDE, SIDE, 3), np.uint8), truth)
    cfr = Cfr(steps=1, crop=SIDE, flip=False)
    (result,) = evaluate_objects(network, [target], cfr, Eval(max_clicks=3))
    assert result.forwards == [2, 1, 1]
    assert not network.prev[0].any()
    for fed, mask in zip(network.prev[1:], masks, strict=False):
        assert torch.equal(fed[0, 0] > 0.5, torch.from_numpy(mask))


@pytest.mark.parametrize(
    ("changes", "forwards"),
    [([20, 0, 0, 0], 2), ([21, 20, 0, 0], 3), ([21, 21, 21, 21], 5), ([500, 20, 0, 0], 3)],
)
def test_adaptive_stops_when_at_most_20_pixels_changed(changes: list[int], forwards: int) -> None:
    masks = [np.zeros(SIDE * SIDE, bool)]
    masks[0][:1000] = True
    for change in changes:
        masks.append(masks[-1].copy())
        first = int(masks[-1].nonzero()[0].max()) + 1
        masks[-1][first : first + change] = True
    network = Constant([m.reshape(SIDE, SIDE) for m in masks])
    target = Target(0, np.zeros((SIDE, SIDE, 3), np.uint8), np.ones((SIDE, SIDE), np.int8))
    kept: list[np.ndarray] = []
    cfr = Cfr(steps=4, adaptive=True, crop=SIDE, flip=False)
    (result,) = evaluate_objects(
        network, [target], cfr, Eval(max_clicks=1), observe=lambda key, session: kept.append(session.mask)
    )
    assert result.forwards == [forwards]
    assert np.array_equal(kept[0], masks[forwards - 1].reshape(SIDE, SIDE))  # the newer map is returned


def test_target_and_budget_end_an_object() -> None:
    full = np.ones((SIDE, SIDE), bool)
    target = Target(0, np.zeros((SIDE, SIDE, 3), np.uint8), np.ones((SIDE, SIDE), np.int8))
    cfr = Cfr(crop=SIDE)
    (result,) = evaluate_objects(Constant([full] * 4), [target], cfr, Eval(max_clicks=4))
    assert (len(result.clicks), result.ious) == (1, [1.0])
    (result,) = evaluate_objects(Constant([full] * 4), [target], cfr, Eval(max_clicks=4, full_curve=True))
    assert (len(result.clicks), result.ious) == (4, [1.0] * 4)
    assert result.clicks[1] == Click(0, 0, False)


def test_flip_makes_a_pair_and_averages_logits() -> None:
    target = scene(3)
    session = Session(target.image, target.truth, Cfr(crop=SIDE), Eval())
    run = session.next_input()
    assert torch.equal(run.image[1], run.image[0].flip(2))
    (click,) = session.clicks
    assert run.points[:, 0].tolist() == [[click.row, click.col, 0.0], [click.row, SIDE - click.col - 1, 0.0]]
    logits = torch.zeros(2, 1, SIDE, SIDE)
    logits[0, 0, 5, 3], logits[1, 0, 5, SIDE - 4] = 6.0, 2.0
    session.accept(logits)
    assert session.probability[5, 3].item() == pytest.approx(1 / (1 + np.exp(-4.0)))


@pytest.mark.parametrize("flip", [True, False])
def test_an_input_is_the_same_in_memory_of_a_batch(flip: bool) -> None:
    """Before and after the session was cut alone at the same ROI."""
    target = scene(3)
    session = Session(target.image, target.truth, Cfr(crop=SIDE, flip=flip), Eval())
    session.look()
    count = 2 if flip else 1
    first, second = ((torch.zeros(count, 3, SIDE, SIDE), torch.ones(count, 1, SIDE, SIDE)) for _ in range(2))
    before, alone, after = session.cut(first), session.cut(), session.cut(second)
    for (images, maps), run in ((first, before), (second, after)):
        assert run.image is images and run.prev_mask is maps
        assert torch.equal(images, alone.image) and torch.equal(maps, alone.prev_mask)
        assert torch.equal(run.points, alone.points)


def test_a_click_that_leaves_the_crop_at_its_corner_may_stay_in_the_mirror_image() -> None:
    target = scene(4)
    session = Session(target.image, target.truth, Cfr(crop=SIDE, min_crop=8), Eval())
    session.accept(session.next_input().image.new_full((2, 1, SIDE, SIDE), -9.0))
    session.end_click()
    session.part[40:60, 40:60] = 1.0
    session.clicks = [Click(2, 3, False), Click(50, 50, True)]
    points = session.next_input().points
    assert (points[0, 1, :2] < 0).all()
    assert points[1, 1, 0] < 0 < points[1, 1, 1]


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_many_objects_advance_as_they_would_alone(batch_size: int, threads: int) -> None:
    targets = [scene(seed, (SIDE + seed, SIDE + 2 * seed)) for seed in range(10)]
    cfr, rules = Cfr(steps=1, adaptive=True, crop=SIDE, min_crop=24), Eval(max_clicks=6, target_iou=TARGET)
    network = Scripted()
    found: dict[int, ObjectResult] = {
        r.key: r for r in evaluate_objects(network, iter(targets), cfr, rules, batch_size, threads=threads)
    }
    alone = one_by_one(targets, cfr, rules)
    assert sorted(found) == list(range(10))
    assert len({len(session.clicks) for session in alone}) > 1
    for key, session in enumerate(alone):
        assert found[key].clicks == session.clicks
        assert found[key].ious == session.ious
        assert found[key].forwards == session.forwards
        assert found[key].rois == session.rois
    assert max(network.calls) == 2 * batch_size
    assert sum(network.calls) == 2 * sum(sum(session.forwards) for session in alone)


def test_slots_are_refilled_in_the_same_way_every_time() -> None:
    targets = [scene(seed) for seed in range(12)]
    cfr, rules = Cfr(crop=SIDE), Eval(max_clicks=5, target_iou=TARGET)
    runs = []
    for _ in range(3):
        network = Scripted()
        list(evaluate_objects(network, targets, cfr, rules, 3, threads=3))
        runs.append(network.points)
    assert all(torch.equal(a, b) for other in runs[1:] for a, b in zip(runs[0], other, strict=True))


def test_seconds_add_up() -> None:
    results = list(evaluate_objects(Scripted(), [scene(s) for s in range(4)], Cfr(crop=SIDE), Eval(max_clicks=2), 2))
    assert all(result.seconds > 0 for result in results)


def test_points_are_padded_per_polarity() -> None:
    few = torch.tensor([[[1.0, 2.0, 0.0], [3.0, 4.0, 1.0]]])
    many = torch.arange(12.0).reshape(1, 4, 3)
    joined = join_points([few, many])
    assert joined[1].tolist() == many[0].tolist()
    assert joined[0].tolist() == [[1, 2, 0], [-1, -1, -1], [3, 4, 1], [-1, -1, -1]]
