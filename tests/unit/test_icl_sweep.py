"""A sweep over training settings without Ray: what is refused and what is kept."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest

from jobs.recipes import RECIPES
from pipeline import storage
from pipeline.config import Train, TrainConfig
from pipeline.config.io import replace
from pipeline.config.sweeps import IclSweepConfig, fields_of
from pipeline.engine.capacity import Node, runs_at_once
from pipeline.errors import UserError
from pipeline.tune import icl_folder
from pipeline.tune.icl_request import check
from pipeline.tune.proposals import Proposal, config_of
from pipeline.tune.trials import Trial, at_common_step
from tests.made import rows_of_blobs, small_config, write_checkpoint, write_dataset


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("shards") / "blobs"
    write_dataset(folder, rows_of_blobs(4))
    return str(folder)


def small(shards: str, out: Path, **more: Any) -> TrainConfig:
    values = {"out": str(out), "data.train": shards, "data.val": shards, "train.steps": 18, "data.crop": 64}
    values |= {"cfr.crop": 64, "model.train_size": 64, "data.min_object_area": 20}
    return replace(RECIPES["tiny"].config, **{**values, **more})


def sweep(run: TrainConfig, **more: Any) -> IclSweepConfig:
    return IclSweepConfig(**{"trials": 8, **fields_of(run, TrainConfig), **more})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trials": 0}, "--trials"),
        ({"reduction": 0}, "--reduction"),
        ({"grace": 18}, "No trial can be stopped early: --grace is 18 steps, and a trial trains 18"),
        ({"gpu_hours": 1.0}, "--gpu-hours needs"),
        ({"hours": -1.0}, "at least 0"),
        ({"objectives": ("noc95",)}, "does not measure noc95"),
        ({"objectives": ("passes",)}, "does not measure passes"),
        ({"objectives": ("noc9",)}, "Did you mean"),
        ({"search": "pbt"}, "--search is one of tpe, random, grid"),
        ({"search": "grid", "only": True, "space": ("loss.gamma=choice(0,1,2,3,4,5,6,7,8)",)}, "more than --trials 8"),
        ({"search": "bayes"}, "--search is one of"),
        ({"space": ("train.steps=choice(10,20)",)}, "budget decides"),
        ({"space": ("optim.lr=loguniform(1e-4,1e-6)",)}, "upside down"),
        ({"space": ("optim.lrr=1",)}, "Did you mean"),
        ({"point": ("cfr.steps=1",)}, "not searched"),
    ],
)
def test_what_is_refused(shards: str, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(sweep(small(shards, tmp_path / "out"), **changes))
    assert not (tmp_path / "out").exists()


def test_validation_data_is_needed(shards: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--data\.val"):
        check(sweep(small(shards, tmp_path / "out", **{"data.val": ""})))


def test_a_checked_sweep_begins_with_the_recipe_and_continues_only_as_itself(shards: str, tmp_path: Path) -> None:
    request = sweep(small(shards, tmp_path / "out"), point=("loss.gamma=1 loss.alpha=0.6",))
    checked = check(request)
    assert [p.name for p in checked.first] == ["recipe", "point 1"] and checked.grace == 2
    assert checked.run.train.val_every == 2
    assert config_of(checked.space, checked.first[0].setting) == checked.run
    assert checked.first[1].setting["loss.gamma"] == 1
    check(dataclasses.replace(request, trials=20, hours=3.0, concurrent=1))  # goes on
    check(replace(request, **{"train.log_every": 7}))
    for changes, named in (
        ({"search_seed": 1}, "seed"),
        ({"grace": 3}, "grace"),
        ({"train.steps": 20}, "config"),
    ):
        with pytest.raises(UserError, match=rf"holds a sweep with another .*{named}"):
            check(replace(request, **changes))


def test_a_sweep_by_a_search_that_is_gone_is_refused(shards: str, tmp_path: Path) -> None:
    request = sweep(small(shards, tmp_path / "out"))
    check(request)
    file = tmp_path / "out" / "sweep.json"
    file.write_text(file.read_text().replace('"search": "tpe"', '"search": "pbt"'))
    with pytest.raises(UserError, match=r"holds a sweep with another .*search"):
        check(request)


def test_a_sweep_is_bound_to_its_data_and_start(shards: str, tmp_path: Path) -> None:
    data = str(shutil.copytree(shards, tmp_path / "data"))
    start = write_checkpoint(tmp_path / "start" / "checkpoints" / "step_00000001")
    run = dataclasses.replace(small(data, tmp_path / "out"), model=small_config().model)
    run = replace(run, **{"model.start": start})
    request = sweep(run)
    check(request)
    check(request)
    shutil.rmtree(start)
    write_checkpoint(Path(start), seed=1)
    with pytest.raises(UserError, match=r"model\.start: 1 file differs"):
        check(request)
    shutil.rmtree(start)
    write_checkpoint(Path(start))
    check(request)
    shutil.rmtree(data)
    write_dataset(Path(data), rows_of_blobs(8, seed=9))
    with pytest.raises(UserError, match=r"data\.(train|val): 1 file differs"):
        check(request)


def test_the_folder_gives_back_what_was_kept(tmp_path: Path) -> None:
    out = str(tmp_path)
    proposal = Proposal({"loss.gamma": 1.5}, {"loss.gamma": 1.5, "loss.weights": (1.0, 2.0)}, "point 1")
    icl_folder.write_proposal(out, 3, proposal)
    assert icl_folder.numbers(out) == [3] and icl_folder.read_proposal(out, 3) == proposal
    assert icl_folder.read_ended(out, 3) is None
    trial = Trial(3, "stopped", proposal.values, proposal.setting, {"noc90": 4.0}, history=[{"step": 2, "noc90": 4.0}])
    icl_folder.write_ended(out, trial)
    assert icl_folder.read_ended(out, 3) == trial
    assert icl_folder.read_spent(out) == (0.0, 0.0)
    icl_folder.write_spent(out, 5.0, 2.0)
    assert icl_folder.read_spent(out) == (5.0, 2.0)


def test_validations_of_a_trial(tmp_path: Path) -> None:
    out = str(tmp_path)
    assert icl_folder.history(out, 0) == []
    rows = '{"step": 1, "train/loss": 2}\n{"step": 2, "val/noc90": 9.0}\n{"step": 4, "val/noc90": 8.0, "optim/lr": 1}\n'
    storage.write_bytes(f"{icl_folder.run_uri(out, 0)}/metrics.jsonl", rows.encode())
    assert icl_folder.history(out, 0) == [{"step": 2, "noc90": 9.0}, {"step": 4, "noc90": 8.0}]


def test_trials_are_compared_where_all_of_them_came() -> None:
    def trial(number: int, *figures: float) -> Trial:
        return Trial(number, "stopped", {}, {}, history=[{"step": 2.0 * i, "noc90": f} for i, f in enumerate(figures)])

    step, found = at_common_step([trial(0, 9, 8, 7), trial(1, 9, 5), Trial(2, "failed", {}, {})])
    assert step == 2 and [(t.id, t.state, t.metrics) for t in found] == [
        (0, "done", {"noc90": 8}),
        (1, "done", {"noc90": 5}),
    ]
    assert at_common_step([Trial(2, "failed", {}, {})]) == (0, [])


def test_trials_at_once() -> None:
    one = Train(workers=1, cpus_per_worker=1)
    assert runs_at_once([Node(4)], one) == 2 and runs_at_once([Node(16)], one) == 8
    gpus = Train(workers=2, cpus_per_worker=2, gpu=True, batch=32)
    assert runs_at_once([Node(16, 4), Node(16, 4)], gpus) == 4
    assert runs_at_once([Node(16, 4), Node(2, 4)], gpus) == 2
    assert runs_at_once([Node(1)], one) == 1
