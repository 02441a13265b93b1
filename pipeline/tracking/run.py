"""MLflow runs that never stop or slow the work they describe.

What is logged is appended to a spool folder (`pipeline.tracking.spool`) and a background thread sends it
(`pipeline.tracking.sender`), so a tracking server that is slow, down or restarted costs nothing but delay:

    with open_run(tracking, kind="train", name="tiny", params=flatten(cfg), out=out) as run:
        run.metrics({"loss": 0.3}, step=20)

The output, local or on object storage, decides which run it is: the same `out` is the same MLflow run, on whatever
machine (`pipeline.tracking.places`).
"""

from __future__ import annotations

import io
import os
import shlex
import shutil
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np

from pipeline import config
from pipeline.errors import UserError
from pipeline.redact import mask_uris
from pipeline.report.environment import environment_tags
from pipeline.tracking.mlflow_store import OPENED_TAG, clean_name, now_ms, text_of
from pipeline.tracking.places import claim
from pipeline.tracking.sender import Sender, SenderThread
from pipeline.tracking.spool import Identity, Journal, Lane, Spool
from pipeline.tracking.store_uri import checked_uri, sqlite_uri

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Kind = Literal["prepare", "train", "evaluate", "tune"]
Status = Literal["FINISHED", "FAILED", "KILLED"]

# `ray job submit` unpacks the code to such a folder, which is removed some time after the job.
_RAY_WORKING_DIR = "runtime_resources"


def resolve_tracking(tracking: config.Tracking, fallback_root: str = "") -> config.Tracking:
    """`tracking` with its URI filled in, to be called once, in the driver.

    The first of: `tracking.uri`, MLFLOW_TRACKING_URI, a SQLite store in the working folder; the experiment is
    MLFLOW_EXPERIMENT_NAME where no other one is named. The working folder of a
    submitted Ray job is temporary: the store is then made in `fallback_root`, a local folder, and a line says so.

    Raises:
        UserError: what `checked_uri` says, or a submitted job without a place for the store.
    """
    if not tracking.enabled:
        return tracking
    uri = tracking.uri.strip() or os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if not uri:
        root = Path.cwd()
        wrong = "is temporary" if _RAY_WORKING_DIR in root.parts else "" if _writable(root) else "cannot be written"
        if wrong:
            if not fallback_root or "://" in fallback_root:
                raise UserError(
                    f"There is no place for an MLflow store, as the working folder {wrong}: give --tracking.uri "
                    "or the environment variable MLFLOW_TRACKING_URI, or --tracking.no-enabled."
                )
            root = Path(fallback_root).absolute()
            print(f"tracking: no URI given and the working folder {wrong}; using {root / 'mlflow.db'}", flush=True)
        uri = sqlite_uri(root / "mlflow.db")
    experiment = tracking.experiment
    if experiment == config.Tracking().experiment:
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "").strip() or experiment
    return replace(tracking, uri=checked_uri(uri), experiment=experiment)


def _writable(folder: Path) -> bool:
    """Whether a file can be made in a folder, or the store that is there be written."""
    store = folder / "mlflow.db"
    try:
        with store.open("r+b") if store.exists() else tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


class Run:
    """One MLflow run. Methods return at once and never raise because of the store; see the module's text.

    As a context manager it closes as FINISHED, FAILED on an exception, KILLED on SystemExit or KeyboardInterrupt.
    """

    def __init__(self, uri: str = "", spool: Spool | None = None, lanes: Sequence[Lane] = ()) -> None:
        """Use `open_run`. The last lane is our own. Without a spool the run does nothing: tracking is off."""
        self.uri = mask_uris(uri)
        self._spool = spool
        self._lane: Lane | None = None
        self._run_id: str | None = None
        self._complained = False
        if spool is not None:
            self._lane = lanes[-1]
            self._sender = Sender(uri, spool, [*lanes], self._lane)
            self._thread = SenderThread(self._sender)
            self._thread.start()

    @property
    def run_id(self) -> str | None:
        """MLflow's id; None while the store was never reached, or with tracking off."""
        identity = self._spool.identity() if self._spool else None
        if identity is not None:  # a remote output's spool is removed when all was sent
            self._run_id = identity.run_id
        return self._run_id

    def wait(self, timeout: float) -> None:
        """Wait until the run exists, or the first try to make it has failed."""
        if self._lane is not None:
            self._sender.tried.wait(timeout)

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Log {name: number}.

        Args:
            step: a step that is logged already under the same name is left out, so that what is done again after a
                restart is not there twice. None: a final value, always logged.
        """
        numbers = {clean_name(name): float(value) for name, value in values.items()}
        self._append("records", {"type": "metrics", "values": numbers, "step": step, "time": now_ms()})

    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters; one that was logged with another value stays, and the new value becomes a tag."""
        self._append("records", {"type": "params", "values": _texts(values)})

    def tags(self, values: Mapping[str, str]) -> None:
        self._append("records", {"type": "tags", "values": _texts(values), "time": now_ms()})

    def image(self, array: np.ndarray, name: str) -> None:
        """Log an (H, W, 3) uint8 RGB or (H, W) uint8 picture; `name` may have folders and ends in .png or .jpg."""
        picture = cv2.cvtColor(array, cv2.COLOR_RGB2BGR) if array.ndim == 3 else array
        ok, data = cv2.imencode(PurePosixPath(name).suffix, picture)
        if not ok:
            raise ValueError(f"cannot encode {array.shape} {array.dtype} as {name}")
        self._artifact(data.tobytes(), name)

    def figure(self, figure: Figure, name: str) -> None:
        """Log a plot; `name` ends in .png, .svg or .pdf."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format=PurePosixPath(name).suffix[1:])
        self._artifact(buffer.getvalue(), name)

    def text(self, text: str, name: str) -> None:
        """Log a text file; credentials in it are masked."""
        self._artifact(mask_uris(text).encode(), name)

    def files(self, contents: Mapping[str, bytes]) -> None:
        """Log files by name; a name may have folders."""
        for name, data in contents.items():
            self._artifact(data, name)

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until everything is sent, at most `timeout` seconds. Returns whether it was."""
        return self._lane is None or self._thread.flush(timeout)

    def close(self, status: Status | None = "FINISHED", timeout: float = 20.0) -> bool:
        """End the run and send what is left, for at most `timeout` seconds.

        Args:
            status: None leaves the run as running, e.g. because another process goes on with it.

        Returns:
            False when something stays in the spool folder.
        """
        if self._lane is None or self._spool is None:
            return True
        if status is not None:
            self._append("records", {"type": "status", "status": status, "time": now_ms()})
        sent = self._thread.stop(timeout)
        self._lane = None
        self._run_id = self.run_id
        if not sent:
            folder = self._spool.folder
            print(
                f"tracking: {self.uri} did not take everything in time; the rest is kept in {folder} and sent by "
                f"`python -m jobs.track_sync {shlex.quote(str(folder))}`, or by the same command if it goes on with "
                f"the run",
                flush=True,
            )
        else:
            self._spool.discard()
        return sent

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        killed = isinstance(error, (KeyboardInterrupt, SystemExit))
        self.close("FINISHED" if error is None else "KILLED" if killed else "FAILED")

    def _artifact(self, data: bytes, name: str) -> None:
        """Keep the content of an artifact called `name`, folders included, for sending."""
        parts = PurePosixPath(name).parts
        if not parts or parts[0] == "/" or ".." in parts:
            raise ValueError(f"{name!r} is not a relative artifact name")
        if self._lane is None:
            return
        folder = self._lane.file_folder()
        path = folder / parts[-1]
        try:
            folder.mkdir(parents=True)
            path.write_bytes(data)
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            self._complain(error)
            return
        record = {"path": str(path.relative_to(self._lane.folder)), "folder": "/".join(parts[:-1])}
        self._append("files", {"type": "file", **record})

    def _append(self, journal: Literal["records", "files"], record: dict[str, Any]) -> None:
        if self._lane is None:
            return
        target: Journal = self._lane.records if journal == "records" else self._lane.files
        try:
            target.append(record)
        except OSError as error:
            self._complain(error)
        self._thread.notice()

    def _complain(self, error: OSError) -> None:
        """The spool itself cannot be written (a full disk): say so once; the run is worth more than its log."""
        if not self._complained:
            self._complained = True
            print(f"tracking: cannot write the spool ({error}); some values are not logged", flush=True)


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
        params: dotted names to values; credentials in them are masked, long values cut with a note.
        out: the run's output folder or URI.
        tags: more tags; kind, output, commit, versions, host shape and command line are added.
        parent: MLflow id of the run this one is shown under.
        wait: seconds to wait at most for the run to exist (a store that refuses is not waited for).

    Returns:
        The run; with `tracking.enabled` False one that does nothing.

    Raises:
        UserError: the output, or the spool folder on this machine, cannot be written.
    """
    if not tracking.enabled:
        return Run()
    uri = resolve_tracking(tracking).uri
    all_tags = {"kind": kind, "out": out, **environment_tags(), **(tags or {})}
    if parent:
        all_tags["mlflow.parentRunId"] = parent
    key, experiment = uuid.uuid4().hex, tracking.experiment
    values, labels = _texts(params), _texts(all_tags)
    spool, lanes = claim(out, Identity(key, mask_uris(uri), experiment, name, None, values, labels, now_ms()))
    run = Run(uri, spool, lanes)
    run.params(params)
    run.tags({**all_tags, OPENED_TAG: str(now_ms())})
    run.wait(wait)
    return run


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {clean_name(name): text_of(name, value) for name, value in values.items()}
