"""Configs: round trip, dotted names, messages for wrong values."""

from __future__ import annotations

import pytest

from jobs.recipes import RECIPES
from pipeline import config
from pipeline.config import io as config_io
from pipeline.config.options import options
from pipeline.errors import UserError


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_round_trip_through_json(name: str) -> None:
    run = RECIPES[name].config
    assert run.recipe == name
    assert config_io.from_dict(config.TrainConfig, config_io.to_dict(run)) == run


def test_replace_by_dotted_name() -> None:
    run = config_io.replace(config.TrainConfig(), **{"optim.lr": 1e-3, "loss.weights": [1.0, 1.0]})
    assert run.optim.lr == 1e-3
    assert run.loss.weights == (1.0, 1.0)
    assert config_io.flatten(run)["optim.lr"] == 1e-3


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("optim.lrr", 1, "Did you mean 'optim.lr'"),
        ("optim.lr", -1.0, "must be positive"),
        ("optim.lr", "fast", "not float"),
        ("loss.mode", "icll", "must be one of icl, iter_mask"),
        ("data.resize", [1.0], "takes 2 values"),
        ("suem.mix_prob", 1.5, "not between 0 and 1"),
        ("train.batch", 0, "at least 1"),
        ("train.workers", 5, "multiple of 5"),
        ("model.heads", 7, "not divisible"),
        ("model.heads", 0, "positive"),
        ("model.depth", 0, "positive"),
        ("clicks.negative_other", 0.9, "add up to 1"),
        ("train.gpu", 1, "not bool"),
    ],
)
def test_wrong_values_are_named(name: str, value: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        config_io.replace(config.TrainConfig(), **{name: value})


def test_steps() -> None:
    run = config_io.replace(config.TrainConfig(), **{"data.epoch_samples": 100, "train.batch": 32, "train.epochs": 2})
    assert run.steps_per_epoch == 3  # the last incomplete batch is dropped
    assert run.total_steps == 6
    assert config_io.replace(run, **{"train.steps": 4}).total_steps == 4


def test_a_class_of_options_keeps_the_checks_of_those_it_extends() -> None:
    @options
    class Wider(config.Eval):
        more: int = 0

    assert Wider(more=1).max_clicks == 20
    with pytest.raises(UserError, match=r"eval\.max_clicks must be at least 1"):
        Wider(max_clicks=0)
