"""The command line before it is parsed: flags given twice, and lists with commas."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from jobs import prepare, track_sync, train, tune_cfr, tune_icl
from jobs.evaluate import parse
from jobs.flags import apart, joined, names_of
from pipeline.config import TrainConfig
from pipeline.config.io import flatten
from pipeline.config.sweeps import IclSweepConfig
from pipeline.errors import UserError

NEEDED = ["--checkpoint", "c", "--data", "a=x", "--out", "o"]


@pytest.mark.parametrize(
    "words",
    [
        ["--cfr-steps", "0,1,4"],
        ["--cfr-steps", "0", "1", "4"],
        ["--cfr-steps=0,1,4"],
        ["--cfr-steps", "0,", "1,", "4"],
        ["--cfr-steps", "0", "--cfr-steps", "1,4"],
    ],
)
def test_steps_in_any_form(words: list[str]) -> None:
    assert parse([*words, *NEEDED]).cfr_steps == (0, 1, 4)
    assert parse([*NEEDED, *words]).cfr_steps == (0, 1, 4)


def test_no_data_set_is_lost() -> None:
    assert parse([*NEEDED, "--data", "b=y", "c=z", "--limit", "3"]).data == ("a=x", "b=y", "c=z")
    assert parse([*NEEDED, "--data=b=y,z"]).data == ("a=x", "b=y,z")  # a comma in a path stays


def test_other_words_stay() -> None:
    assert apart(["a,b", "--x", "c,d", "--s", "1,2"], "--s") == ["a,b", "--x", "c,d", "--s", "1", "2"]
    assert joined(["--s", "1", "--x", "2"], "--s") == ["--x", "2", "--s", "1"]


def test_short_forms_and_dotted_names_are_one() -> None:
    short = ["--threshold", "0.3", "--no-flip", "--cfr-clicks=20", "--max_clicks", "5", "--full-curve", "--crop", "96"]
    short += ["--no-tracking", "--tracking-uri", "http://host:5000", "--experiment=mine", "--device", "cpu"]
    dotted = ["--cfr.threshold", "0.3", "--cfr.no-flip", "--cfr.clicks=20", "--eval.max-clicks", "5"]
    dotted += ["--eval.full_curve", "--cfr.crop", "96", "--tracking.no-enabled", "--tracking.uri", "http://host:5000"]
    dotted += ["--tracking.experiment=mine", "--eval.device", "cpu"]
    assert parse([*NEEDED, "--steps", "2"]) == parse([*NEEDED, "--cfr.steps=2"]) == parse([*NEEDED, "--cfr-steps", "2"])
    found = parse([*NEEDED, *short])
    assert found == parse([*NEEDED, *dotted]) != parse(NEEDED)
    assert (found.crop, found.cfr.flip, found.eval.max_clicks, found.tracking.enabled) == (96, False, 5, False)
    sweep = tune_cfr.parse([*NEEDED, "--trials", "3", "--seed", "4", "--max-clicks", "5", "--no-tracking"])
    assert sweep == tune_cfr.parse(
        [*NEEDED, "--trials=3", "--search-seed=4", "--eval.max-clicks=5", "--tracking.no-enabled"]
    )
    training = ["tiny", "--data.train", "d", "--out", "o"]
    run = train.parse([*training, "--device", "cpu", "--no-tracking"])
    assert run == train.parse([*training, "--train.device", "cpu", "--tracking.no-enabled"])


TRAINING = ["tiny", "--data.train", "d", "--out", "o"]


@pytest.mark.parametrize(
    ("job", "words", "near"),
    [
        (parse, [*NEEDED, "--cfr.thresold", "0.3"], "--cfr.threshold"),
        (parse, [*NEEDED, "--max-clics=3"], "--max-clicks"),
        (parse, [*NEEDED, "--cfr.no-flipp"], "--cfr.no-flip"),
        (train.parse, [*TRAINING, "--optim.lrr", "1"], "--optim.lr"),
        (tune_icl.parse, [*TRAINING, "--trials", "2", "--reduktion", "2"], "--reduction"),
        (tune_cfr.parse, [*NEEDED, "--trials", "2", "--generatoin", "2"], "--generation"),
        (prepare.parse, ["folder", "--root", "r", "--out", "o", "--anotations", "x"], "--annotations"),
        (track_sync.parse, ["o", "--url", "x"], "--uri"),
    ],
)
def test_a_wrong_option_names_the_nearest(job: Callable[[list[str]], object], words: list[str], near: str) -> None:
    with pytest.raises(UserError, match=f"There is no option --.* Did you mean '{near}'"):
        job(words)


def test_a_short_form_of_what_a_job_does_not_have_is_none() -> None:
    for word in ("--no-tracking", "--trackings"):
        with pytest.raises(UserError) as wrong:
            prepare.parse(["folder", "--root", "r", "--out", "o", word])
        assert f"There is no option {word}." in str(wrong.value) and "tracking'" not in str(wrong.value)


def test_every_option_of_a_job_is_known() -> None:
    """What --help lists is what is compared with: the parser and `names_of` do not drift apart."""
    names = names_of(IclSweepConfig)
    assert {"--trials", "--only", "--no-only", "--optim.lr", "--eval.no-full-curve", "--tracking.uri"} <= set(names)
    run = train.parse([*TRAINING, *(f"{n}" for n in names_of(TrainConfig) if ".no-" in n)])
    assert not any(value is True for value in flatten(run).values())
