"""What this process may use of its machine, by cgroup and affinity, and what its settings say wrongly, before work.

`CAUSES` is the one table of what an engine's error on starting or connecting means to a user.
"""

from __future__ import annotations

import math
import os
import re
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import Unavailable, UserError

CGROUPS = Path("/sys/fs/cgroup")
CONNECT_SECONDS = 5.0  # for the head of a cluster to take a connection
CONNECT_TRIES = 3
STORE_BYTES = 1_500_000_000
STORE_SHARE = 0.3  # of the memory that this process may use
LEAST_STORE = 80_000_000
OPEN_FILES = 65_536
LEAST_OPEN_FILES = 1_024
HTTP2_SETTINGS = 4  # type of the frame that a server begins with
HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, HTTP2_SETTINGS, 0, 0, 0, 0, 0])
SOCKET_PATH = 107  # bytes that the path of a Unix socket may have
ENGINE_PATH = len("/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store.0000")


def usable_cpus(cgroups: Path = CGROUPS, own: str | None = None) -> int:
    """CPUs that this process may use: its affinity (taskset, SLURM), and the quota of its container.

    Args:
        cgroups: where cgroups are mounted.
        own: content of /proc/self/cgroup; None: read it.
    """
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        count = os.cpu_count() or 1
    quotas = [_quota(folder) for folder in _own_groups(cgroups, own, "cpu")]
    return max(1, min([count, *(math.ceil(quota) for quota in quotas if quota)]))


def usable_memory(cgroups: Path = CGROUPS, own: str | None = None) -> int:
    """Bytes of memory that this process may use."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [total]
    for folder in _own_groups(cgroups, own, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _read(folder / name)
            if text.isdigit():
                limits.append(int(text))
    return min(limits)


def _own_groups(cgroups: Path, own: str | None, controller: str) -> list[Path]:
    """Folders of this process's group and those above it, of both versions of cgroups."""
    text = _read(Path("/proc/self/cgroup")) if own is None else own
    found = [cgroups, cgroups / controller]  # in a container, its own group is the root
    for line in text.splitlines():
        _, names, path = (line.split(":", 2) + ["", ""])[:3]
        if names and controller not in names.split(","):
            continue
        base = cgroups / controller if names else cgroups
        parts = [part for part in path.split("/") if part not in ("", "..")]
        found += [base.joinpath(*parts[:n]) for n in range(1, len(parts) + 1)]
    return found


def _quota(folder: Path) -> float:
    """CPUs that a group may use at a time; 0: as many as there are."""
    words = _read(folder / "cpu.max").split()
    if len(words) == 2 and words[0].isdigit():
        return int(words[0]) / int(words[1])
    quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else 0.0


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def store_bytes() -> int:
    """Size of the engine's object store that fits the memory."""
    return max(LEAST_STORE, min(STORE_BYTES, int(STORE_SHARE * usable_memory())))


def raise_open_files() -> None:
    """Allow this process as many open files as its hard limit does; the engine's processes inherit it.

    Raises:
        UserError: that is too few.
    """
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if wanted < LEAST_OPEN_FILES:
        raise UserError(
            f"This process may open {wanted} files, too few for Ray, which needs {LEAST_OPEN_FILES} at least: raise "
            f"the hard limit (ulimit -Hn {OPEN_FILES}, LimitNOFILE of a service, --ulimit nofile of a container)."
        )
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def check_working_folder() -> None:
    """Raises: UserError: the working folder is gone, or its name is no text."""
    try:
        here = os.getcwd()
    except OSError as error:
        raise UserError(f"The working folder is gone ({error.strerror}): change to one that exists.") from error
    try:
        here.encode()
    except UnicodeEncodeError as error:
        name = here.encode("utf-8", "backslashreplace").decode()
        raise UserError(f"The name of the working folder {name} is no UTF-8: start from another one.") from error


def engine_folder(candidates: Sequence[str] = ()) -> str:
    """A folder for the engine's sockets and logs whose path is short enough, and that this user may write to.

    Args:
        candidates: tried in turn; default: RAY_TMPDIR alone if it is set, else the temporary folder, then /tmp.

    Raises:
        UserError: there is none.
    """
    named = os.environ.get("RAY_TMPDIR", "")
    tried: list[str] = []
    folders = [named] if named else [_temporary(), "/tmp", "/var/tmp", "/dev/shm"]
    for folder in candidates or folders:
        problem = ""
        for path in (os.path.join(folder, "ray"), os.path.join(folder, f"ray-{os.getuid()}")):
            problem = _unusable(path)
            if not problem:
                return path
        tried.append(f"{folder or '(empty)'}: {problem}")
    what = "RAY_TMPDIR" if named else "no temporary folder"
    raise UserError(
        f"{what} can be used for Ray's sockets and logs ({'; '.join(tried)}). Set RAY_TMPDIR to a folder with a short "
        "name that you may write to, such as /tmp/me."
    )


def _temporary() -> str:
    try:
        return tempfile.gettempdir()
    except OSError:  # none of the usual ones can be written to
        return os.environ.get("TMPDIR", "") or "/tmp"


def _unusable(path: str) -> str:
    """Why the engine cannot use a folder; "" if it can."""
    if len(os.fsencode(path)) + ENGINE_PATH > SOCKET_PATH:
        return "its path is too long, sockets below it would have more than 107 bytes"
    try:
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(b"x" * 4096)
    except OSError as error:
        return str(error.strerror or error).lower()
    return ""


def token_is_writable() -> bool:
    """Whether the engine can keep its token in the user's home folder, as it does by default."""
    home = os.path.expanduser("~")
    folder = os.path.join(home, ".ray")
    return os.access(folder if os.path.isdir(folder) else home, os.W_OK)


def cluster_address() -> str:
    """HOST:PORT of RAY_ADDRESS once something answers there, "auto", or "" when Ray is to be started here.

    Raises:
        UserError: it is of a form that names no cluster.
        Unavailable: nothing answers.
    """
    given = os.environ.get("RAY_ADDRESS", "")
    address = given.strip()
    if address in ("", "local"):
        return ""
    if address == "auto":
        return address
    about = f"RAY_ADDRESS is {given!r}"
    if address.startswith(("http://", "https://")):
        raise UserError(
            f"{about}, the address of a dashboard: `ray job submit --address {address}` takes it. A job that is "
            "started directly takes HOST:PORT of the cluster's head (6379 by default), or nothing to use this machine."
        )
    if address.startswith("ray://"):
        raise UserError(
            f"{about}, which is Ray Client's; jobs run on the cluster itself: use `ray job submit`, or HOST:PORT."
        )
    found = re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^:/\s]+):(\d{1,5})", address)
    if not found or not 0 < int(found[2]) < 65536:
        raise UserError(f"{about}; it should read HOST:PORT (the head's, 6379 by default), auto, or not be set.")
    _knock(found[1].strip("[]"), int(found[2]), about)
    return address


def _knock(host: str, port: int, about: str) -> None:
    for attempt in range(CONNECT_TRIES):
        try:
            with socket.create_connection((host, port), timeout=CONNECT_SECONDS) as connection:
                if os.environ.get("RAY_USE_TLS", "0") == "0":
                    _greet(connection, about)
            return
        except socket.gaierror as error:
            raise UserError(f"{about}, and there is no host {host}: {error.strerror}.") from error
        except OSError as error:
            if attempt == CONNECT_TRIES - 1:
                reason = error.strerror or str(error)
                raise Unavailable(
                    f"{about}, and nothing answers there ({reason}). Start the cluster, or unset RAY_ADDRESS to use "
                    "this machine alone."
                ) from error


def _greet(connection: socket.socket, about: str) -> None:
    """Make sure that the other side speaks HTTP/2, as the engine's head does: else the engine would try for minutes.

    Raises:
        UserError: it does not.
        OSError: it is silent.
    """
    connection.settimeout(CONNECT_SECONDS)
    connection.sendall(HTTP2_GREETING)
    answer = b""
    while len(answer) < 9 and (more := connection.recv(9 - len(answer))):
        answer += more
    if len(answer) < 9 or answer[3] != HTTP2_SETTINGS:
        raise UserError(f"{about}, and what answers there is no Ray head (its port is 6379 by default).")


CAUSES: Sequence[tuple[str, type[Exception], str]] = (
    (
        r"Could not find any running Ray instance",
        UserError,
        "RAY_ADDRESS is 'auto', and no cluster runs on this machine: start one, or unset RAY_ADDRESS.",
    ),
    (
        r"AuthenticationError|token|Unauthenticated",
        UserError,
        "The cluster refuses the token: set RAY_AUTH_TOKEN_PATH.",
    ),
    (
        r"Failed to connect to Ray cluster",
        Unavailable,
        "The cluster did not let this process in: it may be going down, or take another token (RAY_AUTH_TOKEN_PATH).",
    ),
    (r"[Vv]ersion mismatch", UserError, "The cluster runs another version of Ray or Python than this environment."),
    (
        r"AF_UNIX path length",
        UserError,
        "The folder for Ray's sockets has too long a name: set RAY_TMPDIR to a short one.",
    ),
    (r"No space left on device", UserError, "The disk that Ray uses is full: make room, or set RAY_TMPDIR to another."),
    (
        r"Permission denied|Read-only file system",
        UserError,
        "Ray cannot write to its folder: set RAY_TMPDIR to your own.",
    ),
    (
        r"Too many open files|Resource temporarily",
        UserError,
        "Too few files or processes are allowed: see ulimit -n, -u.",
    ),
    (
        r"timed out|[Tt]imed? ?out|Failed to connect to GCS|failed to start|start up|RuntimeError",
        Unavailable,
        "Ray did not start in time, twice: this machine is too busy. Try again when it is less so.",
    ),
)
"""(what an error of the engine on starting holds, kind, what it means); the first that fits counts."""


def explain(error: Exception) -> Exception | None:
    """What an error of the engine on starting or connecting means to a user; None: it is not known."""
    text = f"{type(error).__name__}: {error}"
    for pattern, kind, meaning in CAUSES:
        if re.search(pattern, text):
            return kind(f"{meaning} ({' '.join(str(error).split())[:300]})")
    return None
