"""Where tracking keeps what must not be lost: the spool on this machine, and who a run is beside a remote output.

    output on this machine   OUT/tracking-spool, which says who the run is and holds what is still to be sent
    output on object storage OUT/tracking.json says who the run is, for the same command on any machine;
                             STATE/tracking/NAME-... on this machine holds what is still to be sent, until it is

STATE is CFR_ICL_STATE, else cfr-icl below XDG_STATE_HOME or ~/.local/state.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from pipeline import storage
from pipeline.errors import UserError
from pipeline.redact import mask_uris
from pipeline.tracking.spool import Identity, Lane, Spool

STATE_VARIABLE = "CFR_ICL_STATE"
HOME = "tracking.json"
SPOOL = "tracking-spool"


def state_folder() -> Path:
    """Where the spools of remote outputs lie on this machine."""
    own, xdg = os.environ.get(STATE_VARIABLE, ""), os.environ.get("XDG_STATE_HOME", "")
    if own:
        return Path(own).absolute() / "tracking"
    root = Path(xdg) if os.path.isabs(xdg) else Path.home() / ".local" / "state"  # the rule of XDG: absolute or ignored
    return root / "cfr-icl" / "tracking"


def spool_folder(out: str, key: str) -> Path:
    """The spool folder on this machine of the run that writes to `out`.

    Args:
        key: of the run's identity. An output that was emptied and begun again is another run, with a spool of its own;
            the old one's records still belong to the old run.
    """
    out = storage.absolute(out)
    if not storage.scheme_of(out):
        return Path(out) / SPOOL
    return state_folder() / f"{_state_name(out)}-{key[:8]}"


def spools_of(place: str) -> list[Spool]:
    """The spools on this machine that `place` means: an output folder or URI, or a spool folder itself.

    Raises:
        UserError: it is neither.
    """
    out = storage.absolute(place)
    if storage.scheme_of(out):
        found = _spools(state_folder().glob(f"{_state_name(out)}-*"))
        if not found and read_home(home_of(out)) is None:
            raise UserError(f"There is no tracked run in {out}: it holds no {HOME}.")
        return found
    found = _spools([Path(out), Path(out) / SPOOL])
    if not found:
        raise UserError(f"There is no tracking spool in {out}.")
    return found


def kept_spools() -> list[Spool]:
    """All spools of remote outputs on this machine."""
    return _spools(state_folder().glob("*"))


def home_of(out: str) -> str:
    """URI of the file that says who the run in `out` is; "" for a local output, whose spool folder says it."""
    out = storage.absolute(out)
    return storage.join(out, HOME) if storage.scheme_of(out) else ""


def claim(out: str, new: Identity) -> tuple[Spool, list[Lane]]:
    """Take up the run that `out` belongs to; `new` is it from now on when there is none.

    Returns:
        Its spool on this machine, and the lanes that are ours to send, the one for our own records last.

    Raises:
        UserError: the output or the spool folder cannot be read or written.
    """
    home = new.home = home_of(out)
    known = read_home(home) if home else None
    if home and known is None:
        known = new
        storage.write_bytes(
            home, new.to_json().encode()
        )  # before anything is logged: from here on every machine knows the run
    spool = Spool(spool_folder(out, known.key if known else new.key))
    try:
        with spool.lock():  # the lane is made under it, too: a folder with a lane is never removed
            here = spool.identity()
            identity = known or here or new
            identity.run_id = identity.run_id or (here.run_id if here else None)
            identity.uri, identity.home = new.uri, home
            spool.save(identity)
            return spool, [*spool.orphans(), spool.new_lane()]
    except OSError as error:
        hint = f" {STATE_VARIABLE} names another folder for it." if home else ""
        raise UserError(
            f"Cannot write what is to be logged to {spool.folder}: {error.strerror or error}.{hint}"
        ) from error


def read_home(uri: str) -> Identity | None:
    """Who the run of a remote output is; None when it was never tracked.

    Raises:
        UserError: the storage cannot be reached, or the file is another one.
    """
    try:
        return Identity.from_json(storage.read_bytes(uri)) if storage.exists(uri) else None
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{uri} does not say which run this output belongs to: {error}. Choose another --out."
        ) from error


def note_run(identity: Identity) -> None:
    """Note the MLflow run beside its remote output, unless the output was removed or given to another run meanwhile.

    Raises:
        UserError: the storage cannot be reached.
    """
    held = read_home(identity.home)
    if held is not None and held.key == identity.key:
        storage.write_bytes(identity.home, identity.to_json().encode())


def _spools(folders: Iterable[Path]) -> list[Spool]:
    return [spool for folder in sorted(folders) if (spool := Spool(folder)).identity() is not None]


def _state_name(out: str) -> str:
    """A folder name that tells outputs apart and can be read."""
    readable = re.sub(r"[^\w.-]+", "-", mask_uris(out).split("://", 1)[-1])[-60:].strip("-.")
    return f"{readable}-{hashlib.sha256(out.encode()).hexdigest()[:8]}"
