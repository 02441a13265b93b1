"""MLflow runs that never stop or slow the work they describe.

OUT is the log: whatever is worth logging lies in the output folder (`pipeline.tracking.contents`), and a background
thread (`pipeline.tracking.sender`) sends it, so a tracking server that is slow, down or restarted costs nothing but
delay. What changes while the run goes on is handed to the thread as well, so that it can be watched:

    with open_run(tracking, kind="train", name="tiny", params=flatten(cfg), out=out) as run:
        run.metrics({"loss": 0.3}, step=20)

The output, local or on object storage, decides which run it is: the same `out` is the same MLflow run, on whatever
machine.
"""

from __future__ import annotations

import getpass
import importlib
import shlex
import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from types import TracebackType
from typing import Any, Literal

from pipeline import config, storage
from pipeline.errors import Unavailable, UserError
from pipeline.redact import mask_uris
from pipeline.report.environment import environment_tags
from pipeline.tracking.contents import DESCRIPTION, DataInput, Identity, Values, read_identity, write_identity
from pipeline.tracking.machine import MachineWatch
from pipeline.tracking.mlflow_client import clean_name, now_ms, page, text_of
from pipeline.tracking.mlflow_store import USER_TAG
from pipeline.tracking.sender import Sender, SenderThread
from pipeline.tracking.store_uri import resolve_tracking, sqlite_path

Kind = Literal["prepare", "train", "evaluate", "tune"]
Status = Literal["FINISHED", "FAILED", "KILLED"]


class Run:
    """One MLflow run. Methods return at once and never raise because of the store; see the module's text.

    As a context manager it closes as FINISHED, FAILED on an exception, KILLED on SystemExit or KeyboardInterrupt.
    """

    def __init__(
        self, uri: str = "", out: str = "", identity: Identity | None = None, watch_seconds: float = 0.0
    ) -> None:
        """Use `open_run`. Without an identity the run does nothing: tracking is off."""
        self.uri = mask_uris(uri)
        self._out, self._identity = out, identity
        self._open = identity is not None
        self._watch: MachineWatch | None = None
        if identity is not None:
            self._sender = Sender(uri, out, identity, live=True)
            self._thread = SenderThread(self._sender)
            self._thread.start()
            if watch_seconds:
                self._watch = MachineWatch(watch_seconds, self._machine)
                self._watch.start()

    @property
    def run_id(self) -> str | None:
        """MLflow's id; None while the store was never reached, or with tracking off."""
        return self._identity.run_id if self._identity else None

    def wait(self, timeout: float) -> None:
        """Wait until the run exists, or the first try to make it has failed."""
        if self._open:
            self._sender.tried.wait(timeout)

    def metrics(self, values: Mapping[str, float], step: int, time: int | None = None) -> None:
        """Log {name: number} of a step.

        Args:
            step: one that is logged already under the same name is left out, so that what is done again after a
                restart is not there twice.
            time: in milliseconds since 1970; as it stands in metrics.jsonl.
        """
        if self._open:
            self._sender.put(Values(step, time or now_ms(), values))
            self._thread.notice()

    def tags(self, values: Mapping[str, str]) -> None:
        if self._open:
            self._sender.put(_texts(values))
            self._thread.notice()

    def file(self, name: str) -> None:
        """Log a file of the output folder, by its name there; it has the same name in MLflow."""
        if self._open:
            self._sender.put_file(name)
            self._thread.notice()

    def model(self, name: str, tags: Mapping[str, str]) -> None:
        """Once the run has finished, its newest model (`contents.model_folder`) is made a version of a registered one.

        Args:
            name: of the registered model, made when there is none.
            tags: of the version.
        """
        if self._open and self._identity is not None:
            self._identity.register, self._identity.model_tags, self._identity.version = name, _texts(tags), ""
            self._note()

    def data(self, inputs: Sequence[DataInput]) -> None:
        """Say which data sets the run uses."""
        if self._open and self._identity is not None:
            self._identity.inputs = [asdict(replace(one, uri=mask_uris(one.uri))) for one in inputs]
            self._note()

    @property
    def where(self) -> str:
        """Address of its page in MLflow, under `mlflow ui` for a local store; "" while the store was never reached."""
        known = self._identity
        if known is None or not known.run_id:
            return ""
        address = page(known.experiment_id, known.run_id)
        if self.uri.startswith("http"):
            return f"{self.uri}/{address}"
        local = sqlite_path(self.uri) is not None
        return f"http://127.0.0.1:5000/{address}" if local else f"run {known.run_id} of {self.uri}"

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until everything is sent, at most `timeout` seconds. Returns whether it was."""
        return not self._open or self._thread.flush(timeout)

    def close(self, status: Status = "FINISHED", timeout: float = 20.0) -> bool:
        """End the run, and send what is left and what the output folder holds, for at most `timeout` seconds.

        Returns:
            False when the store does not have everything.
        """
        if not self._open or self._identity is None:
            return True
        self._open = False
        if self._watch is not None:
            self._watch.stop()
        self._identity.status, self._identity.ended = status, now_ms()
        self._note()
        self._sender.ended = True
        self._thread.notice()
        sent = self._thread.stop(timeout)
        if sent:
            self._note()
        else:
            print(
                f"tracking: {self.uri} did not take everything in time; the rest is sent by "
                f"`python -m jobs.track_sync {shlex.quote(mask_uris(self._out))}`, or by the same command if it goes "
                "on with the run",
                flush=True,
            )
        return sent

    def _machine(self, values: dict[str, float]) -> None:
        """Log system metrics; steps are seconds since the run began, so that a continued run goes on with them."""
        assert self._identity is not None
        now = now_ms()
        self._sender.put(Values((now - self._identity.began) // 1000, now, values, held=False))
        self._thread.notice()

    def _note(self) -> None:
        """Say in the output folder how far things are; what it cannot take is said again by whoever continues."""
        assert self._identity is not None
        try:
            write_identity(self._out, self._identity)
        except (UserError, Unavailable) as error:
            print(f"tracking: {error}", flush=True)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        killed = isinstance(error, (KeyboardInterrupt, SystemExit))
        self.close("FINISHED" if error is None else "KILLED" if killed else "FAILED")


def import_early(tracking: config.Tracking) -> None:
    """Import MLflow beside what comes before a run is opened (the engine's start, above all): it takes 1.5 s."""
    if tracking.enabled:
        threading.Thread(target=importlib.import_module, args=("mlflow",), name="import", daemon=True).start()


def open_run(
    tracking: config.Tracking,
    *,
    kind: Kind,
    name: str,
    params: Mapping[str, Any],
    out: str,
    tags: Mapping[str, str] | None = None,
    parent: str | None = None,
    wait: float = 20.0,
) -> Run:
    """Open a run, or go on with the one that `out` belongs to; it stays one MLflow run.

    Args:
        tracking: as `resolve_tracking` returned it.
        kind: becomes the tag `kind`.
        name: shown in MLflow's table.
        params: dotted names to values; credentials in them are masked, long values cut with a note. Of one that had
            another value before the first one stays, and the new value becomes a tag.
        out: the run's output folder or URI; this process is the only one that writes there.
        tags: more tags; kind, output, user, commit, versions, host shape and command line are added.
        parent: MLflow id of the run this one is shown under.
        wait: seconds to wait at most for the run to exist (a store that refuses is not waited for).

    Returns:
        The run; with `tracking.enabled` False one that does nothing.

    Raises:
        UserError: the output cannot be read or written.
    """
    if not tracking.enabled:
        return Run()
    uri, out = resolve_tracking(tracking).uri, storage.absolute(out)
    all_tags = {"kind": kind, "out": out, **_user(), **environment_tags(), **(tags or {})}
    if parent:
        all_tags["mlflow.parentRunId"] = parent
    else:
        all_tags[DESCRIPTION] = f"Not finished yet ({kind}).\n\n    {all_tags['command']}"
    values, labels = _texts(params), _texts(all_tags)
    known = read_identity(out)
    if known is not None:
        changed = {n: text for n, text in values.items() if known.params.get(n, text) != text}
        if changed:
            print(
                f"tracking: this run continues with other values of {', '.join(changed)}; the first ones stay its "
                "parameters, the new ones are tags continued.*",
                flush=True,
            )
        values |= known.params
        labels = {**known.tags, **labels, **{f"continued.{n}"[:250]: text for n, text in changed.items()}}
    identity = known or Identity(uuid.uuid4().hex, "", tracking.experiment, name, now_ms())
    identity.uri, identity.params, identity.tags = mask_uris(uri), values, labels
    identity.status, identity.ended = "", 0
    write_identity(out, identity)  # before anything is logged: from here on every machine knows the run
    run = Run(uri, out, identity, tracking.system_metrics)
    run.wait(wait)
    return run


def _user() -> dict[str, str]:
    """Who runs this, as MLflow shows it; nothing for a user without a name, as in some containers."""
    try:
        return {USER_TAG: getpass.getuser()}
    except (KeyError, OSError):
        return {}


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {clean_name(name): text_of(name, value) for name, value in values.items()}
