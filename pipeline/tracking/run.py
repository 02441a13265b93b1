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

import importlib
import os
import shlex
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

from pipeline import config, storage
from pipeline.errors import Unavailable, UserError
from pipeline.redact import mask_uris
from pipeline.report.environment import environment_tags
from pipeline.tracking.contents import Identity, Values, read_identity, write_identity
from pipeline.tracking.mlflow_store import clean_name, now_ms, text_of
from pipeline.tracking.sender import Sender, SenderThread
from pipeline.tracking.store_uri import resolve_tracking

Kind = Literal["prepare", "train", "evaluate", "tune"]
Status = Literal["FINISHED", "FAILED", "KILLED"]


class Run:
    """One MLflow run. Methods return at once and never raise because of the store; see the module's text.

    As a context manager it closes as FINISHED, FAILED on an exception, KILLED on SystemExit or KeyboardInterrupt.
    """

    def __init__(self, uri: str = "", out: str = "", identity: Identity | None = None) -> None:
        """Use `open_run`. Without an identity the run does nothing: tracking is off."""
        self.uri = mask_uris(uri)
        self._out, self._identity = out, identity
        self._open = identity is not None
        if identity is not None:
            self._sender = Sender(uri, out, identity, live=True)
            self._thread = SenderThread(self._sender)
            self._thread.start()

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
        tags: more tags; kind, output, commit, versions, host shape and command line are added.
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
    all_tags = {"kind": kind, "out": out, **environment_tags(), **(tags or {})}
    if parent:
        all_tags["mlflow.parentRunId"] = parent
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
    run = Run(uri, out, identity)
    run.wait(wait)
    return run


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {clean_name(name): text_of(name, value) for name, value in values.items()}


@dataclass(frozen=True)
class Outcome:
    """What became of a replay.

    Attributes:
        uri: of the store, credentials masked.
        values, files: sent.
        why: the reason why something is left; "" when nothing is.
    """

    uri: str
    values: int
    files: int
    why: str


def replay(out: str, uri: str = "") -> Outcome:
    """Send what an output folder holds of a run whose process has ended, and what the store lacks.

    Args:
        out: folder or URI with a tracked run (`read_identity`), to which no other process logs (`engine.lease`).
        uri: tracking URI; empty: the one the run was logged to.

    Raises:
        UserError: a URI that needs credentials, which are kept nowhere.
    """
    out = storage.absolute(out)
    identity = read_identity(out)
    assert identity is not None
    address = _address(uri, identity.uri)
    if not identity.status:  # its process was killed without a word: the run would be "running" for ever
        identity.status, identity.ended = "KILLED", now_ms()
    sender = Sender(address, out, identity, live=False)
    sender.ended = True
    if sender.work():
        write_identity(out, identity)
    return Outcome(mask_uris(address), sender.values_sent, sender.files_sent, sender.failure)


def _address(uri: str, masked: str) -> str:
    """The tracking URI to use for a run whose URI without credentials is `masked`."""
    environment = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri and environment and mask_uris(environment) == masked:
        return environment
    if "***" in (uri or masked):
        raise UserError(f"Give the tracking URI with its credentials, which are kept nowhere: --uri {uri or masked}")
    return resolve_tracking(config.Tracking(uri=uri or masked)).uri
