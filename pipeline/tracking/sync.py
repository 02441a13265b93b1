"""Sending what a spool still holds when the process that logged has ended."""

from __future__ import annotations

import os
from dataclasses import dataclass

from pipeline.config import Tracking
from pipeline.errors import UserError
from pipeline.redact import mask_uris
from pipeline.tracking.mlflow_store import now_ms
from pipeline.tracking.run import resolve_tracking
from pipeline.tracking.sender import Sender
from pipeline.tracking.spool import Spool, Waiting


@dataclass(frozen=True)
class Outcome:
    """What became of a spool.

    Attributes:
        sent: records (values, parameters, pictures, ...) that the store now has.
        waiting: what is left.
        why: why records of ended processes are left; "" when there are none.
    """

    sent: int
    waiting: Waiting
    why: str = ""


def sync(spool: Spool, uri: str = "") -> Outcome:
    """Send what a spool still holds, except what a living process is still going to send itself.

    Args:
        spool: one that somebody is sending already, or that is gone, is left alone.
        uri: tracking URI; empty: the one the run was logged to.

    Raises:
        UserError: the URI needs credentials, which no spool keeps.
    """
    alive = spool.waiting().processes
    identity, lanes, sent, why = spool.identity(), spool.orphans(), 0, ""
    if identity is not None and lanes and not alive and not any(lane.closed for lane in lanes):
        # Its process was killed without a word: the run would be "running" for ever.
        lanes[-1].records.append({"type": "status", "status": "KILLED", "time": now_ms()})
    try:
        if identity is not None and any(lane.pending for lane in lanes):
            sender = Sender(_address(uri, identity.uri), spool, lanes, None)
            why = "" if sender.work() else sender.failure
            sent = sender.sent
    finally:
        for lane in lanes:
            lane.release()
    waiting = spool.waiting()
    spool.discard()
    return Outcome(sent, waiting, why)


def _address(uri: str, masked: str) -> str:
    """The tracking URI to use for a run whose URI without credentials is `masked`."""
    environment = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri and environment and mask_uris(environment) == masked:
        return environment
    if "***" in (uri or masked):
        raise UserError(f"Give the tracking URI with its credentials, which are kept nowhere: --uri {uri or masked}")
    return resolve_tracking(Tracking(uri=uri or masked)).uri
