"""What an output folder holds of a run whose process has ended, sent to MLflow."""

from __future__ import annotations

import os
from dataclasses import dataclass

from pipeline import config, storage
from pipeline.errors import UserError
from pipeline.redact import mask_uris
from pipeline.tracking.contents import read_identity, write_identity
from pipeline.tracking.mlflow_client import now_ms
from pipeline.tracking.sender import Sender
from pipeline.tracking.store_uri import resolve_tracking


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
