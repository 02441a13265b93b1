"""The last lines of a job: what it made, and commands that a shell takes as they stand."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from jobs import ending, evaluate, predict, prepare, train, tune_cfr, tune_icl
from pipeline.config import TrainConfig
from pipeline.config import io as config_io
from pipeline.config.evaluation import EvaluateConfig
from pipeline.config.sweeps import CfrSweepConfig
from pipeline.data.readers import open_reader

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


def test_every_command_is_one_that_its_job_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    out = str(tmp_path / "it's here" / "out")
    run = config_io.replace(
        TrainConfig(recipe="tiny"), **{"out": out, "data.train": f"{out}/a b", "data.val": f"{out}/v"}
    )
    space = ("a=/x y", "b=coco-instances:/z")
    raw = [open_reader(source, str(tmp_path), split) for source, split in TRAINING_SETS]
    write_manifest(tmp_path / "shards" / "val")
    steps = [
        *train.next_steps(run),
        *train.next_steps(config_io.replace(run, **{"data.val": ""})),
        *evaluate.next_steps(EvaluateConfig(data=space, out=out, checkpoint="small"), out),
        *evaluate.next_steps(EvaluateConfig(data=space, out=out, predictor="m:f"), out),
        *predict.next_steps(str(tmp_path / "pictures"), out),
        *tune_cfr.next_steps(CfrSweepConfig(data=space, out=out, trials=1, checkpoint="small"), out),
        *tune_icl.next_steps(run, out),
        *(step for reader in raw for step in prepare.next_steps(reader, str(tmp_path / "shards" / "train"))),
    ]
    seen = set()
    for what, line in steps:
        words = shlex.split(line)
        assert what and words[1] == "-m"
        job, rest = words[2].removeprefix("jobs."), words[3:]
        if "--config" in rest:  # of a sweep, whose files other tests read
            at = rest.index("--config")
            assert rest[at + 1] == "it's here/out/best.json"
            del rest[at : at + 2]
        if job == "tune":
            assert rest.pop(0) == "cfr"
        options = PARSERS[job](rest)
        seen.add(job)
        assert options.out
    assert seen == set(PARSERS)


PARSERS = {
    "evaluate": evaluate.parse,
    "predict": predict.parse,
    "prepare": prepare.parse,
    "train": train.parse,
    "tune": tune_cfr.parse,
}
TRAINING_SETS = [("coco-lvis", "train"), ("coco-lvis", "val"), ("folder", ""), ("grabcut", "")]


def write_manifest(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")


def test_a_training_set_is_trained_on_and_a_benchmark_evaluated(tmp_path: Path) -> None:
    write_manifest(tmp_path / "val")
    jobs = {}
    for source, split in TRAINING_SETS:
        steps = prepare.next_steps(open_reader(source, str(tmp_path), split), str(tmp_path / "train"))
        jobs[source, split] = [shlex.split(line)[2] for _, line in steps]
        assert all(("--data.val" in line) == ("jobs.train" in line) for _, line in steps)
    assert jobs == {
        ("coco-lvis", "train"): ["jobs.train"],
        ("coco-lvis", "val"): ["jobs.evaluate"],
        ("folder", ""): ["jobs.train", "jobs.evaluate"],
        ("grabcut", ""): ["jobs.evaluate"],
    }
