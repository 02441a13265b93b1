"""The background thread that carries a spool's records to MLflow, and waits for a store that is away."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from typing import Any

from pipeline.redact import mask_credentials
from pipeline.tracking.mlflow_store import OpenRun, Refused, RunMissing, set_client_environment, translate
from pipeline.tracking.places import note_run
from pipeline.tracking.spool import Lane, Spool

GATHER_SECONDS = 0.5  # records that come within this time travel together
RETRY_SECONDS = (1.0, 60.0)  # first and longest wait between two tries
FLUSH_PAUSE = 0.5  # between two tries of a flush
READ_RECORDS = 500  # journal records looked at in one go


class Abandoned(Exception):
    """The run was closed while a request hung; its lanes are now another's to send."""


class Sender:
    """Sends the lanes of one spool.

    The records of a lane go in order; files go after them and do not hold them up when only the artifact store is away.
    """

    def __init__(self, uri: str, spool: Spool, lanes: list[Lane], own: Lane | None) -> None:
        """`own` is the lane that this process still writes to; None: all that logged have ended.

        Lanes of processes that die meanwhile are added to `lanes`.
        """
        self.abandoned = False  # nobody waits any more: end as soon as a request returns
        self.run: OpenRun | None = None
        self.sent = 0
        self.failure = ""  # why the last try left something behind
        self.tried = threading.Event()  # the first connection was made or has failed
        self._uri = uri
        self._spool = spool
        self._lanes = lanes
        self._own = own
        self._complained: set[str] = set()

    def release(self) -> None:
        """Give the lanes up, sent or not."""
        for lane in self._lanes:
            lane.release()

    def work(self) -> bool:
        """Send everything that is there. Returns whether all of it arrived; complains once per kind of failure."""
        done = self._attempt("the tracking store", self._send_records)
        self.tried.set()
        self._note()
        return done and self._attempt("the artifact store", self._send_files)

    def _attempt(self, what: str, send: Callable[[], None], again: bool = True) -> bool:
        self.failure = ""
        try:
            send()
        except Abandoned:
            return False
        except RunMissing as error:
            self.run = None  # looked up again, or made again
            self.failure = _reason(error)
            return again and self._attempt(what, send, again=False)
        except Exception as error:  # whatever a client of a remote store may raise; training must not notice
            self.failure = f"{what} cannot be reached ({_reason(error)})"
            if self._own is not None and what not in self._complained:
                self._complained.add(what)
                print(
                    f"tracking: {self.failure}. The run goes on; "
                    f"what is to be logged is kept in {self._spool.folder} and sent later.",
                    flush=True,
                )
            return False
        if what in self._complained:
            self._complained.remove(what)
            print(f"tracking: {what} is back; what was kept has been sent", flush=True)
        return True

    def _connected(self) -> OpenRun:
        if self.run is None:
            set_client_environment()
            self.run = OpenRun(self._uri, self._spool, reopen=self._own is not None)
            self.tried.set()
        return self.run

    def _note(self) -> None:
        """Say beside a remote output which MLflow run it has, once that is known."""
        if self.run is None or not self.run.news:
            return
        self.run.news = False
        try:
            identity = self._spool.identity()
            if identity is not None and identity.home:
                note_run(identity)
        except Exception as error:
            print(f"tracking: {_reason(error)} The run is found without it.", flush=True)

    def _send_records(self) -> None:
        run = self._connected()
        self._lanes += self._spool.orphans()  # of a process that has died meanwhile
        for lane in self._lanes:
            while found := lane.records.unsent(READ_RECORDS):
                self._send_some(run, lane, found)

    def _send_some(self, run: OpenRun, lane: Lane, found: list[tuple[dict[str, Any], int]]) -> None:
        """Send the records `found`, runs of metrics together."""
        start = 0
        while start < len(found):
            stop = start + 1
            while found[start][0]["type"] == "metrics" and stop < len(found) and found[stop][0]["type"] == "metrics":
                stop += 1
            records = [record for record, _ in found[start:stop]]
            try:
                self._call(lambda: self._dispatch(run, lane, records))  # noqa: B023 - called at once
            except Refused as refusal:
                if run.is_gone():
                    raise RunMissing(str(refusal)) from refusal
                if len(records) > 1:  # one of them is to blame: find it
                    for item in found[start:stop]:
                        self._send_some(run, lane, [item])
                    start = stop
                    continue
                print(f"tracking: the store refuses a record, which is left out: {_reason(refusal)}", flush=True)
            self.sent += len(records)
            lane.records.mark(found[stop - 1][1])
            start = stop

    def _dispatch(self, run: OpenRun, lane: Lane, records: list[dict[str, Any]]) -> None:
        first = records[0]
        match first["type"]:
            case "metrics":
                run.send_metrics(records)
            case "params":
                if changed := run.send_params(first["values"]):
                    print(
                        f"tracking: this run continues with other values of {', '.join(changed)}; "
                        "the first ones stay its parameters, the new ones are tags continued.*",
                        flush=True,
                    )
            case "tags":  # not over the newer ones of a process that went on with the run on another machine
                run.send_tags(first["values"], keep=lane is not self._own and first["time"] < run.last_opened)
            case "status":  # of a process after which none has begun to log
                if lane is self._own or (self._own is None and first["time"] >= run.last_opened):
                    run.send_status(first["status"], first["time"])
            case _:
                print(f"tracking: a damaged record in {lane.folder} is left out", flush=True)

    def _send_files(self) -> None:
        run = self._connected()
        for lane in self._lanes:
            while found := lane.files.unsent(READ_RECORDS):
                for record, position in found:
                    if record["type"] == "file":
                        self._send_file(run, lane, record)
                    lane.files.mark(position)
                    if any(other.records.pending for other in self._lanes):
                        self._send_records()  # pictures on a slow way do not hold up the values

    def _send_file(self, run: OpenRun, lane: Lane, record: dict[str, Any]) -> None:
        path = lane.folder / record["path"]
        if path.exists():  # gone: it was sent, and the process died before that was noted
            try:
                self._call(lambda: run.send_file(path, record["folder"]))
            except Refused as refusal:
                print(f"tracking: the store refuses {path.name}, which is left out: {_reason(refusal)}", flush=True)
            shutil.rmtree(path.parent, ignore_errors=True)
        self.sent += 1

    def _call(self, send: Callable[[], None]) -> None:
        if self.abandoned:
            raise Abandoned
        try:
            send()
        except Exception as error:
            raise translate(error) from error


def _reason(error: Exception) -> str:
    """An error's text in one line, without credentials."""
    return mask_credentials(" ".join(str(error).split()))[:200]


class SenderThread:
    """Runs a `Sender` beside the program, from `start` to `stop`."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._wake = threading.Condition()
        self._new = False  # records came since the last look
        self._asked = self._served = 0  # requests to send at once, and how many of them were served
        self._clean = False  # the last look left nothing behind
        self._stopping = False
        # A daemon: a store that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._loop, name="tracking", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def notice(self) -> None:
        """There is something new to send."""
        with self._wake:
            self._new = True
            self._wake.notify_all()

    def flush(self, timeout: float) -> bool:
        """Try until everything is sent, at most `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            with self._wake:
                self._asked += 1
                mine = self._asked
                self._wake.notify_all()
                served = self._wake.wait_for(lambda mine=mine: self._served >= mine, timeout=left)
                if served and self._clean:
                    return True
            time.sleep(min(FLUSH_PAUSE, max(0.0, deadline - time.monotonic())))
        return False

    def stop(self, timeout: float) -> bool:
        """Flush, then end the thread. Returns whether everything was sent."""
        clean = self.flush(timeout)
        with self._wake:
            self._stopping = self._sender.abandoned = True
            self._wake.notify_all()
        self._thread.join(1.0)
        return clean

    def _loop(self) -> None:
        try:
            self._serve()
        finally:
            self._sender.release()

    def _serve(self) -> None:
        delay, pause = 0.0, RETRY_SECONDS[0]
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._stopping or self._asked > self._served, timeout=delay)
                if self._stopping:
                    return
                asked, self._new = self._asked, False
            clean = self._sender.work()
            with self._wake:
                self._served, self._clean = asked, clean
                self._wake.notify_all()
                if clean:
                    delay, pause = GATHER_SECONDS, RETRY_SECONDS[0]
                    self._wake.wait_for(lambda: self._new or self._stopping or self._asked > self._served)
                else:
                    delay, pause = pause, min(RETRY_SECONDS[1], 2 * pause)
