"""Ray at the edge of a job: connect or start, check machines before work, progress, exit codes."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import secrets
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TypeVar

from pipeline.engine import machine, stop
from pipeline import storage
from pipeline.engine.capacity import Node, growth, refuse
from pipeline.redact import mask_uris
from pipeline.errors import Unavailable, UserError

# Read by Ray when its modules are imported, so they are set here, before `import ray` below.
# A report of a training worker waits for the next health check: 2 s by default, far longer than a small step.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
os.environ.setdefault("RAY_TRAIN_COLLECTIVE_TIMEOUT_S", "3600")
# How long a training run waits for machines is `train.wait_for_workers`, in tries of this length.
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "60")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
if not ({"RAY_AUTH_MODE", "RAY_ADDRESS"} & os.environ.keys() or machine.token_is_writable()):
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))  # of the Ray that is started here
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # `pipeline.engine.stop` hears it

import ray
from ray._private import services
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

E = TypeVar("E", bound=Exception)

NODE_CHECK_SECONDS = 120.0  # a machine that has not looked at the storage by then is reported


def connect(min_cpus: int = 4) -> None:
    """Connect to the cluster of RAY_ADDRESS (set inside `ray job submit`), else start Ray on this machine.

    A small machine is given `min_cpus` logical CPUs: a training worker and the stream's tasks need one each, and they
    share the cores well.

    Raises:
        UserError, Unavailable: what `pipeline.engine.machine` finds, or what the engine's error means.
    """
    if ray.is_initialized():
        return
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    machine.check_working_folder()
    machine.raise_open_files()
    address = machine.cluster_address()
    try:
        _start(address, min_cpus)
    except (UserError, Unavailable):
        raise
    except Exception as error:
        meaning = machine.explain(error)
        if address or not isinstance(meaning, Unavailable):
            raise meaning or error from error
        ray.shutdown()
        print("Ray did not start in time; it is tried once more", file=sys.stderr, flush=True)
        try:
            _start(address, min_cpus)
        except Exception as again:
            raise machine.explain(again) or again from again
    stop.listen()  # after ray.init, which sets handlers of its own


def _start(address: str, min_cpus: int) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    with _apart():
        if address:
            ray.init(address=address, **quiet)
            return
        ray.init(
            address="local",  # never a cluster that happens to run on this machine: RAY_ADDRESS=auto asks for that
            num_cpus=max(machine.usable_cpus(), min_cpus),
            object_store_memory=machine.store_bytes(),
            include_dashboard=False,
            _temp_dir=machine.engine_folder(),
            **quiet,
        )


@contextlib.contextmanager
def _apart() -> Iterator[None]:
    """Start the engine's processes in process groups of their own: signals to a job's group are not meant for them."""
    original = services.ConsolePopen

    class Apart(original):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{"process_group": 0, **kwargs})

    services.ConsolePopen = Apart
    try:
        yield
    finally:
        services.ConsolePopen = original


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
    """Run a job with the command line, and end with its exit code.

    0 done; 2 the user's mistake (one message); 130 stopped by Ctrl-C, 143 by SIGTERM, 129 by a closed terminal; 141
    nobody reads what it prints; 1 all else.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file name or a message may hold what the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    stop.listen()
    try:
        job(sys.argv[1:])
        code: Any = 0
        sys.stdout.flush()
    except SystemExit as end:
        code = stop.code() if stop.heard() else end.code  # Ray makes another one of it within its calls
        if stop.heard():
            print("stopped: what was finished is kept, and the same command continues", file=sys.stderr)
    except BrokenPipeError:  # `| head` has seen enough
        code = 141
    except Exception as error:
        mistake, away = user_error_in(error), _inside(error, Unavailable)
        if mistake is None and away is None:
            print(mask_uris(traceback.format_exc()), end="", file=sys.stderr)
        else:
            print(f"error: {mask_uris(str(mistake or away))}", file=sys.stderr)
        code = 1 if mistake is None else 2
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = code or 141
    with stop.stoppable(lambda: None):  # what is done is done: one signal does not change how it ended
        if ray.is_initialized():
            ray.shutdown()
    sys.exit(code)
