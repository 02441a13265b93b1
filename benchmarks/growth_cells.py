"""What `benchmarks.growth` measures: each function draws what a size needs, and gives the work on it."""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import save

from benchmarks.stream import make
from jobs.evaluation_log import EvaluationLog
from pipeline.clicks.encode import Click
from pipeline.config import Cfr, Data, Eval, Model, Tracking, Train, TrainConfig
from pipeline.config import io as config_io
from pipeline.config.evaluation import EvaluateConfig, EvaluationBase
from pipeline.data import shards
from pipeline.data.manifest import MANIFEST, Manifest
from pipeline.data.readers import open_reader
from pipeline.data.readers.synthetic import write_synthetic
from pipeline.engine.machine import usable_cpus
from pipeline.engine.progress import Progress
from pipeline.evaluate import job, pool, results
from pipeline.evaluate.metrics import summarize
from pipeline.evaluate.plan import WorkUnit, open_dataset, plan
from pipeline.evaluate.request import CheckedEvaluation, check
from pipeline.evaluate.results import OBJECTS, Outcome
from pipeline.evaluate.shared import ObjectResult, SettingResult
from pipeline.model.checkpoints import FORMAT, MODEL, STATE, CheckpointInfo
from pipeline.model.segmenter import ClickSegmenter
from pipeline.model.tensor_files import file_name
from pipeline.report.sweep_report import write_sweep_report
from pipeline.stream import order
from pipeline.tracking.run import Run, open_run
from pipeline.tracking.store_uri import sqlite_uri
from pipeline.tune.cfr_sweep import by_object, rows_of
from pipeline.tune.search import propose
from pipeline.tune.spaces import Kind, build, cfr_defaults, icl_defaults
from pipeline.tune.summary import summary_of
from pipeline.tune.trials import OBJECTIVES, Trial, paired_difference

CROP = 64  # of the small network: what is around it is what is measured
CLICKS = 3
GROUP = 10  # images of a row group and of a shard, so that tasks are the same at both sizes
NAMES = 10  # metrics of a step
OF_SWEEP = 24  # objects


def without_engine() -> None:
    """Let what the engine would do be done in this process."""

    def here(todo: dict[int, bytes], task: shards.Job) -> Iterator[dict[str, Any]]:
        for index, items in todo.items():
            yield json.loads(shards.write_shard(index, items, task))

    for module, name, stand_in in [
        (shards, "_run", here),
        (shards, "connect", lambda: None),
        (shards, "check_everywhere", lambda *_: None),
        (shards, "watching", lambda _: contextlib.nullcontext()),
        (pool, "check_everywhere", lambda *_: None),
        (job, "actors_for", lambda *_: 1),
        (job, "ActorPool", OneActor),
    ]:
        setattr(module, name, stand_in)


class OneActor:
    """`pool.ActorPool` with one actor, which is in this process."""

    def __init__(self, config: EvaluationBase, checkpoint: CheckpointInfo, actors: int) -> None:
        self.config, self.checkpoint = config, checkpoint

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(
        self,
        units: Sequence[WorkUnit],
        parts: Mapping[str, str],
        settings: pool.SettingsAt,
        progress: Progress,
        strict: bool = False,
    ) -> None:
        config, waiting = self.config, deque(units)
        actor = pool.InferenceActor(self.checkpoint, False, usable_cpus(), None)
        actor.ready()
        while waiting:
            some = pool.next_call(waiting, Counter(), 1, config.batch)
            asked = pool.Call(some, parts, settings(some[0].crop), config.eval, config.batch, strict)
            for _ in actor.evaluate(asked):
                progress.update(1)


def draw(folder: Path, images: int, evaluation: int = 0) -> str:
    write_synthetic(f"{folder}/raw", train=images, val=0, seed=0, evaluation=evaluation)
    return f"{folder}/raw"


def convert(layout: str, raw: str, split: str, out: str) -> Manifest:
    return shards.write_shards(open_reader(layout, raw, split), out, split, rows_per_group=GROUP, groups_per_shard=1)


def prepare(folder: Path, size: int) -> Callable[[], object]:
    raw = draw(folder, size)
    return lambda: convert("coco-lvis", raw, "train", f"{folder}/shards")


def stream(folder: Path, size: int) -> Callable[[], object]:
    made = convert("coco-lvis", draw(folder, 3 * GROUP), "train", f"{folder}/shards")
    config = TrainConfig(data=Data(train=f"{folder}/shards"), train=Train(batch=32))
    plan = order.Plan([s.row_groups for s in made.shards], [s.weights for s in made.shards], config.seed)
    return lambda: make(config, plan, made, range(size))


def objects(folder: Path, size: int) -> str:
    """A prepared data set of `size` objects: copies of ten."""
    made = convert("folder", f"{draw(folder, 0, GROUP)}/eval", "", f"{folder}/ten")
    out, copies = folder / "shards", []
    out.mkdir()
    for number in range(size // GROUP):
        for shard in made.shards:
            copies.append(replace(shard, path=f"copy-{number:05d}-{shard.path}"))
            os.link(folder / "ten" / shard.path, out / copies[-1].path)
    rows = made.rows * (size // GROUP)
    (out / MANIFEST).write_bytes(replace(made, rows=rows, objects=rows, shards=copies).to_json())
    return str(out)


def checkpoint(folder: Path) -> str:
    """A network of some thousand weights, all random."""
    torch.manual_seed(0)
    model = Model(dim=32, depth=4, heads=2, neck_dims=(8, 8, 16, 16), head_dim=16, train_size=CROP)
    config = TrainConfig(model=model, data=Data(crop=CROP), cfr=Cfr(crop=CROP))
    state = {name: value.contiguous() for name, value in ClickSegmenter(model).state_dict().items()}
    folder.mkdir()
    (folder / file_name(MODEL)).write_bytes(save(state))
    (folder / STATE).write_text(
        json.dumps({"format": FORMAT, "step": 1, "mlflow_run": None, "config": config_io.to_dict(config)})
    )
    return str(folder)


def asked(folder: Path, size: int, clicks: int) -> CheckedEvaluation:
    config = EvaluateConfig(
        checkpoint=checkpoint(folder / "model"),
        data=(f"made={objects(folder, size)}",),
        out=f"{folder}/out",
        eval=Eval(max_clicks=clicks),
        tracking=Tracking(enabled=False),
    )
    return check(config)


def evaluation(folder: Path, size: int) -> Callable[[], object]:
    checked = asked(folder, size, CLICKS)
    return lambda: job.evaluate(checked, dict)


def reading(folder: Path, size: int) -> Callable[[], object]:
    """An evaluation all of whose parts are there: its tables, summary and report."""
    checked, rng = asked(folder, size, 20), np.random.default_rng(0)
    mask = {20: results.encode_mask(np.zeros((240, 320), bool))}
    for unit in plan([open_dataset("made", f"{folder}/shards", CROP)]):
        found = []
        for place in unit.places:
            ious = np.sort(rng.uniform(0.3, 0.94, 20)).tolist()
            clicks = [Click(int(r), int(c), bool(p)) for r, c, p in rng.integers((0, 0, 0), (240, 320, 2), (20, 3))]
            one = ObjectResult(place, clicks, ious, [1] * 20, [], 1.0)
            found.append(Outcome(place, {0: SettingResult(one, "", 20, 20.0)}, {0: mask}))
        results.write_table(
            f"{checked.out}/{job.PARTS}/{unit.name}.parquet", results.part_table(unit, found, {0: Cfr()})
        )
    return lambda: EvaluationLog(Run(), "").report(job.evaluate(checked, dict))


def sweep(kind: Kind) -> Callable[[Path, int], Callable[[], object]]:
    """Summary and report of a sweep by random search; what its trials came to is made up."""
    return lambda folder, size: sweep_of(kind, folder, size)


def sweep_of(kind: Kind, folder: Path, size: int) -> Callable[[], object]:
    rng, config = np.random.default_rng(0), TrainConfig(cfr=Cfr(crop=CROP))
    space = build(kind, config, cfr_defaults() if kind == "cfr" else icl_defaults(config))
    objectives = [OBJECTIVES[name] for name in (["noc90", "passes"] if kind == "cfr" else ["noc90", "noc85"])]
    trials, rows = [], []
    for number, made in enumerate(propose(space, objectives, "random", 0, 0, [], [], size)):
        good = sum(float(value) for value in made.setting.values() if isinstance(value, float)) % 1
        curves = np.sort(rng.uniform(0.2 + 0.4 * good, 0.97, (OF_SWEEP, 20)))
        found = summarize(curves.tolist(), 20, 0.95)
        metrics = {f"noc{level}": figure for level, figure in found["noc"].items()}
        metrics |= {"passes": 20.0 + made.setting.get("cfr.steps", 0) + rng.uniform(), "seconds": 1.0}
        history = [{"step": step, **metrics} for step in (100, 200)] if kind == "icl" else []
        trials.append(
            Trial(number, "done", made.values, made.setting, metrics, curve=found["mean_iou"], history=history)
        )
        about = {"dataset": "made", "object_id": 0, "trial": number}
        rows += [{**about, "image_id": f"{k:03d}", "iou": curve} for k, curve in enumerate(curves.tolist())]
    table = pa.Table.from_pylist(rows, schema=OBJECTS)

    def difference(a: Trial, b: Trial) -> tuple[float, float, float]:
        return paired_difference(*(by_object(rows_of(table, t.id), "noc90", Eval()) for t in (a, b)))

    facts = {"options": {"grace": 100, "reduction": 2}, "steps": 200, "hours": 1.0, "command": "", "data": {}}

    def report() -> None:
        summary = summary_of(trials, space, objectives, difference if kind == "cfr" else None, str(folder))
        write_sweep_report(folder, json.loads(json.dumps({**facts, **summary})))

    return report


def tracking(folder: Path, size: int) -> Callable[[], object]:
    uri = Tracking(uri=sqlite_uri(folder.parent / "mlflow.db"))  # the warm-up makes its tables

    def log() -> None:
        with open_run(uri, kind="train", name="growth", params={}, out=str(folder)) as run:
            for step in range(size // NAMES):
                run.metrics({f"metric{name}": step + 0.1 * name for name in range(NAMES)}, step)
            if not run.flush(timeout=600):
                raise SystemExit("the store did not take everything")

    return log
