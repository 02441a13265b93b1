"""The background thread that carries a run's values and files to MLflow, and waits for a store that is away.

What is logged while the run goes on waits in a short queue. The queue may overflow, and it is lost with its process:
OUT holds the same, and what the store lacks of it is sent when the run is opened, at its end, and by `replay`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

from pipeline import storage
from pipeline.errors import Unavailable, UserError
from pipeline.redact import mask_credentials
from pipeline.tracking import contents
from pipeline.tracking.contents import Identity, Values
from pipeline.tracking.mlflow_client import Refused, RunMissing, set_client_environment, text_of, translate
from pipeline.tracking.mlflow_store import OpenRun

GATHER_SECONDS = 0.5  # records that come within this time travel together
RETRY_SECONDS = (1.0, 60.0)  # first and longest wait between two tries
FLUSH_PAUSE = 0.5  # between two tries of a flush
BATCH = 500  # records sent in one go
QUEUE = 10_000  # records that wait while the store is away

T = TypeVar("T")


class Abandoned(Exception):
    """The run was closed while a request hung."""


class Sender:
    """Sends what is queued, and what the output folder holds.

    Values go in order; files go after them and do not hold them up when only the artifact store is away.

    Attributes:
        abandoned: nobody waits any more: end as soon as a request returns.
        tried: set when the first connection was made or has failed.
        failure: why the last try left something behind.
        ended: the run has come to its end (`Identity.status`): send how, and all that the folder holds.
        files_sent: how many the store has from us.
    """

    def __init__(self, uri: str, out: str, identity: Identity, live: bool) -> None:
        """Args, besides what they say: live: the run goes on, so it is RUNNING from now on, and failures are told."""
        self.abandoned = self.ended = False
        self.tried = threading.Event()
        self.failure = ""
        self.files_sent = 0
        self._uri, self._out, self._identity, self._live = uri, out, identity, live
        self._run: OpenRun | None = None
        self._closed: OpenRun | None = None  # the run that was told how it ended
        self._values: deque[Values | dict[str, str]] = deque()
        self._files: deque[str] = deque()
        self._all_files = False  # those that the folder holds are to be sent, too
        self._gap = False  # values are missing that the folder holds, or will hold when it is saved
        self._last_step = identity.complete
        self._complained: set[str] = set()

    @property
    def values_sent(self) -> int:
        """Numbers that the store has from us."""
        return self._run.values if self._run else 0

    def put(self, record: Values | dict[str, str]) -> None:
        """Queue values or tags."""
        if len(self._values) < QUEUE:
            self._values.append(record)
        else:
            self._gap = True

    def put_file(self, name: str) -> None:
        """Queue a file below `out`."""
        if len(self._files) < QUEUE:
            self._files.append(name)

    def work(self) -> bool:
        """Send everything that is there. Returns whether all of it arrived; complains once per kind of failure."""
        done = self._attempt("the tracking store", self._send_values)
        self.tried.set()
        done = done and self._attempt("the artifact store", self._send_files)
        if done and self.ended:
            self._identity.complete = self._last_step
        return done

    def _attempt(self, what: str, send: Callable[[], None], again: bool = True) -> bool:
        self.failure = ""
        try:
            send()
        except Abandoned:
            return False
        except RunMissing as error:
            self._run = None  # looked up again, or made again
            self.failure = _reason(error)
            return again and self._attempt(what, send, again=False)
        except Exception as error:  # whatever a client of a remote store may raise; training must not notice
            of_output = isinstance(error, (UserError, Unavailable))
            self.failure = _reason(error) if of_output else f"{what} cannot be reached ({_reason(error)})"
            if self._live and what not in self._complained:
                self._complained.add(what)
                print(f"tracking: {self.failure}. The run goes on; what is to be logged is sent later.", flush=True)
            return False
        if what in self._complained:
            self._complained.remove(what)
            print(f"tracking: {what} is back; what was kept is sent", flush=True)
        return True

    def _connected(self) -> OpenRun:
        if self._run is None:
            set_client_environment()
            run = OpenRun(self._uri, self._identity, self._live and not self.ended, self._still_wanted)
            self.tried.set()
            if run.created:
                self._gap = self._gap or self._last_step >= 0  # made again: what was sent and is not saved yet
                self._identity.complete, self._all_files = -1, True
            self._send(run, run.send_params, [*self._identity.params.items()])
            self._send(run, run.send_tags, [*self._identity.tags.items()])
            self._send_inputs(run)
            self._compare(run)
            self._run = run
        return self._run

    def _compare(self, run: OpenRun) -> None:
        """Send the values that the folder holds and the store does not."""
        held = contents.curves(self._out, self._identity.began)
        missing = [values for values in held if (values.step or 0) > self._identity.complete]
        for start in range(0, len(missing), BATCH):
            self._send_metrics(run, missing[start : start + BATCH])

    def _send_values(self) -> None:
        run = self._connected()
        while batch := [self._values[i] for i in range(min(BATCH, len(self._values)))]:
            self._send_metrics(run, [record for record in batch if isinstance(record, Values)])
            labels = {name: text for record in batch if isinstance(record, dict) for name, text in record.items()}
            self._send(run, run.send_tags, [*labels.items()])
            for _ in batch:
                self._values.popleft()
        if self.ended and self._closed is not run:
            if self._gap:
                self._compare(run)
                self._gap = False
            self._send(run, run.send_metrics, [*contents.results(self._out, self._identity.ended)])
            told = self._call(lambda: contents.tags(self._out, run.page_of))
            self._send(run, run.send_tags, [(name, text_of(name, text)) for name, text in told.items()])
            self._send_inputs(run)
            training, scores = contents.scored(self._out)
            if training:
                self._call(lambda: run.tag_models_of(training, scores))
            self._call(lambda: run.send_status(self._identity.status, self._identity.ended))
            self._closed, self._all_files = run, True

    def _send_metrics(self, run: OpenRun, records: Sequence[Values]) -> None:
        self._send(run, run.send_metrics, records)
        self._last_step = max([self._last_step, *(record.step or 0 for record in records if record.held)])

    def _send_inputs(self, run: OpenRun) -> None:
        self._send(run, run.send_inputs, [contents.DataInput(**one) for one in self._identity.inputs])

    def _send_files(self) -> None:
        run = self._connected()
        if self._all_files:
            held = [name for name in contents.files(self._out) if name not in self._files]
            stored = self._call(lambda: run.files_beside([name for name in held if contents.is_written_once(name)]))
            self._files.extend(name for name in held if not (contents.is_written_once(name) and name in stored))
            self._all_files = False
        while self._files:
            name = self._files[0]
            try:
                data = storage.read_bytes(storage.join(self._out, name))
            except UserError as error:  # removed meanwhile
                print(f"tracking: {name} is left out: {_reason(error)}", flush=True)
            else:
                self._send(run, lambda _, name=name, data=data: run.send_file(name, data), [name])
                self.files_sent += 1
            self._files.popleft()
            if self._values or (self.ended and self._closed is not run):
                self._send_values()  # pictures on a slow way do not hold up the values
        self._register(run)

    def _register(self, run: OpenRun) -> None:
        """Once the store has the model of a finished run, make it a version of the registered model it is to be."""
        known = self._identity
        folder = contents.model_folder(self._out) if self.ended and known.register and not known.version else ""
        if folder and known.status == "FINISHED":
            known.version = self._call(lambda: run.register(known.register, folder, known.model_tags))
            print(f"tracking: the model is models:/{known.register}/{known.version}", flush=True)

    def _send(self, run: OpenRun, send: Callable[[Sequence[T]], None], items: Sequence[T]) -> None:
        """Send some items together; of those that the store refuses each one alone, to leave out only what it is."""
        try:
            if items:
                self._call(lambda: send(items))
        except Refused as refusal:
            if self._call(run.is_gone):
                raise RunMissing(str(refusal)) from refusal
            for item in items if len(items) > 1 else []:
                self._send(run, send, [item])
            if len(items) == 1:
                what = items[0] if isinstance(items[0], str) else "a record"
                print(f"tracking: the store refuses {what}, which is left out: {_reason(refusal)}", flush=True)

    def _still_wanted(self) -> None:
        if self.abandoned:
            raise Abandoned

    def _call(self, request: Callable[[], T]) -> T:
        self._still_wanted()
        try:
            return request()
        except Exception as error:
            raise translate(error) from error


def _reason(error: Exception) -> str:
    """An error's text in one line, without credentials."""
    return mask_credentials(" ".join(str(error).split()))[:200]


class SenderThread(threading.Thread):
    """Runs a `Sender` beside the program, from `start` to `stop`."""

    def __init__(self, sender: Sender) -> None:
        super().__init__(name="tracking", daemon=True)  # a store that hangs must not keep the process from ending
        self._sender = sender
        self._lock = threading.Lock()
        self._new = threading.Event()  # there is something to send
        self._hurry = threading.Event()  # somebody waits for it
        self._clean = threading.Event()  # nothing is left
        self.notice()

    def notice(self) -> None:
        """There is something new to send."""
        with self._lock:
            self._new.set()
            self._clean.clear()

    def flush(self, timeout: float) -> bool:
        """Try until everything is sent, at most `timeout` seconds. Returns whether it was."""
        self._hurry.set()
        clean = self._clean.wait(timeout)
        self._hurry.clear()
        return clean

    def stop(self, timeout: float) -> bool:
        """Flush, then end the thread. Returns whether everything was sent."""
        clean = self.flush(timeout)
        self._sender.abandoned = True
        self._hurry.set()
        self.notice()
        self.join(1.0)
        return clean

    def run(self) -> None:
        delay, pause = 0.0, RETRY_SECONDS[0]
        while True:
            self._new.wait()
            self._hurry.wait(delay)
            if self._sender.abandoned:
                return
            self._new.clear()
            if self._sender.work():
                delay, pause = GATHER_SECONDS, RETRY_SECONDS[0]
                with self._lock:
                    if not self._new.is_set():
                        self._clean.set()
            else:
                self._new.set()
                delay, pause = pause, min(RETRY_SECONDS[1], 2 * pause)
                if self._hurry.is_set():
                    time.sleep(FLUSH_PAUSE)
