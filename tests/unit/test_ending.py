"""The last lines of a job: what it made, and commands that a shell takes as they stand."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from jobs import ending

AWKWARD = "runs/it's $HOME `x`; rm *"


def test_what_was_made_and_what_comes_next(capsys: pytest.CaptureFixture[str]) -> None:
    line = ending.command("evaluate", "--checkpoint", AWKWARD, "--data", "a=b c")
    ending.say({"Report": "/out/report.html"}, [("measure it", line)], page="http://127.0.0.1:5000/#/x")
    said = capsys.readouterr().out.splitlines()
    assert said[:4] == ["Report: /out/report.html", "MLflow: http://127.0.0.1:5000/#/x", "Next:", "  # measure it"]
    words = shlex.split(said[4])
    assert words[1:] == ["-m", "jobs.evaluate", "--checkpoint", AWKWARD, "--data", "a=b c"]


def test_a_part_of_a_job_says_only_what_it_made(capsys: pytest.CaptureFixture[str]) -> None:
    with ending.part_of_a_job():
        ending.say({"Report": "/out/report.html"}, [("measure it", "x")])
    assert capsys.readouterr().out == "Report: /out/report.html\n"
    ending.say({}, [("measure it", "x")])
    assert capsys.readouterr().out == "Next:\n  # measure it\n  x\n"


def test_no_credential_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    steps = ending.mlflow_ui("sqlite:////w/mlflow.db")
    ending.say({"Store": "http://me:secret@host/x"}, [*steps, ("x", "run http://me:secret@host")], "http://a:secret@b")
    said = capsys.readouterr().out
    assert "secret" not in said and "sqlite:////w/mlflow.db" in said
    assert ending.mlflow_ui("http://host:5000") == ending.mlflow_ui("") == []


@pytest.mark.parametrize(
    ("started", "said"),
    [
        (["python", "-m", "jobs.train"], ["-m", "jobs.tune", "cfr", "--x"]),
        (["python", "jobs/train.py", "tiny"], ["jobs/tune.py", "cfr", "--x"]),
        (["python", "/elsewhere/jobs/train.py"], ["/elsewhere/jobs/tune.py", "cfr", "--x"]),
        (["python", "/venv/bin/cfr-icl", "train"], ["tune", "cfr", "--x"]),
    ],
)
def test_commands_are_those_of_the_way_this_one_was_started(
    started: list[str], said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "orig_argv", started)
    assert shlex.split(ending.command("tune cfr", "--x"))[1:] == said


def test_places_are_short_and_mean_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert ending.place(str(tmp_path / "runs" / "first")) == "runs/first"
    assert ending.place(str(tmp_path / "small")) == "./small"  # `small` is a model of the package
    assert ending.place(str(tmp_path / "-x" / "y")) == "./-x/y"
    assert ending.place(str(tmp_path)) == str(tmp_path)
    assert ending.place(str(tmp_path.parent / "other")) == str(tmp_path.parent / "other")
    assert ending.place(str(tmp_path / "..x")) == "./..x"
    assert ending.beside("s3://bucket/runs/first/", "eval") == "s3://bucket/runs/first-eval"
