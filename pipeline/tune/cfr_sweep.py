"""A sweep over CFR settings of one checkpoint: generations of settings, each evaluated together on the cluster.

A generation is evaluated as an evaluation's list of settings is, by the same pool of inference actors, which stays from
one generation to the next (`evaluate.pool`). Trials that run apart, as Tune runs them, could not share forward passes;
so Tune's searcher proposes (`tune.search`), but its trial runner is not used.

    generations/003.json        its proposals, written before anything is evaluated
    parts/003/NAME.parquet      what a unit of work gave
    parts/003/split.json        the settings killed their actor however often: they are halved, parts/003.0 and 003.1,
                                until one setting is left, which has failed
    trials.json                 the trials so far

The position of a sweep is what exists of these: the same command again proposes the same, evaluates what is missing,
and goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import storage
from pipeline.config import Cfr, Eval
from pipeline.engine.progress import Progress
from pipeline.errors import describe
from pipeline.evaluate import results
from pipeline.evaluate.metrics import levels, noc
from pipeline.evaluate.plan import DataSet, WorkUnit, plan
from pipeline.evaluate.pool import LOST, ActorPool, actors_for, in_rounds, prepared
from pipeline.evaluate.setting import dataset_rows
from pipeline.storage.json_files import read_json, write_json
from pipeline.tune.cfr_request import CheckedSweep
from pipeline.tune.proposals import Proposal, config_of, key_of
from pipeline.tune.search import propose
from pipeline.tune.trials import ByObject, Trial, from_json

TRIALS = "trials.json"

OnTrial = Callable[[Trial], str | None]
"""Called with a trial that has ended; returns its tracking run. While it returns None it is called again: once more at
the end of the sweep, and by the command that continues it."""


class Sweep:
    """A sweep being carried out on the connected cluster.

    Attributes:
        trials: those that have ended, in the order of their ids.
        objects: their results (`results.OBJECTS`).
        rejected: objects set aside.
        exhausted: the space held no further setting.
    """

    def __init__(self, checked: CheckedSweep) -> None:
        """List the objects.

        Raises:
            UserError: more CPUs or GPUs asked for than the cluster has, or data that cannot be used.
        """
        self.checked = checked
        self.actors = actors_for(checked.config.eval, "A sweep")
        self.datasets: list[DataSet] = prepared(checked)
        self.units = list(plan(self.datasets))
        self.pool = ActorPool(checked.config, checked.checkpoint, self.actors)
        self.trials: list[Trial] = []
        self.objects = results.OBJECTS.empty_table()
        self.rejected = results.REJECTED.empty_table()
        self.exhausted = False

    def run(self, on_trial: OnTrial) -> None:
        """Evaluate the wanted number of trials; write trials.json, objects.parquet and rejected.parquet.

        Raises:
            UserError: too many objects that cannot be used, damaged files.
        """
        known = self._tracked_runs()
        generation = 0
        with self.pool:
            while len(self.trials) < self.checked.config.trials and not self.exhausted:
                proposals = self._proposals(generation)
                if proposals:
                    self._generation(generation, proposals, known, on_trial)
                generation += 1
        self.trials = [t if t.mlflow_run else replace(t, mlflow_run=on_trial(t)) for t in self.trials]
        self._write()

    def _tracked_runs(self) -> dict[int, str]:
        uri = storage.join(self.checked.out, TRIALS)
        held = read_json(uri) if storage.exists(uri) else []
        return {row["id"]: row["mlflow_run"] for row in held if row["mlflow_run"]}

    def _proposals(self, generation: int) -> list[Proposal]:
        """What the generation tries: as it was written before, or proposed and written now."""
        uri = storage.join(self.checked.out, "generations", f"{generation:03d}.json")
        if storage.exists(uri):
            return [Proposal(**from_json(row)) for row in read_json(uri)]
        config = self.checked.config
        left = config.trials - len(self.trials)
        held = {key_of(trial.setting) for trial in self.trials}
        planned = [p for p in self.checked.first if key_of(p.setting) not in held][:left]
        count = min(left, self.checked.generation) - len(planned)
        found = list(planned)
        if count > 0:
            new = propose(
                self.checked.space,
                self.checked.objectives,
                config.search,
                config.search_seed,
                generation,
                self.trials,
                planned,
                count,
            )
            self.exhausted = len(new) < count
            found += new
        if found:
            write_json(uri, [asdict(p) for p in found])
        return found

    def _generation(
        self, generation: int, proposals: Sequence[Proposal], known: dict[int, str], on_trial: OnTrial
    ) -> None:
        ids = range(len(self.trials), len(self.trials) + len(proposals))
        trials = [Trial(i, "stopped", generation=generation, **asdict(p)) for i, p in zip(ids, proposals, strict=True)]
        tables, died = TrialGroup(self, f"{generation:03d}").evaluate(trials, self.units)
        objects, rejected = results.merge(tables)
        self._set_aside(rejected)
        for trial in trials:
            ended = self._ended(trial, objects, died.get(trial.id, ""))
            ended = replace(ended, mlflow_run=known.get(trial.id) or on_trial(ended))
            self.trials.append(ended)
        self.objects = pa.concat_tables([self.objects, objects])
        self._write()

    def _ended(self, trial: Trial, objects: pa.Table, died: str) -> Trial:
        rows = rows_of(objects, trial.id)
        error = died or next((error for error in rows["error"].to_pylist() if error is not None), "")
        seconds = float(np.nansum(rows["seconds"].to_numpy(), dtype=np.float64))
        if error:
            return replace(trial, state="failed", error=error, seconds=seconds)
        metrics, curve = figures(rows, self.checked.config.eval)
        return replace(trial, state="done", metrics=metrics, curve=curve, seconds=seconds)

    def _set_aside(self, rejected: pa.Table) -> None:
        self.rejected = results.distinct(pa.concat_tables([self.rejected, rejected]))
        results.write_table(storage.join(self.checked.out, "rejected.parquet"), self.rejected)
        for data in self.datasets:
            results.check_bad(data, self.rejected, self.checked.config.eval)

    def _write(self) -> None:
        rows = [trial.to_dict() for trial in self.trials]
        write_json(storage.join(self.checked.out, TRIALS), rows)
        results.write_table(storage.join(self.checked.out, "objects.parquet"), self.objects)


class TrialGroup:
    """Trials that are evaluated together: a generation, or a part of one whose settings killed their actor."""

    def __init__(self, sweep: Sweep, group: str) -> None:
        self.sweep, self.group = sweep, group
        self.folder = storage.join(sweep.checked.out, "parts", group)
        self.split = storage.join(self.folder, "split.json")

    def evaluate(self, trials: Sequence[Trial], wanted: Sequence[WorkUnit]) -> tuple[list[pa.Table], dict[int, str]]:
        """All parts of some units, and what the trials died of that killed their actor."""
        parts = {unit.name: storage.join(self.folder, f"{unit.name}.parquet") for unit in wanted}

        def missing() -> list[WorkUnit]:
            done = set(storage.list_files(self.folder, ".parquet"))
            return [unit for unit in wanted if parts[unit.name] not in done]

        pending = missing()
        if pending and not storage.exists(self.split):
            try:
                in_rounds(missing, lambda left: self._run(trials, wanted, left, parts))
            except LOST as error:
                storage.write_bytes(self.split, json.dumps({"error": describe(error)}).encode())
            pending = missing()
        held = [unit for unit in wanted if unit not in pending]
        tables = results.read_parts(held, parts, [trial.id for trial in trials])
        if not pending:
            return tables, {}
        if len(trials) == 1:
            error = read_json(self.split)["error"]
            return tables, {trials[0].id: f"its actor died however often it was tried: {error}"}
        died: dict[int, str] = {}
        middle = len(trials) // 2
        for number, half in enumerate((trials[:middle], trials[middle:])):
            found, lost = TrialGroup(self.sweep, f"{self.group}.{number}").evaluate(half, pending)
            tables += found
            died |= lost
        return tables, died

    def _run(
        self, trials: Sequence[Trial], wanted: Sequence[WorkUnit], left: Sequence[WorkUnit], parts: Mapping[str, str]
    ) -> None:
        checked = self.sweep.checked
        asked = {trial.id: config_of(checked.space, trial.setting).cfr for trial in trials}
        own = {trial.id for trial in trials if "cfr.crop" in trial.setting}  # the others have the data set's crop

        def settings(crop: int) -> dict[int, Cfr]:
            return {number: cfr if number in own else replace(cfr, crop=crop) for number, cfr in asked.items()}

        total, rest = (sum(len(unit.places) for unit in some) for some in (wanted, left))
        what = f"trials {trials[0].id}-{trials[-1].id} of {checked.config.trials}"
        progress = Progress(what, total, "objects", done=total - rest)
        self.sweep.pool.run(left, parts, settings, progress)
        progress.close()


def rows_of(objects: pa.Table, trial: int) -> pa.Table:
    """A trial's rows."""
    return objects.filter(pa.array(objects["trial"].to_numpy() == trial))


def figures(rows: pa.Table, rules: Eval) -> tuple[dict[str, float], list[float]]:
    """The final figures of a trial that did not fail, and its mean IoU after each click.

    Every figure is the mean over the data sets of their own figures (`results.figures`), so that each data set counts
    the same whatever its size. With several, each one's are there too, as "NAME/noc90".

    Returns:
        {"noc80", ..., "iou1", ..., "passes": per object, "seconds": per click}, and (max_clicks,) IoUs.
    """
    own: dict[str, dict[str, float]] = {}
    curves: list[list[float]] = []
    for name in dict.fromkeys(rows["dataset"].to_pylist()):
        found = results.figures(dataset_rows(rows, name), rules)
        own[name] = {
            **{f"noc{level}": value for level, value in found["noc"].items()},
            **{f"iou{k}": value for k, value in found["iou_at"].items()},
            "passes": found["forward_passes"] / found["objects"],
            "seconds": found["seconds_per_click"],
        }
        curves.append(found["mean_iou"])
    names = next(iter(own.values()))
    metrics = {name: float(np.mean([one[name] for one in own.values()])) for name in names}
    if len(own) > 1:
        metrics |= {f"{data}/{name}": value for data, one in own.items() for name, value in one.items()}
    return metrics, [float(v) for v in np.mean(curves, axis=0)]


def by_object(rows: pa.Table, figure: str, rules: Eval) -> ByObject:
    """A quality of a trial, of every object: what `figures` takes the mean of.

    Args:
        figure: "noc90", ... or "iou3", ...
    """
    number = int(figure[3:])
    assert figure.startswith("iou") or number in levels(rules.target_iou)
    found: dict[str, dict[Any, float]] = {}
    for row in rows.drop_columns(["clicks"]).to_pylist():
        curve = row["iou"]
        value = noc(curve, number, rules.max_clicks) if figure.startswith("noc") else curve[min(number, len(curve)) - 1]
        found.setdefault(row["dataset"], {})[row["image_id"], row["object_id"]] = float(value)
    return found
