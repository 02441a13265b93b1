"""The report of a sweep: what it says, and plots that show what they should."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from matplotlib import pyplot, rcParams

from jobs.tune_log import print_best
from pipeline.config import TrainConfig
from pipeline.report import sweep_plots
from pipeline.report.sweep_report import describe_setting, write_sweep_report
from pipeline.tune.setting_file import write_settings
from pipeline.tune.spaces import build
from pipeline.tune.summary import summary_of
from pipeline.tune.trials import OBJECTIVES, Trial
from tests.sweep_example import OBJECTIVES_, SPACE, sweep_summary, sweep_trials


def test_the_report_says_what_was_found(tmp_path: Path) -> None:
    summary = sweep_summary()
    files = write_sweep_report(tmp_path, summary)
    names = {"pareto.png", "importances.png", "parallel-noc90.png", "parallel-passes.png"}
    assert {Path(f).name for f in files} == names | {"report.md", "report.html"}
    text = (tmp_path / "report.md").read_text()
    for words in ("24 trials (23 done, 1 failed)", "6000 forward passes were computed", "8000: 25.0% were saved"):
        assert words in text
    best = summary["trials"][summary["best"]["trial"]]
    assert f"Trial \\#{best['id']}." in text
    for step in summary["worth"]:
        assert f"\\#{step['trial']} |" in text
    assert sum(step["worth"] for step in summary["worth"]) >= 2
    assert summary["spreads"]["noc90"][0]["name"] == "cfr.steps"
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page and "document.title" in page  # the hostile error is shown, not run


def test_without_a_done_trial_there_is_still_a_report(tmp_path: Path) -> None:
    summary = sweep_summary()
    failed = {**summary["trials"][-1], "id": 0}
    empty = {"trials": [failed], "front": [], "worth": [], "best": None, "spreads": {"noc90": [], "passes": []}}
    write_sweep_report(tmp_path, {**summary, **empty})
    text = (tmp_path / "report.md").read_text()
    assert "1 trials (1 failed)" in text and "Failed trials" in text and "best.json" not in text.split("## How")[0]


def test_settings_in_words() -> None:
    base = {"cfr.steps": 0, "cfr.flip": True, "cfr.threshold": 0.49}
    assert describe_setting(base, base) == "as published"
    assert describe_setting({**base, "cfr.steps": 2, "cfr.flip": False}, base) == "steps 2, flip false"
    assert describe_setting({"loss.weights": (1.0, 2.0)}, {}) == "weights [1, 2]"
    alike = {"loss.gamma": 2.0, "clicks.gamma": 0.1 * 3, "seed": 1}
    assert describe_setting(alike, {}) == "loss.gamma 2, clicks.gamma 0.3, seed 1"
    both = {"loss.gamma": 0.5, "clicks.gamma": 0.8, "optim.lr": 1e-4}
    assert describe_setting(both, {**both, "loss.gamma": 1.0, "optim.lr": 1.0}) == "loss.gamma 0.5, lr 0.0001"


def test_plots_leave_no_trace_in_pyplot() -> None:
    before, trials = dict(rcParams), sweep_trials()
    figure = sweep_plots.parallel_plot(trials, SPACE.searched, OBJECTIVES_, 0)
    assert figure is not None and len(figure.axes[0].collections[0].get_segments()) == 23  # type: ignore[attr-defined]
    assert sweep_plots.importance_plot(trials, SPACE.searched, OBJECTIVES_) is not None
    assert pyplot.get_fignums() == [] and dict(rcParams) == before
    assert sweep_plots.parallel_plot(trials[:1], SPACE.searched, OBJECTIVES_, 0) is None
    assert sweep_plots.importance_plot(trials[:3], SPACE.searched, OBJECTIVES_) is None


def test_pareto_plot_joins_the_front() -> None:
    trials, summary = sweep_trials(), sweep_summary()
    front = [step["trial"] for step in summary["worth"]]
    noc, passes = OBJECTIVES["noc90"], OBJECTIVES["passes"]
    figure = sweep_plots.pareto_plot(trials, passes, noc, front, front[:1])
    assert figure is not None
    (line,) = figure.axes[0].lines
    drawn = sorted((trials[i].metrics["passes"], trials[i].metrics["noc90"]) for i in front)
    assert [tuple(p) for p in line.get_xydata().tolist()] == drawn  # type: ignore[union-attr]
    assert sweep_plots.pareto_plot(trials[-1:], passes, noc, [], []) is None


def test_an_icl_sweep_with_an_unfinished_trial(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Trial 1 was not ended when the hours were over: trials go by their ids, not by their place."""
    config = TrainConfig(recipe="tiny")
    space = build("icl", config, {}, ("optim.lr=choice(1e-5,1e-4,1e-3)",))
    objectives = [OBJECTIVES["noc80"], OBJECTIVES["iou1"]]

    def trial(number: int, lr: float, *figures: tuple[float, float]) -> Trial:
        history = [{"step": 5.0 * i, "noc80": noc, "iou1": iou} for i, (noc, iou) in enumerate(figures, start=1)]
        state = "done" if len(figures) == 2 else "stopped"
        metrics = {"noc80": figures[-1][0], "iou1": figures[-1][1]}
        return Trial(number, state, {"optim.lr": lr}, {"optim.lr": lr}, metrics, history=history)

    trials = [trial(0, 1e-5, (9, 0.4), (8, 0.5)), trial(2, 1e-4, (9, 0.3), (5, 0.2)), trial(3, 1e-3, (20, 0.1))]
    options = {"search": "tpe", "reduction": 2, "grace": 5, "seed": 0}
    summary = {
        **summary_of(trials, space, objectives, None, str(tmp_path)),
        "recipe": "tiny",
        "steps": 10,
        "hours": 0.1,
        "options": options,
        "command": "x",
        "data": {"val": {"objects": 3, "images": 3}},
    }
    assert summary["front"] == [0, 2] and summary["best"]["trial"] == 2
    groups = [tuple(group[1:]) for group in summary["spreads"]["noc80"][0]["groups"]]
    assert groups == [(1, 9.0), (1, 9.0), (1, 20.0)]  # by step 5, which all three reached
    write_settings(str(tmp_path), summary, trials, space, objectives)
    assert json.loads((tmp_path / "settings" / "trial-0002.json").read_text())["values"]["optim.lr"] == 1e-4
    files = {Path(f).name for f in write_sweep_report(tmp_path, summary)}
    assert {"history-noc80.png", "history-iou1.png", "pareto.png"} <= files
    text = (tmp_path / "report.md").read_text()
    assert "At steps 5 a trial goes on" in text and "validation at step 5, the last" in text
    print_best(summary)
    assert "    2       5.000     0.200  lr 0.0001" in capsys.readouterr().out
