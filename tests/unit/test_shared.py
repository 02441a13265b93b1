"""One object under many settings: the results of each alone, with fewer forward passes, counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.clicks.batched import Ended, next_clicks
from pipeline.clicks.encode import Click
from pipeline.config import Cfr, Eval
from pipeline.evaluate import ended
from pipeline.evaluate.batch import evaluate_objects, evaluate_settings
from pipeline.evaluate.cfr import Replay, Session
from pipeline.evaluate.shared import Network, ObjectResult, SharedResult, Target
from tests.made import SIDE, Scripted, scene, small_model

BASE = Cfr(crop=SIDE, min_crop=24)


def alone(model: Network, target: Target, cfr: Cfr, rules: Eval) -> ObjectResult:
    (result,) = evaluate_objects(model, [target], cfr, rules)
    return result


def by_key(found: Iterable[SharedResult]) -> list[SharedResult]:
    return sorted(found, key=lambda one: one.key)


def check(model: Network, targets: Sequence[Target], asked: Mapping[str, Cfr], rules: Eval) -> list[SharedResult]:
    """Shared results equal those of each setting alone, to the bit; the counts add up."""
    found = by_key(evaluate_settings(model, targets, asked, rules))
    on_tensors = by_key(evaluate_settings(model, targets, asked, rules, tensor_clicks=True))
    for one, same in zip(found, on_tensors, strict=True):
        for name, setting in one.settings.items():
            a, b = setting.result, same.settings[name].result
            assert a is not None and b is not None and replace(a, seconds=0.0) == replace(b, seconds=0.0)
            assert (setting.forwards, setting.computed) == (same.settings[name].forwards, same.settings[name].computed)
    assert [one.key for one in found] == [target.key for target in targets]
    for one, target in zip(found, targets, strict=True):
        assert list(one.settings) == list(asked)
        for name, cfr in asked.items():
            got, expected = one.settings[name].result, alone(model, target, cfr, rules)
            assert got is not None and got.seconds > 0
            assert replace(got, seconds=0.0) == replace(expected, seconds=0.0), name
            assert one.settings[name].forwards == sum(expected.forwards)
        assert one.separate == sum(setting.forwards for setting in one.settings.values())
        assert sum(setting.computed for setting in one.settings.values()) == pytest.approx(one.computed)
        assert one.computed <= one.separate
    return found


def test_first_runs_of_cfr_4_are_those_of_cfr_1_and_cfr_0() -> None:
    """Worked out by hand: two clicks, the target is never reached, only the first click is refined.

    Click 1 takes 5 passes: the first for all three, the second for CFR-1 and CFR-4, three more for CFR-4. Then each
    has a map of its own, so click 2 takes 3 passes. Alone: 2 + 3 + 6.
    """
    asked = {"cfr0": BASE, "cfr1": replace(BASE, steps=1), "cfr4": replace(BASE, steps=4)}
    network = Scripted()
    (one,) = evaluate_settings(network, [scene(1)], asked, Eval(max_clicks=2, target_iou=1.0))
    assert (one.computed, one.separate) == (8, 11)
    assert network.calls == [2] * 8  # each with its mirror image
    shares = {name: setting.computed for name, setting in one.settings.items()}
    assert shares == pytest.approx({"cfr0": 1 / 3 + 1, "cfr1": 1 / 3 + 1 / 2 + 1, "cfr4": 1 / 3 + 1 / 2 + 4})


@pytest.mark.parametrize(
    ("other", "computed"),
    [
        (Cfr(crop=SIDE, min_crop=24), 3),  # the same setting twice
        (Cfr(crop=SIDE, min_crop=25), None),  # shares as long as the ROIs are equal: at least the first click
        (Cfr(crop=SIDE, min_crop=24, flip=False), 6),
        (Cfr(crop=2 * SIDE, min_crop=24), 6),
    ],
)
def test_what_is_shared(other: Cfr, computed: int | None) -> None:
    (one,) = evaluate_settings(Scripted(), [scene(1)], {0: BASE, 1: other}, Eval(max_clicks=3, target_iou=1.0))
    assert one.separate == 6
    assert 3 <= one.computed <= 5 if computed is None else one.computed == computed


def test_many_objects_and_settings_with_a_stand_in() -> None:
    asked = {
        f"{steps}-{clicks}-{adaptive}-{threshold}": replace(
            BASE, steps=steps, clicks=clicks, adaptive=adaptive, threshold=threshold
        )
        for steps, clicks, adaptive in [(0, 1, False), (1, 1, False), (2, 20, False), (4, 1, True)]
        for threshold in (0.3, 0.49)
    }
    targets = [scene(seed, (SIDE + seed, SIDE + 2 * seed)) for seed in range(6)]
    found = check(Scripted(), targets, asked, Eval(max_clicks=6, target_iou=0.65))
    assert sum(one.computed for one in found) < 0.7 * sum(one.separate for one in found)
    clicks = {len(s.result.clicks) for one in found for s in one.settings.values() if s.result}
    assert len(clicks) > 1  # some end earlier than others


SETTINGS = st.builds(
    Cfr,
    steps=st.integers(0, 3),
    clicks=st.integers(0, 3),
    adaptive=st.booleans(),
    adaptive_pixels=st.sampled_from((0, 20, 200)),
    threshold=st.sampled_from((0.4, 0.49, 0.6)),
    crop=st.sampled_from((SIDE, SIDE + 16)),
    flip=st.booleans(),
    expansion=st.sampled_from((1.0, 1.4)),
    min_crop=st.sampled_from((8, 24, 200)),
    recompute_iou=st.sampled_from((0.5, 0.9)),
)
MODEL = small_model()


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(asked=st.lists(SETTINGS, min_size=1, max_size=5), seed=st.integers(0, 30), full=st.booleans())
def test_any_settings_give_what_each_gives_alone(asked: list[Cfr], seed: int, full: bool) -> None:
    named = {str(number): cfr for number, cfr in enumerate(asked)}
    rules = Eval(max_clicks=3, target_iou=0.5, full_curve=full)
    (one,) = check(MODEL, [scene(seed, (SIDE, SIDE + seed))], named, rules)
    if len(set(asked)) == 1:
        assert one.computed * len(asked) == one.separate


def test_passes_of_a_round_in_batches() -> None:
    asked = {steps: replace(BASE, steps=steps, clicks=20) for steps in range(4)} | {9: replace(BASE, flip=False)}
    targets, rules = [scene(seed) for seed in range(3)], Eval(max_clicks=4, target_iou=0.99)
    network = Scripted()
    batched = by_key(evaluate_settings(network, targets, asked, rules, batch_size=3, threads=2))
    assert max(network.calls) == 6 and sum(network.calls) < 2 * sum(one.computed for one in batched)
    for one, single in zip(batched, by_key(evaluate_settings(Scripted(), targets, asked, rules)), strict=True):
        assert (one.computed, one.separate) == (single.computed, single.separate)
        for name in asked:
            a, b = one.settings[name].result, single.settings[name].result
            assert a and b and (a.clicks, a.ious, a.forwards) == (b.clicks, b.ious, b.forwards)


class Refuses(Scripted):
    """A network that has no room for inputs of one size."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def __call__(self, image: torch.Tensor, prev_mask: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        if image.shape[-1] == self.side:
            raise RuntimeError(f"no memory\nfor {self.side} pixels")
        return super().__call__(image, prev_mask, points)


def test_a_setting_that_raises_fails_alone() -> None:
    asked = {"good": replace(BASE, steps=1), "bad": replace(BASE, crop=96), "too": replace(BASE, crop=96, steps=2)}
    rules = Eval(max_clicks=3)
    for batch_size in (1, 4):
        one, two = by_key(evaluate_settings(Refuses(96), [scene(0), scene(1)], asked, rules, batch_size))
        for found, target in ((one, scene(0)), (two, scene(1))):
            good = found.settings["good"].result
            assert good and good.ious == alone(Scripted(), target, asked["good"], rules).ious
            for name in ("bad", "too"):
                assert found.settings[name].result is None
                assert found.settings[name].error == "RuntimeError: no memory for 96 pixels"
                assert found.settings[name].forwards == 1
            assert found.separate == sum(good.forwards) + 2


class RefusesBatches(Scripted):
    def __call__(self, image: torch.Tensor, prev_mask: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        if len(image) > 2:
            raise torch.OutOfMemoryError("too many")
        return super().__call__(image, prev_mask, points)


def test_a_batch_without_room_is_done_pass_by_pass() -> None:
    asked = {steps: replace(BASE, steps=steps) for steps in range(3)}
    rules = Eval(max_clicks=3, target_iou=1.0)
    (one,) = evaluate_settings(RefusesBatches(), [scene(2)], asked, rules, batch_size=8)
    for name, cfr in asked.items():
        found = one.settings[name].result
        assert found and found.ious == alone(Scripted(), scene(2), cfr, rules).ious


def test_observer_sees_every_click_of_every_setting() -> None:
    seen: dict[object, list[float]] = {}

    def observe(key: object, session: Session | Replay) -> None:
        seen.setdefault(key, []).append(session.ious[-1])

    asked = {0: BASE, 2: replace(BASE, steps=2), 3: BASE}
    (one,) = evaluate_settings(Scripted(), [scene(5)], asked, Eval(max_clicks=3), observe=observe)
    assert seen == {(5, name): s.result.ious for name, s in one.settings.items() if s.result}


@pytest.mark.parametrize(("most_pixels", "most"), [(ended.MAX_PIXELS, 4), (2 * (3 * SIDE) ** 2, 2)])
def test_clicks_of_a_batch_on_tensors(monkeypatch: pytest.MonkeyPatch, most_pixels: int, most: int) -> None:
    """Objects of several sizes, in images large enough that the crop follows the object; in one group, or in some."""
    together: list[int] = []

    def counted(truth: torch.Tensor, mask: torch.Tensor, clicks: list[list[Click]]) -> list[Ended]:
        together.append(len(truth))
        return next_clicks(truth, mask, clicks)

    monkeypatch.setattr(ended, "MAX_PIXELS", most_pixels)
    monkeypatch.setattr(ended, "next_clicks", counted)
    targets = [scene(seed, (3 * SIDE - seed, 2 * SIDE + 5 * seed)) for seed in range(8)]
    rules = Eval(max_clicks=5, full_curve=True)
    one, same = (
        by_key(evaluate_settings(Scripted(), targets, {"a": BASE}, rules, 4, tensor_clicks=tensors))
        for tensors in (False, True)
    )
    results = [[found.settings["a"].result for found in each] for each in (one, same)]
    for a, b in zip(*results, strict=True):
        assert a is not None and b is not None and replace(a, seconds=0.0) == replace(b, seconds=0.0)
        assert len(set(a.rois)) > 1
    assert max(together) == most
