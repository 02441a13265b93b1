"""A sweep over CFR settings of one checkpoint: generations of settings, each evaluated together on the cluster.

A generation is one Ray Data job of inference actors whose unit of work is a few objects under all of its settings
(`evaluate.shared`). Trials that run apart, as Tune runs them, could not share forward passes; so Tune's searcher
proposes (`tune.search`), but its trial runner is not used.

    generations/003.json        its proposals, written before anything is evaluated
    parts/003/NAME.parquet      what a chunk of objects gave
    parts/003/split.json        the settings killed their actor however often: they are halved, parts/003.0 and 003.1,
                                until one setting is left, which has failed
    trials.json                 the trials so far

The position of a sweep is what exists of these: the same command again proposes the same, evaluates what is missing,
and goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import pyarrow as pa

from pipeline import storage
from pipeline.config import Cfr, Eval
from pipeline.engine.progress import Progress
from pipeline.evaluate import results
from pipeline.evaluate.plan import Chunk, DataSet, chunks
from pipeline.evaluate.pool import LOST, InferenceActor, actors_for, in_rounds, prepared, through_actors
from pipeline.evaluate.shared import describe
from pipeline.tune import cfr_parts
from pipeline.tune.cfr_request import CheckedSweep
from pipeline.tune.proposals import Proposal, config_of, key_of
from pipeline.tune.search import propose
from pipeline.tune.trials import Trial, from_json

CHUNK = 4  # objects of a unit of work
TRIALS = "trials.json"

OnTrial = Callable[[Trial], str | None]
"""Called with a trial that has ended; returns its tracking run. While it returns None it is called again: once more at
the end of the sweep, and by the command that continues it."""


class Sweep:
    """A sweep being carried out on the connected cluster.

    Attributes:
        trials: those that have ended, in the order of their ids.
        objects: their results (`cfr_parts.OBJECTS`).
        rejected: objects set aside.
        exhausted: the space held no further setting.
    """

    def __init__(self, checked: CheckedSweep) -> None:
        """List the objects.

        Raises:
            UserError: more CPUs or GPUs asked for than the cluster has, or data that cannot be used.
        """
        self.checked = checked
        self.actors = actors_for(checked.evaluation.request.rules, "A sweep")
        self.datasets: list[DataSet] = prepared(checked.evaluation)
        self.chunks = list(chunks(self.datasets, CHUNK))
        self.trials: list[Trial] = []
        self.objects = cfr_parts.OBJECTS.empty_table()
        self.rejected = results.REJECTED.empty_table()
        self.exhausted = False

    def run(self, on_trial: OnTrial) -> None:
        """Evaluate the wanted number of trials; write trials.json, objects.parquet and rejected.parquet.

        Raises:
            UserError: too many objects that cannot be used, damaged files.
        """
        known = self._tracked_runs()
        generation = 0
        while len(self.trials) < self.checked.request.trials and not self.exhausted:
            proposals = self._proposals(generation)
            if proposals:
                self._generation(generation, proposals, known, on_trial)
            generation += 1
        self.trials = [t if t.mlflow_run else replace(t, mlflow_run=on_trial(t)) for t in self.trials]
        self._write()

    def _tracked_runs(self) -> dict[int, str]:
        uri = storage.join(self.checked.out, TRIALS)
        held = json.loads(storage.read_bytes(uri)) if storage.exists(uri) else []
        return {row["id"]: row["mlflow_run"] for row in held if row["mlflow_run"]}

    def _proposals(self, generation: int) -> list[Proposal]:
        """What the generation tries: as it was written before, or proposed and written now."""
        uri = storage.join(self.checked.out, "generations", f"{generation:03d}.json")
        if storage.exists(uri):
            return [Proposal(**from_json(row)) for row in json.loads(storage.read_bytes(uri))]
        request = self.checked.request
        left = request.trials - len(self.trials)
        held = {key_of(trial.setting) for trial in self.trials}
        planned = [p for p in self.checked.first if key_of(p.setting) not in held][:left]
        count = min(left, self.checked.generation) - len(planned)
        found = list(planned)
        if count > 0:
            new = propose(
                self.checked.space,
                self.checked.objectives,
                request.search,
                request.seed,
                generation,
                self.trials,
                planned,
                count,
            )
            self.exhausted = len(new) < count
            found += new
        if found:
            storage.write_bytes(uri, json.dumps([asdict(p) for p in found], indent=1).encode())
        return found

    def _generation(
        self, generation: int, proposals: Sequence[Proposal], known: dict[int, str], on_trial: OnTrial
    ) -> None:
        ids = range(len(self.trials), len(self.trials) + len(proposals))
        trials = [Trial(i, "stopped", generation=generation, **asdict(p)) for i, p in zip(ids, proposals, strict=True)]
        tables, died = _Together(self, f"{generation:03d}").evaluate(trials, self.chunks)
        objects, rejected = cfr_parts.merge(tables)
        self._set_aside(rejected)
        for trial in trials:
            ended = self._ended(trial, objects, died.get(trial.id, ""))
            ended = replace(ended, mlflow_run=known.get(trial.id) or on_trial(ended))
            self.trials.append(ended)
        self.objects = pa.concat_tables([self.objects, objects])
        self._write()

    def _ended(self, trial: Trial, objects: pa.Table, died: str) -> Trial:
        rows = cfr_parts.rows_of(objects, trial.id)
        error = died or cfr_parts.error_in(rows)
        seconds = float(sum(row["seconds"] or 0.0 for row in rows))
        if error:
            return replace(trial, state="failed", error=error, seconds=seconds)
        metrics, curve = cfr_parts.figures(rows, self.checked.evaluation.request.rules)
        return replace(trial, state="done", metrics=metrics, curve=curve, seconds=seconds)

    def _set_aside(self, rejected: pa.Table) -> None:
        merged = pa.concat_tables([self.rejected, rejected.cast(results.REJECTED)]).to_pylist()
        distinct = {(row["dataset"], row["image_id"], row["object_id"]): row for row in merged}
        self.rejected = pa.Table.from_pylist(list(distinct.values()), schema=results.REJECTED)
        results.write_table(storage.join(self.checked.out, "rejected.parquet"), self.rejected)
        for data in self.datasets:
            results.check_bad(data, self.rejected, self.checked.evaluation.request.rules)

    def _write(self) -> None:
        rows = [trial.to_dict() for trial in self.trials]
        storage.write_bytes(storage.join(self.checked.out, TRIALS), json.dumps(rows, indent=1).encode())
        results.write_table(storage.join(self.checked.out, "objects.parquet"), self.objects)


class _Together:
    """Trials that are evaluated together: a generation, or a part of one whose settings killed their actor."""

    def __init__(self, sweep: Sweep, group: str) -> None:
        self.sweep, self.group = sweep, group
        self.folder = storage.join(sweep.checked.out, "parts", group)
        self.split = storage.join(self.folder, "split.json")

    def evaluate(self, trials: Sequence[Trial], wanted: Sequence[Chunk]) -> tuple[list[pa.Table], dict[int, str]]:
        """All parts of some chunks, and what the trials died of that killed their actor."""

        def missing() -> list[Chunk]:
            done = set(storage.list_files(self.folder, ".parquet"))
            return [chunk for chunk in wanted if self._part(chunk) not in done]

        pending = missing()
        if pending and not storage.exists(self.split):
            try:
                in_rounds(missing, lambda left: self._run(trials, wanted, left))
            except LOST as error:
                storage.write_bytes(self.split, json.dumps({"error": describe(error)}).encode())
            pending = missing()
        held = [self._part(chunk) for chunk in wanted if chunk not in pending]
        tables = list(storage.map_parallel(results.read_table, held))
        if not pending:
            return tables, {}
        if len(trials) == 1:
            error = json.loads(storage.read_bytes(self.split))["error"]
            return tables, {trials[0].id: f"its actor died however often it was tried: {error}"}
        died: dict[int, str] = {}
        middle = len(trials) // 2
        for number, half in enumerate((trials[:middle], trials[middle:])):
            found, lost = _Together(self.sweep, f"{self.group}.{number}").evaluate(half, pending)
            tables += found
            died |= lost
        return tables, died

    def _part(self, chunk: Chunk) -> str:
        return storage.join(self.folder, f"{chunk.name}.parquet")

    def _run(self, trials: Sequence[Trial], wanted: Sequence[Chunk], pending: Sequence[Chunk]) -> None:
        checked = self.sweep.checked
        request = checked.evaluation.request
        settings = [(trial.id, config_of(checked.space, trial.setting).cfr, trial.setting) for trial in trials]
        todo = [{"chunk": json.dumps(chunk.to_dict()), "part": self._part(chunk)} for chunk in pending]
        total, left = (sum(len(chunk.places) for chunk in some) for some in (wanted, pending))
        what = f"trials {trials[0].id}-{trials[-1].id} of {checked.request.trials}"
        progress = Progress(what, total, "objects", done=total - left)
        arguments = [settings, request.rules, request.batch_size]
        through_actors(SweepActor, arguments, todo, checked.evaluation, self.sweep.actors, progress)
        progress.close()


class SweepActor(InferenceActor):
    """Evaluates a chunk of objects under all settings of a generation at a call, and writes its part."""

    def __init__(
        self,
        uri: str,
        sha256: str,
        gpu: bool,
        actors_on_node: int,
        signs: Any,
        settings: Sequence[tuple[int, Cfr, dict[str, Any]]],
        rules: Eval,
        batch_size: int,
    ) -> None:
        super().__init__(uri, sha256, gpu, actors_on_node, signs)
        self.settings, self.rules, self.batch_size = settings, rules, batch_size

    def work(self, work: dict[str, Any]) -> dict[str, Any]:
        """One chunk: {"chunk": JSON, "part": URI} to {"name": ..., "objects": number}."""
        chunk = Chunk.from_dict(json.loads(work["chunk"]))
        settings = {number: cfr_parts.on_dataset(cfr, setting, chunk.crop) for number, cfr, setting in self.settings}
        table = cfr_parts.evaluate_chunk(
            self.model, chunk, self.rows(chunk), settings, self.rules, self.batch_size, self.device, self.threads
        )
        results.write_table(work["part"], table)
        return {"name": chunk.dataset, "objects": len(chunk.places)}
