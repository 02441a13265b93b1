"""Trials of a sweep: the front, settings worth their cost, what mattered, and the best setting as a file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs import evaluate as evaluate_job
from jobs import train as train_job
from jobs.flags import config_flag, joined, without_config
from jobs.recipes import RECIPES
from pipeline.config import Cfr, TrainConfig
from pipeline.errors import UserError
from pipeline.tune import setting_file
from pipeline.tune.importance import spreads, study_of
from pipeline.tune.proposals import key_of, point_of, published, setting_of
from pipeline.tune.search import propose
from pipeline.tune.spaces import Space, build, cfr_defaults, icl_defaults
from pipeline.tune.summary import summary_of
from pipeline.tune.trials import (
    OBJECTIVES,
    Trial,
    front,
    objectives_of,
    paired_difference,
    pareto,
    worth_using,
)
from pipeline.tune.trials import best as best_of

SPACE = build("cfr", TrainConfig(cfr=Cfr(crop=160)), cfr_defaults((128, 160)))
TINY = RECIPES["tiny"].config
NOC, PASSES = OBJECTIVES["noc90"], OBJECTIVES["passes"]


def trial(number: int, noc: float, passes: float, point: dict[str, Any] | None = None, **changes: Any) -> Trial:
    drawn = point_of(SPACE, point or {})
    made = Trial(number, "done", drawn, setting_of(SPACE, drawn), {"noc90": noc, "passes": passes, "seconds": 0.1})
    return replace(made, **changes)


def by_metric(a: Trial, b: Trial, margin: float = 0.5) -> tuple[float, float, float]:
    """Differences of less than `margin` clicks are not told apart."""
    value = a.metrics["noc90"] - b.metrics["noc90"]
    return value, value - margin, value + margin


points = st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=12)


@given(points=points, modes=st.tuples(*[st.sampled_from(("min", "max"))] * 3))
def test_front(points: list[tuple[int, ...]], modes: tuple[Any, ...]) -> None:
    def beats(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
        pairs = [(x, y) if mode == "min" else (-x, -y) for x, y, mode in zip(a, b, modes, strict=True)]
        return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)

    kept = pareto(points, modes)
    assert kept == [i for i, p in enumerate(points) if not any(beats(q, p) for q in points)]
    assert kept  # the front of something is never empty
    assert pareto([points[i] for i in kept], modes) == list(range(len(kept)))


def test_worth_using_keeps_what_the_objects_tell_apart() -> None:
    trials = [
        trial(0, 10.0, 20),
        trial(1, 9.8, 21),  # better than 0, but by less than the spread
        trial(2, 9.0, 22),  # told apart from 0, though not from 1
        trial(3, 9.5, 30),  # dominated
        trial(4, 8.8, 40),
        trial(5, 7.0, 50),
        trial(6, 7.0, 50),  # the same figures again
        trial(7, 1.0, 5, state="failed"),
    ]
    steps = worth_using(trials, NOC, PASSES, by_metric)
    assert [(s.trial.id, s.worth, s.against and s.against.id) for s in steps] == [
        (0, True, None),
        (1, False, 0),
        (2, True, 0),
        (4, False, 2),
        (5, True, 2),
    ]
    assert [t.id for t in front(trials, [NOC, PASSES])] == [0, 1, 2, 4, 5, 6]
    chosen = best_of(trials, [NOC, PASSES], by_metric)
    assert chosen is not None and chosen[0].id == 5 and "trial 2" in chosen[1]
    cheap = best_of(trials[:2], [NOC, PASSES], by_metric)
    assert cheap is not None and cheap[0].id == 0 and "no dearer setting" in cheap[1]
    single = best_of(trials, [NOC], by_metric)
    assert single is not None and single[0].id == 5
    assert best_of(trials[7:], [NOC], by_metric) is None


def test_paired_difference_counts_every_data_set_the_same() -> None:
    rng = np.random.default_rng(0)
    a = {"big": {i: float(v) for i, v in enumerate(rng.normal(1, 1, 400))}, "small": {0: 3.0, 1: 3.0}}
    b = {"big": dict.fromkeys(range(500), 0.0), "small": dict.fromkeys(range(2), 0.0), "other": {0: 9.0}}
    value, low, high = paired_difference(a, b)
    assert value == pytest.approx((np.mean(list(a["big"].values())) + 3.0) / 2)
    # The standard error of the large set's mean is 0.05; half of it counts, and the small set does not vary.
    assert high - low == pytest.approx(2 * 1.96 * 0.05 / 2, rel=0.15) and low < value < high
    assert paired_difference(a, a) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError):
        paired_difference({"x": {0: 1.0}}, {"x": {1: 1.0}})


def test_objectives() -> None:
    assert [o.name for o in objectives_of(["noc85", "seconds"])] == ["noc85", "seconds"]
    for names, message in (
        ([], "one or more"),
        (["noc90", "noc90"], "different"),
        (["noc9"], "Did you mean 'noc9"),
        (["noc95"], "raise --target-iou"),
    ):
        with pytest.raises(UserError) as caught:
            objectives_of(names, target_iou=0.9)
        assert message in str(caught.value)


def test_trials_survive_json() -> None:
    one = trial(3, 5.0, 7, {"cfr.steps": 4, "cfr.adaptive": True}, name="A-CFR-4", curve=[0.5, 0.75], mlflow_run="x")
    assert Trial.from_dict(json.loads(json.dumps(one.to_dict()))) == one
    listed = replace(one, values={"loss.weights": (1.0, 2.0)}, setting={"loss.weights": (1.0, 2.0)})
    assert Trial.from_dict(json.loads(json.dumps(listed.to_dict()))) == listed


def known_trials(count: int, seed: int = 0) -> list[Trial]:
    """Trials as random search proposes them; NoC depends on the threshold and noise, passes on the steps."""
    rng = np.random.default_rng(seed)
    found: list[Trial] = []
    for p in propose(SPACE, [NOC, PASSES], "random", seed, 0, [], [], count):
        noc = 10 + 40 * abs(p.setting["cfr.threshold"] - 0.44) + rng.normal(0, 0.2)
        metrics = {"noc90": float(noc), "passes": 10.0 + p.setting["cfr.steps"]}
        found.append(Trial(len(found), "done", p.values, p.setting, metrics))
    return found


def test_what_mattered_is_found_and_noise_is_not() -> None:
    trials = known_trials(40)
    found = {s.name: s for s in spreads(trials, SPACE.searched, [NOC, PASSES], 0)}
    assert next(iter(found)) == "cfr.threshold"
    assert found["cfr.threshold"].chance < 0.01 and (found["cfr.threshold"].importance or 0) > 0.7
    assert found["cfr.flip"].chance > 0.05
    assert sum(count for _, count, _ in found["cfr.crop"].groups) == 40
    assert next(iter(spreads(trials, SPACE.searched, [NOC, PASSES], 1))).name == "cfr.steps"
    few = spreads(trials[:3], SPACE.searched, [NOC, PASSES], 0)
    assert all(s.importance is None for s in few)
    outside = trial(40, 9.0, 9.0, {"cfr.steps": 9})  # given by hand, outside of the space
    assert len(study_of([*trials, outside], SPACE.searched, [NOC]).trials) == 41


def test_proposals_are_a_function_of_what_is_known() -> None:
    objectives = [NOC, PASSES]
    failed = replace(trial(12, 0, 0, {"cfr.steps": 3, "cfr.threshold": 0.59}), state="failed", metrics={})
    known = [*known_trials(12), failed]
    for search in ("tpe", "random"):
        first = propose(SPACE, objectives, search, 1, 2, known, [], 6)
        assert propose(SPACE, objectives, search, 1, 2, known, [], 6) == first
        assert propose(SPACE, objectives, search, 1, 3, known, [], 6) != first
        keys = [key_of(p.setting) for p in first]
        assert len(set(keys)) == 6 and not set(keys) & {key_of(t.setting) for t in known}
    narrow = build("cfr", TrainConfig(), {}, ["cfr.steps=choice(0,1)", "cfr.adaptive=choice(false,true)"])
    for search in ("tpe", "random", "grid"):
        assert len(propose(narrow, objectives, search, 0, 0, [], [], 8)) == 2  # A-CFR-0 and A-CFR-1 are no others


@settings(max_examples=4, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000))
def test_summary_of_any_trials(seed: int) -> None:
    trials = known_trials(6, seed)
    summary = json.loads(json.dumps(summary_of(trials, SPACE, [NOC, PASSES], by_metric, "/out")))
    assert set(summary["front"]) >= {step["trial"] for step in summary["worth"]}
    assert summary["worth"][0]["worth"] and summary["best"]["trial"] in summary["front"]


def write_best(folder: Path, space: Space, point: dict[str, Any], **changes: Any) -> str:
    drawn = point_of(space, point)
    one = Trial(4, "done", drawn, setting_of(space, drawn), {"noc90": 5.0})
    content = {**setting_file.setting_content(one, "why", space, [NOC], "/sweep"), **changes}
    (folder / setting_file.BEST).write_text(json.dumps(content))
    return str(folder / setting_file.BEST)


def test_evaluate_takes_best_json_and_flags_win(tmp_path: Path) -> None:
    point = {"cfr.steps": 3, "cfr.clicks": 20, "cfr.adaptive": True, "cfr.adaptive_pixels": 80, "cfr.threshold": 0.44}
    point |= {"cfr.expansion": 1.6, "cfr.min_crop": 100, "cfr.flip": False, "cfr.crop": 128}
    file = write_best(tmp_path, SPACE, point)
    base = ["--checkpoint", "c", "--data", "a=b", "--out", "o"]
    request = evaluate_job.parse([*base, "--config", file])
    assert request.cfr_steps == (3,) and request.crop == 128
    assert replace(request.cfr, steps=3, crop=128) == Cfr(
        steps=3,
        clicks=20,
        adaptive=True,
        adaptive_pixels=80,
        threshold=0.44,
        expansion=1.6,
        min_crop=100,
        flip=False,
        crop=128,
    )
    flags = ["--cfr-steps", "0", "1", "--threshold", "0.3", "--no-adaptive", "--flip", "--min-crop", "50"]
    over = evaluate_job.parse([f"--config={file}", *base, *flags])
    assert over.cfr_steps == (0, 1) and (over.cfr.threshold, over.cfr.adaptive, over.cfr.flip) == (0.3, False, True)
    assert (over.cfr.min_crop, over.cfr.expansion) == (50, 1.6)
    # Every value of CFR has its flag, so that no setting is taken in part.
    whole = evaluate_job.parse([*base, "--config", write_best(tmp_path, SPACE, {})])
    assert replace(whole.cfr, crop=448) == Cfr()


def test_train_takes_best_json_and_flags_win(tmp_path: Path) -> None:
    space = build("icl", TINY, icl_defaults(TINY))
    point = {"loss.weights.shape": "geometric", "loss.weights.ratio": 2.0, "optim.lr": 1e-3, "suem.mix_prob": 0.25}
    file = write_best(tmp_path, space, point)
    base = ["tiny", "--out", "o", "--data.train", "d"]
    run = train_job.parse([*base, "--config", file, "--suem.mix_prob", "0.75"])
    assert run.loss.weights == (1.0, 2.0, 4.0) and run.optim.lr == 1e-3 and run.suem.mix_prob == 0.75
    assert run.model == TINY.model and run.recipe == "tiny"
    plain = train_job.parse(base)
    assert plain.optim.lr == TINY.optim.lr


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    evaluation = ["--checkpoint", "c", "--data", "a=b", "--out", "o", "--config"]
    training = ["tiny", "--out", "o", "--data.train", "d", "--config"]
    space = build("icl", TINY, icl_defaults(TINY))
    (tmp_path / "icl").mkdir()
    icl, cfr = write_best(tmp_path / "icl", space, {}), write_best(tmp_path, SPACE, {})
    broken, other = tmp_path / "broken.json", tmp_path / "other.json"
    broken.write_text("{")
    other.write_text('{"values": {}}')
    for parse, args, message in (
        (evaluate_job.parse, [*evaluation, icl], "kind 'icl', which jobs.train takes"),
        (train_job.parse, [*training, cfr], "kind 'cfr', which jobs.evaluate takes"),
        (evaluate_job.parse, [*evaluation, str(broken)], "not JSON"),
        (evaluate_job.parse, [*evaluation, str(other)], "not a setting"),
        (evaluate_job.parse, [*evaluation, str(tmp_path / "none.json")], "no file"),
        (train_job.parse, training, "one file"),
    ):
        with pytest.raises(UserError) as caught:
            parse(args)
        assert message in str(caught.value)
    values = {"cfr.steps": 1, "cfr.stepz": 2}
    with pytest.raises(UserError, match=r"no option 'cfr\.stepz' here\. Did you mean 'cfr\.steps'"):
        evaluate_job.parse([*evaluation, write_best(tmp_path, SPACE, {}, values=values)])
    with pytest.raises(UserError, match=r"1\.5 is not between 0 and 1"):
        evaluate_job.parse([*evaluation, write_best(tmp_path, SPACE, {}, values={"cfr.threshold": 1.5})])
    values = {"optim.lr": "fast"}
    with pytest.raises(UserError, match="not float"):
        train_job.parse([*training, write_best(tmp_path, space, {}, values=values)])


def test_flags() -> None:
    assert config_flag(["a", "--b"]) is None and config_flag(["--config", "x"]) == config_flag(["--config=x"]) == "x"
    assert without_config(["--a", "1", "--config", "x", "--b"]) == ["--a", "1", "--b"]
    assert without_config(["--config=x", "--b"]) == ["--b"]
    with pytest.raises(UserError):
        config_flag(["--config=x", "--config", "y"])
    words = ["--space", "a=1", "b=2", "--out", "o", "--space", "c=3", "--only", "--space=d=4"]
    assert joined(words, "--space") == ["--out", "o", "--only", "--space", "a=1", "b=2", "c=3", "d=4"]


def test_published_points_are_trials_of_the_space() -> None:
    assert [key_of(setting_of(SPACE, p)) for p in published(SPACE).values()] == [
        key_of(setting_of(SPACE, point_of(SPACE, {"cfr.steps": steps, "cfr.adaptive": adaptive})))
        for steps, adaptive in ((0, False), (1, False), (4, False), (4, True))
    ]
