"""The method's claims at small size: CFR at inference, ICL and SUEM in training, all from one plainly trained base.

    python -m benchmarks.reproduction --base CHECKPOINT --data URI --val URI --out URI [--seeds 3] [--hours H]
        [--steps N]

The base is a model of the recipe `small`. Each cell (an arm of training and a seed) trains it on and is then evaluated
with CFR-0, 1, 2, 4 and A-CFR-4. A seed decides the samples and their order, so arms of one seed see the same ones.
Seed 0 of every arm comes first, so that there is a whole table early. The same command again continues; --hours and
Ctrl-C end the job at work cleanly. --out holds reproduction.md, .png and .json of what is done; --table prints the
tables and runs nothing.
"""

from __future__ import annotations

import argparse
import math
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from types import FrameType

import jobs  # noqa: F401, sets what the jobs find in their environment
from benchmarks.reproduction_data import write_some
from benchmarks.reproduction_report import QUESTIONS, table, write
from benchmarks.reproduction_results import ARMS, BASE, STEPS, answers, read
from pipeline import storage
from pipeline.engine import lease
from pipeline.errors import UserError
from pipeline.weights import located

SETTING = "setting.json"
WARMUP = 200  # steps, of the recipe; shorter runs spend a tenth of theirs
MARK = "summary.json"  # the last file of an evaluation that results are read from
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Cell:
    """One model: an arm and a seed, or the base itself."""

    arm: str
    seed: int = 0

    @property
    def name(self) -> str:
        return self.arm if self.arm == BASE else f"{self.arm}-seed{self.seed}"

    def folder(self, out: str, part: str) -> str:
        return storage.join(out, "cells", self.name, part)


def cells(arms: list[str], seeds: int) -> list[Cell]:
    """The base, then one seed after another of all arms."""
    return [Cell(BASE), *(Cell(arm, seed) for seed in range(seeds) for arm in arms)]


def training(options: argparse.Namespace, cell: Cell) -> list[str]:
    """The command that trains the base on."""
    warmup = min(WARMUP, options.steps // 10)
    words = ["jobs.train", "small", "--data.train", options.data, "--model.start", options.base]
    words += ["--seed", str(cell.seed), "--train.steps", str(options.steps), "--optim.lr", str(options.lr)]
    words += ["--optim.warmup-steps", str(warmup), "--no-tracking", "--out", cell.folder(options.out, "run")]
    return [*words, *ARMS[cell.arm].options]


def evaluation(options: argparse.Namespace, cell: Cell, adaptive: bool) -> list[str]:
    """The command that evaluates a cell's model: with CFR-n, or with A-CFR-4."""
    checkpoint = options.base if cell.arm == BASE else cell.folder(options.out, "run")
    words = ["jobs.evaluate", "--checkpoint", checkpoint, "--data", f"val={options.objects_at}", "--crop", "128"]
    words += ["--limit", str(options.objects), "--max-clicks", str(options.max_clicks), "--no-tracking"]
    words += ["--batch-size", str(options.batch_size)]
    if adaptive:
        return [*words, "--cfr-steps", "4", "--cfr.adaptive", "--out", cell.folder(options.out, "adaptive")]
    return [*words, "--cfr-steps", *map(str, STEPS), "--out", cell.folder(options.out, "cfr")]


def commands(options: argparse.Namespace, cell: Cell) -> list[list[str]]:
    """What is still to be done for a cell, in order."""
    missing = [
        adaptive
        for adaptive in (False, True)
        if not storage.exists(storage.join(cell.folder(options.out, "adaptive" if adaptive else "cfr"), MARK))
    ]
    train = [training(options, cell)] if missing and cell.arm != BASE else []  # a complete run says so and ends
    return [*train, *(evaluation(options, cell, adaptive) for adaptive in missing)]


class Runner:
    """One job after another, until the time is up or somebody asks for an end.

    A job is in a session of its own: a terminal sends Ctrl-C to all of its programs, and a job that hears it twice
    stops without saving.
    """

    def __init__(self, hours: float) -> None:
        self.deadline = time.monotonic() + 3600 * hours
        self.signal = 0
        self._job: subprocess.Popen[bytes] | None = None

    def listen(self) -> None:
        for number in SIGNALS:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        if self._job is not None:
            self._job.send_signal(number)

    @property
    def over(self) -> bool:
        return bool(self.signal) or time.monotonic() >= self.deadline

    def run(self, words: list[str]) -> bool:
        """Carry out a job; False when it was ended before it was done.

        Raises:
            SystemExit: the job failed.
        """
        if self.over:
            return False
        self._job = subprocess.Popen([sys.executable, "-m", *words], start_new_session=True)
        if self.signal:  # came while the job was started
            self._job.send_signal(self.signal)
        left = self.deadline - time.monotonic()
        try:
            code = self._job.wait(None if math.isinf(left) else max(left, 0))
        except subprocess.TimeoutExpired:
            self._job.send_signal(signal.SIGINT)
            code = self._job.wait()
        self._job = None
        if code and not self.over:
            raise SystemExit(f"{' '.join(words)}\nended with code {code}; the same command continues once it is mended")
        return code == 0


def identity(options: argparse.Namespace) -> dict[str, object]:
    """What decides the figures; seeds, arms and hours may change from one start to the next."""
    from pipeline.model.checkpoints import load_model  # torch takes seconds, and --table needs none

    names = ("data", "val", "steps", "lr", "per_image", "objects", "max_clicks", "batch_size")
    weights = load_model(options.base)[1].sha256  # a run folder's last checkpoint changes while the run goes on
    return {"base": weights, **{name: getattr(options, name) for name in names}}


def carry_out(options: argparse.Namespace) -> int:
    """Train and evaluate what is missing, writing the tables after every cell; the exit code."""
    from pipeline.evaluate.request import claim

    claim(storage.join(options.out, SETTING), identity(options), "a reproduction", {})
    if options.per_image:
        options.objects_at = f"folder:{write_some(options.val, options.out, options.per_image)}"
    runner = Runner(options.hours)
    runner.listen()
    plan = cells(options.arms, options.seeds)
    for cell in plan:
        for words in commands(options, cell):
            print(f"\n## {cell.name}: {words[0]}", flush=True)
            start = time.monotonic()
            if not runner.run(words):
                break
            print(f"{cell.name}: {words[0]} took {time.monotonic() - start:.0f} s", flush=True)
        if runner.over:
            break
        write(options.out, read(options.out))
    print(f"\n{write(options.out, read(options.out))}")
    left = sum(bool(commands(options, cell)) for cell in plan)
    print(f"\n{len(plan) - left} of {len(plan)} models are done" + ("; the same command continues" if left else ""))
    return 128 + runner.signal if runner.signal else 0


def parse(args: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="", help="small, or a checkpoint or run folder of that recipe")
    parser.add_argument("--data", default="", help="prepared shards to train on")
    parser.add_argument("--val", default="", help="prepared shards to evaluate on")
    parser.add_argument("--out", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--steps", type=int, default=500, help="of each arm, from the base on")
    parser.add_argument("--lr", type=float, default=3e-4, help="highest rate; the recipe's cosine takes it down")
    parser.add_argument("--per-image", type=int, default=0, help="so many objects of each photograph; 0: all")
    parser.add_argument("--objects", type=int, default=0, help="only the first so many of --val; 0: all")
    parser.add_argument("--max-clicks", type=int, default=20, help="click budget of an object, at least 10")
    parser.add_argument("--batch-size", type=int, default=1, help="objects that share a forward pass")
    parser.add_argument("--hours", type=float, default=math.inf, help="end cleanly after so long")
    parser.add_argument("--table", action="store_true", help="print the tables of what is done, run nothing")
    options = parser.parse_args(args)
    if not options.table and not (options.base and options.data and options.val):
        parser.error("--base, --data and --val are needed (or --table)")
    if options.max_clicks < 10 or options.seeds < 1 or options.steps < 1:
        parser.error("--max-clicks is at least 10 (for IoU@10), --seeds and --steps at least 1")
    options.base = located(options.base) if options.base else ""
    for name in ("data", "val", "out"):
        setattr(options, name, storage.absolute(getattr(options, name)) if getattr(options, name) else "")
    options.objects_at = options.val
    return options


def main() -> None:
    options = parse()
    try:
        if options.table:
            done = read(options.out)
            print(table(done, answers(done, QUESTIONS)))
            return
        with lease.held(options.out, "benchmarks.reproduction"):
            code = carry_out(options)
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
    sys.exit(code)


if __name__ == "__main__":
    main()
