"""Search spaces: how they are written, what is refused, what a draw means."""

from __future__ import annotations

import re
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.recipes import RECIPES
from pipeline.config import Cfr, Loss, TrainConfig
from pipeline.config import io as config_io
from pipeline.errors import UserError
from pipeline.tune import weights
from pipeline.tune.dimensions import Choice, Fixed, Range, all_values, contains, draw, parse, spec
from pipeline.tune.proposals import (
    config_of,
    grid,
    inside,
    key_of,
    parse_point,
    point_of,
    published,
    setting_of,
    suggest,
)
from pipeline.tune.spaces import Space, build, cfr_defaults, icl_defaults

CONFIG = TrainConfig(cfr=Cfr(crop=160))
TINY = RECIPES["tiny"].config


def cfr(*words: str, only: bool = False) -> Space:
    return build("cfr", CONFIG, cfr_defaults((160, 192)), words, only)


def icl(*words: str, only: bool = False) -> Space:
    return build("icl", TINY, icl_defaults(TINY), words, only)


def trials(count: int, seed: int = 0) -> list[optuna.Trial]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return [study.ask() for _ in range(count)]


@pytest.mark.parametrize(
    ("text", "dimension"),
    [
        ("3", Fixed(3)),
        ("1e-4", Fixed(1e-4)),
        ("True", Fixed(True)),
        ("linear", Fixed("linear")),
        ("[1, 2.5,3]", Fixed((1, 2.5, 3))),
        ("choice(0,1,4)", Choice((0, 1, 4))),
        ("choice(7)", Fixed(7)),
        ("choice(true,false)", Choice((True, False))),
        ("choice([1,2],[3])", Choice(((1, 2), (3,)))),
        ("uniform(0, 0.5)", Range(0.0, 0.5)),
        ("loguniform(1e-6,1e-4)", Range(1e-6, 1e-4, log=True)),
        ("quniform(0.1,0.4,0.1)", Range(0.1, 0.4, step=0.1)),
        ("quniform(100,300,50)", Range(100, 300, step=50, whole=True)),
        ("randint(1,5)", Range(1, 5, step=1, whole=True)),
    ],
)
def test_specs(text: str, dimension: Any) -> None:
    assert parse(text, "a.b") == dimension
    assert parse(spec(dimension), "a.b") == dimension


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("uniform(2,1)", "upside down, 2 is above 1"),
        ("uniform(1,1)", "a single value"),
        ("loguniform(0,1)", "above 0"),
        ("loguniform(-1,1)", "above 0"),
        ("uniform(1)", "takes 2 numbers"),
        ("uniform(a,b)", "takes 2 numbers"),
        ("uniform(true,2)", "takes 2 numbers"),
        ("quniform(0,1)", "takes 3 numbers"),
        ("quniform(0,1,0.3)", "do not reach 1"),
        ("quniform(0,1,-1)", "above 0"),
        ("randint(0.5,2)", "whole numbers"),
        ("choice()", "different values"),
        ("choice(1,1)", "different values"),
        ("unifrom(0,1)", "Did you mean 'uniform'"),
        ("__import__('os')", "there is no '__import__'"),
        ("1 + 1", "is no value"),
        ("nan", "no number to search with"),
        ("choice(1,inf)", "no number to search with"),
    ],
)
def test_wrong_specs(text: str, message: str) -> None:
    with pytest.raises(UserError, match=r"a\.b") as caught:
        parse(text, "a.b")
    assert message in str(caught.value)


def test_both_ends_are_drawn_and_nothing_else() -> None:
    for text in ("randint(1,3)", "quniform(0.1,0.3,0.1)", "choice(1,2,3)", "choice([1,2],[3])"):
        dimension = parse(text, "x")
        drawn = {repr(draw(dimension, "x", trial)) for trial in trials(60)}
        assert drawn == {repr(v) for v in all_values(dimension) or []}
    assert all_values(Range(0.1, 0.3, step=0.1)) == [0.1, 0.2, 0.3]
    assert all_values(Range(0.1, 0.3)) is None
    assert all(1e-6 <= draw(Range(1e-6, 1e-4, log=True), "x", trial) <= 1e-4 for trial in trials(20))
    assert contains(Range(1, 3, step=1, whole=True), 3) and not contains(Range(1, 3, step=1, whole=True), 2.5)
    assert not contains(Choice((1, 2)), True)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("cfr.stepz=choice(0,1)", "Did you mean 'cfr.steps'"),
        ("optim.lr=loguniform(1e-6,1e-4)", "a cfr sweep searches the cfr"),
        ("cfr.steps=uniform(0,3)", "whole number"),
        ("cfr.steps=choice(0,1.5)", "not int"),
        ("cfr.flip=randint(0,1)", "not bool"),
        ("cfr.threshold=uniform(0.4,1.4)", "1.4 is not between 0 and 1"),
        ("cfr.crop=choice(16,160)", "at least 32"),
        ("cfr.steps=randint(-1,2)", ">= 0"),
        ("cfr.steps", "NAME=SPEC"),
        ("=3", "NAME=SPEC"),
    ],
)
def test_names_and_values_are_those_of_the_config(word: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        cfr(word)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("cfr.steps=choice(0,1)", "how trials are measured"),
        ("train.steps=choice(10,20)", "budget"),
        ("train.workers=choice(1,2)", "where a trial runs"),
        ("out=x", "names the run"),
        ("loss.weights.shape=choice(flat,square)", "one of flat"),
        ("loss.weights.count=randint(0,3)", "from 1 to 8"),
        ("loss.weights.ratio=uniform(-1,3)", "from 0 up"),
        ("loss.weights.shap=flat", "Did you mean 'loss.weights.shape'"),
        ("suem.mix_prob=uniform(0,2)", "between 0 and 1"),
        ("loss.mode=choice(icl,both)", "must be one of icl"),
        ("clicks.negative_border=uniform(0.1,0.9)", "must add up to 1"),
    ],
)
def test_icl_refusals(word: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        icl(word)
    assert message in str(caught.value)


def test_words_replace_add_fix_and_restrict() -> None:
    space = cfr("cfr.steps=choice(0,2)", "cfr.recompute_iou=choice(0.5,0.7)", "cfr.flip=false")
    assert space.dimensions["cfr.steps"] == Choice((0, 2))
    assert "cfr.recompute_iou" in space.searched and "cfr.threshold" in space.searched
    assert space.dimensions["cfr.flip"] == Fixed(False) and "cfr.flip" not in space.searched
    narrow = cfr("cfr.steps=choice(0,2)", only=True)
    assert narrow.to_dict() == {"cfr.steps": "choice(0,2)"}
    for words, message in ((("cfr.steps=1",), "Nothing is searched"), (("cfr.flip=true", "cfr.flip=false"), "twice")):
        with pytest.raises(UserError, match=message):
            cfr(*words, only=True)
    with pytest.raises(UserError, match="not both"):
        icl("loss.weights=choice([1],[1,2])", "loss.weights.count=3")
    assert weights.SHAPE not in icl("loss.weights=choice([1],[1,2])").dimensions


def test_default_ranges_are_written_as_a_person_would() -> None:
    assert icl().to_dict()["optim.lr"] == "loguniform(0.0003,0.03)"
    for recipe in RECIPES.values():
        for text in build("icl", recipe.config, icl_defaults(recipe.config)).to_dict().values():
            assert not re.search(r"\d{6}", text), text


def test_settings_that_mean_the_same_are_one() -> None:
    space = cfr()
    zero = {"cfr.steps": 0, "cfr.threshold": 0.49, "cfr.expansion": 1.4, "cfr.min_crop": 200, "cfr.flip": True}
    drawn = point_of(space, zero)
    assert "cfr.adaptive" not in drawn and "cfr.clicks" not in drawn  # nothing to refine: not searched there
    key = key_of(setting_of(space, drawn))
    for other in ({"cfr.clicks": 20}, {"cfr.adaptive": True}, {"cfr.steps": 0, "cfr.adaptive_pixels": 5}):
        assert key_of(setting_of(space, point_of(space, {**zero, **other}))) == key
    one = key_of(setting_of(space, point_of(space, {**zero, "cfr.steps": 1})))
    assert one != key
    # With two runs of a click there is nothing for the adaptive stop to save.
    assert key_of(setting_of(space, point_of(space, {**zero, "cfr.steps": 1, "cfr.adaptive": True}))) == one
    free = build("cfr", CONFIG, {"cfr.clicks": Range(0, 40, step=1, whole=True), "cfr.steps": Choice((0, 1))}, ())
    settings_ = [setting_of(free, {"cfr.steps": 1, "cfr.clicks": n}) for n in (0, 20, 30)]
    assert settings_[0] == {"cfr.clicks": 1, "cfr.steps": 0}
    assert settings_[1] == settings_[2] == {"cfr.clicks": 20, "cfr.steps": 1}


def test_published_settings_come_first_also_outside_of_the_space() -> None:
    points = published(cfr())
    assert list(points) == ["CFR-0", "CFR-1", "CFR-4", "A-CFR-4"]
    space = cfr()
    for name, steps in zip(points, (0, 1, 4, 4), strict=True):
        got = config_of(space, setting_of(space, points[name])).cfr
        assert got == Cfr(steps=steps, adaptive=name == "A-CFR-4", crop=160)
        assert inside(space, points[name])
    narrow = cfr("cfr.steps=choice(2,3)")
    assert [inside(narrow, drawn) for drawn in published(narrow).values()] == [False] * 4
    fixed = cfr("cfr.flip=false", "cfr.steps=2")
    assert list(published(fixed)) == ["CFR-0, CFR-1, CFR-4", "A-CFR-4"]
    assert all(setting_of(fixed, p)["cfr.flip"] is False for p in published(fixed).values())
    ((name, drawn),) = published(icl()).items()
    assert name == "recipe" and inside(icl(), drawn)
    assert drawn[weights.SHAPE] == "linear" and drawn[weights.COUNT] == 3 and weights.RATIO not in drawn
    assert config_of(icl(), setting_of(icl(), drawn)) == TINY


def test_points_by_hand() -> None:
    space = icl()
    drawn = parse_point(space, "loss.weights.shape=geometric loss.weights.ratio=2 optim.lr=0.001")
    setting = setting_of(space, drawn)
    assert setting["loss.weights"] == (1.0, 2.0, 4.0) and setting["optim.lr"] == 0.001
    for text, message in (
        ("optim.lr", "NAME=VALUE"),
        ("optim.lrr=1", "Did you mean 'optim.lr'"),
        ("loss.weights.shape=geometric", "needs a value of loss.weights.ratio"),
        ("optim.lr=-1", "positive"),
    ):
        with pytest.raises(UserError) as caught:
            parse_point(space, text)
        assert message in str(caught.value)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000))
def test_every_draw_is_a_config(seed: int) -> None:
    (trial,) = trials(1, seed)
    for space in (cfr(), icl()):
        drawn = suggest(space, trial)
        assert inside(space, drawn) and drawn.keys() <= space.searched.keys()
        setting = setting_of(space, drawn)
        config = config_of(space, setting)
        flat = config_io.flatten(config)
        assert all(flat[name] == value for name, value in setting.items())
        again = point_of(space, drawn)
        assert again == drawn
    assert len(flat["loss.weights"]) == drawn[weights.COUNT]
    assert (weights.RATIO in drawn) == (drawn[weights.SHAPE] == "geometric" and drawn[weights.COUNT] > 1)
    assert sum(name in drawn for name in weights.FREE) == (
        drawn[weights.COUNT] if drawn[weights.SHAPE] == "free" else 0
    )


@pytest.mark.parametrize("values", [(1, 2, 3), (1, 1, 1), (1,), (1, 2, 4), (1, 0.5, 0.25), (3, 1), (0.5,), (1, 2)])
def test_weights_both_ways(values: tuple[float, ...]) -> None:
    assert weights.weights_of(weights.names_of(values)) == values
    assert weights.names_of(Loss().weights) == {weights.COUNT: 3, weights.SHAPE: "linear"}


def test_grid() -> None:
    space = cfr("cfr.steps=choice(0,1,2)", "cfr.adaptive=choice(false,true)", "cfr.flip=choice(true,false)", only=True)
    found = [setting_of(space, drawn) for drawn in grid(space)]
    # 0 and 1 with two flips each (the adaptive stop has no effect there), 2 with four.
    assert len(found) == len({key_of(s) for s in found}) == 8
    with pytest.raises(UserError, match=r"cfr\.threshold has a continuous range"):
        grid(cfr("cfr.threshold=uniform(0.4,0.6)", only=True))
