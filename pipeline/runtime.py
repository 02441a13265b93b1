"""Ray at the edge of a job: connect or start, check machines before work, stop signals, progress, exit codes."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn, TypeVar

from pipeline import storage
from pipeline.cluster import Node, growth, refuse
from pipeline.credentials import mask_uris
from pipeline.errors import Unavailable, UserError

# Read by Ray when its modules are imported, so they are set here, before `import ray` below.
# A report of a training worker waits for the next health check: 2 s by default, far longer than a small step.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
os.environ.setdefault("RAY_TRAIN_COLLECTIVE_TIMEOUT_S", "3600")
# How long a training run waits for machines is `train.wait_for_workers`, in tries of this length.
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "60")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

E = TypeVar("E", bound=Exception)

LOCAL_STORE_BYTES = 1_500_000_000
NODE_CHECK_SECONDS = 120.0  # a machine that has not looked at the storage by then is reported
STOPPED = 128 + signal.SIGTERM  # exit code, as shells count it


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
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _on_sigterm)  # after ray.init, which sets a handler of its own


def nodes() -> list[Node]:
    """The machines of the cluster that are alive."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Node(resources.get("CPU", 0.0), resources.get("GPU", 0.0)) for resources in alive]


def capacity() -> list[Node]:
    """What work may ask for: the machines there are, or all that an autoscaling cluster can grow to, as one.

    Ray does not tell how far an autoscaler may go; such a cluster says it in CFR_ICL_GROWS_TO (`cluster.growth`).
    """
    limit = os.environ.get("CFR_ICL_GROWS_TO", "")
    return [growth(limit)] if limit else nodes()


def require(cpus: float, gpus: float, what: str) -> None:
    """Fail at once when the cluster can never give what a job asks for (Ray would wait for ever).

    Raises:
        UserError: naming what was asked for and what there is.
    """
    refuse(capacity(), cpus, gpus, what)
    await_machines(cpus, gpus)


def await_machines(cpus: float, gpus: float) -> None:
    """Say that work waits for machines which an autoscaler adds, if it does."""
    now = nodes()
    if cpus > sum(node.cpus for node in now) + 1e-6 or gpus > sum(node.gpus for node in now) + 1e-6:
        print("waiting for the cluster to add machines, which takes some minutes", file=sys.stderr, flush=True)


def check_everywhere(inputs: Sequence[str], out: str = "") -> None:
    """Make sure that every machine of the cluster sees the inputs and the output folder, before work starts.

    A local path that is not on a shared file system, or credentials that only the driver has, would otherwise be found
    when the work has been running for hours.

    Args:
        inputs: files or folders that exist for this process.
        out: folder that this process writes to, and other machines will; "": none.

    Raises:
        UserError: naming the machine and what it does not see.
    """
    alive = [node for node in ray.nodes() if node["Alive"]]
    if len(alive) < 2:
        return
    marker = storage.join(out, f".seen-{uuid.uuid4().hex}") if out else ""
    if marker:
        storage.write_bytes(marker, b"")
    try:
        look: Any = ray.remote(num_cpus=0)(_unseen)
        asked = {
            look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                [*inputs, *([marker] if marker else [])]
            ): node["NodeManagerAddress"]
            for node in alive
        }
        waiting = list(asked)
        deadline = time.monotonic() + NODE_CHECK_SECONDS
        while waiting:
            ready, waiting = ray.wait(waiting, timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                raise UserError(
                    f"Machine {asked[waiting[0]]} of the cluster did not answer within {NODE_CHECK_SECONDS:g} s. "
                    "Look at its log, or remove it."
                )
            with contextlib.suppress(RayError):  # a machine lost meanwhile does no work
                missing = ray.get(ready[0])
                if missing:
                    raise UserError(_unshared(missing, marker, out, asked[ready[0]]))
    finally:
        if marker:
            storage.remove(marker)


def _unseen(uris: list[str]) -> str:
    """The first URI that does not exist on this machine, with the storage's complaint if it has one; "" if all do."""
    for uri in uris:
        try:
            if not storage.exists(uri):
                return uri
        except (UserError, Unavailable) as error:
            return f"{uri} ({error})"
    return ""


def _unshared(missing: str, marker: str, out: str, address: str) -> str:
    what = out if marker and missing.startswith(marker) else missing
    return (
        f"Machine {address} of the cluster does not see {what}, which this machine does. On several machines every "
        "path must be on a shared file system or on object storage (s3://, gs://), and all need the credentials."
    )


_stop_calls: list[Callable[[], None]] = []


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    """First ask the work to end by itself, if it can; a second signal ends it at once."""
    if _stop_calls:
        call = _stop_calls.pop()
        print("stopping: saving what is done (a second signal stops at once)", file=sys.stderr, flush=True)
        call()
        return
    raise SystemExit(STOPPED)


@contextlib.contextmanager
def stoppable(stop: Callable[[], None]) -> Iterator[None]:
    """While this is open, SIGTERM (`ray job stop`, say) calls `stop`, once, instead of ending the job."""
    _stop_calls.append(stop)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            _stop_calls.remove(stop)


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
    return _inside(error, UserError)


def _inside(error: BaseException | None, kind: type[E]) -> E | None:
    seen: set[int] = set()
    stack = [error]
    while stack:
        e = stack.pop()
        if e is None or id(e) in seen:
            continue
        seen.add(id(e))
        if isinstance(e, kind):
            return kind(*getattr(getattr(e, "cause", e), "args", e.args))
        stack += [e.__cause__, e.__context__]
        stack += [getattr(e, name, None) for name in ("cause", "_base_exc")]  # of Ray's wrappers
        stack += list(getattr(e, "worker_failures", {}).values())
    return None


def main(job: Callable[[list[str]], None]) -> NoReturn:
    """Run a job with the command line; exit 0 done, 2 the user's mistake (one message), 143 stopped, 1 all else."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file name or a message may hold what the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    try:
        job(sys.argv[1:])
        code = 0
    except KeyboardInterrupt:
        code = 130
    except SystemExit as end:
        code = end.code
    except Exception as error:
        mistake, away = user_error_in(error), _inside(error, Unavailable)
        if mistake is None and away is None:
            print(mask_uris(traceback.format_exc()), end="", file=sys.stderr)
        else:
            print(f"error: {mask_uris(str(mistake or away))}", file=sys.stderr)
        code = 1 if mistake is None else 2
    sys.stdout.flush()
    if ray.is_initialized():
        ray.shutdown()
    sys.exit(code)
