"""The command line before it is parsed: flags given twice, and lists with commas."""

from __future__ import annotations

import pytest

from jobs.evaluate import parse
from jobs.flags import apart, joined

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
