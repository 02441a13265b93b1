"""Ray at the edge of a job: connect or start, check resources before work, progress, exit codes."""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import NoReturn

from pipeline.errors import UserError

# Read by Ray when its modules are imported, so they are set here, before `import ray` below.
# A report of a training worker waits for the next health check: 2 s by default, far longer than a small step.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
os.environ.setdefault("RAY_TRAIN_COLLECTIVE_TIMEOUT_S", "3600")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray

LOCAL_STORE_BYTES = 1_500_000_000


def connect(min_cpus: int = 4) -> None:
    """Connect to the cluster of RAY_ADDRESS (set inside `ray job submit`), else start Ray on this machine.

    A small machine is given `min_cpus` logical CPUs: a training worker and the stream's tasks need one each, and they
    share the cores well.
    """
    if ray.is_initialized():
        return
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    else:
        ray.init(
            address="local",  # never a cluster that happens to run on this machine: RAY_ADDRESS=auto asks for that
            num_cpus=max(os.cpu_count() or 1, min_cpus),
            object_store_memory=LOCAL_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )


def require(cpus: float, gpus: float, what: str) -> None:
    """Fail at once when the cluster can never give what a job asks for (Ray would wait for ever).

    A cluster that adds machines by itself says in CFR_ICL_GROWS_TO what it can grow to: Ray does not tell.

    Raises:
        UserError: naming what was asked for and what there is.
    """
    have = ray.cluster_resources()
    limits = growth(os.environ.get("CFR_ICL_GROWS_TO", ""))
    for kind, asked in (("CPU", cpus), ("GPU", gpus)):
        now, most = have.get(kind, 0.0), max(have.get(kind, 0.0), limits.get(kind, 0.0))
        grows = f" and can grow to {most:g}" if most > now else ""
        if asked > most + 1e-6:
            other = "CPU" if kind == "GPU" else "GPU"
            raise UserError(
                f"{what} asks for {asked:g} {kind}s, but the cluster has {now:g}{grows} "
                f"(and {have.get(other, 0.0):g} {other}s). Ask for fewer, or add machines."
            )
        if asked > now + 1e-6:
            print(
                f"{what} asks for {asked:g} {kind}s; the cluster has {now:g}{grows}: waiting for machines, "
                f"which takes some minutes.",
                file=sys.stderr,
                flush=True,
            )


def growth(text: str) -> dict[str, float]:
    """'CPU=160,GPU=2' -> {'CPU': 160.0, 'GPU': 2.0}."""
    try:
        return {kind: float(most) for kind, most in (part.split("=") for part in text.split(",") if part)}
    except ValueError:
        raise UserError(f"CFR_ICL_GROWS_TO is {text!r}; it should read like CPU=160,GPU=2.") from None


class Progress:
    """Rows done, rate and time left: one line redrawn on a terminal, a plain line every few seconds elsewhere."""

    def __init__(self, what: str, total: int, unit: str = "rows", done: int = 0) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done = self.first = done
        self.start = time.monotonic()
        self.terminal = sys.stderr.isatty()
        self._shown = 0.0

    def update(self, n: int = 1, note: str = "") -> None:
        self.done += n
        now = time.monotonic()
        if now - self._shown >= (0.2 if self.terminal else 10.0) or self.done >= self.total:
            self._shown = now
            self._show(note)

    def _show(self, note: str) -> None:
        seconds = time.monotonic() - self.start
        rate = (self.done - self.first) / seconds if seconds > 0 else 0.0
        left = f", {duration((self.total - self.done) / rate)} left" if rate > 0 and self.done < self.total else ""
        line = f"{self.what}: {self.done}/{self.total} {self.unit}, {rate:.1f}/s{left}{'  ' + note if note else ''}"
        print(
            f"\r\033[K{line}" if self.terminal else line, end="" if self.terminal else "\n", file=sys.stderr, flush=True
        )

    def close(self) -> None:
        if self.terminal:
            print(file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """'1h02m', '3m20s' or '12s'."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 60}m{whole % 60:02d}s" if whole >= 60 else f"{whole}s"


def user_error_in(error: BaseException | None) -> UserError | None:
    """The UserError inside an exception that crossed a Ray task, or None."""
    seen: set[int] = set()
    stack = [error]
    while stack:
        e = stack.pop()
        if e is None or id(e) in seen:
            continue
        seen.add(id(e))
        if isinstance(e, UserError):
            return UserError(*getattr(getattr(e, "cause", e), "args", e.args))
        stack += [e.__cause__, e.__context__, getattr(e, "cause", None)]
        stack += list(getattr(e, "worker_failures", {}).values())
    return None


def main(job: Callable[[list[str]], None]) -> NoReturn:
    """Run a job with the command line; exit 0 done, 2 the user's mistake (one message), 1 anything else."""
    try:
        job(sys.argv[1:])
        code = 0
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        mistake = user_error_in(error)
        if mistake is None:
            traceback.print_exc()
            code = 1
        else:
            print(f"error: {mistake}", file=sys.stderr)
            code = 2
    sys.stdout.flush()
    if ray.is_initialized():
        ray.shutdown()
    sys.exit(code)
