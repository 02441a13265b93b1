"""Addresses of MLflow stores: which kinds there are, what is wrong with one, and SQLite files of any path."""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote, unquote

from pipeline import config
from pipeline.errors import UserError, did_you_mean
from pipeline.redact import check_secrets, mask_uris

SQLITE = "sqlite:///"
SERVERS = ("http", "https")
# Kinds of databases, the package of the driver that SQLAlchemy takes by default, and the module it imports.
DRIVERS = {
    "postgresql": ("psycopg2-binary", "psycopg2"),
    "mysql": ("mysqlclient", "MySQLdb"),
    "mssql": ("pyodbc", "pyodbc"),
    "oracle": ("oracledb", "oracledb"),
}
NAMED_DRIVERS = {
    "pymysql": ("pymysql", "pymysql"),
    "psycopg": ("psycopg[binary]", "psycopg"),
    "pymssql": ("pymssql", "pymssql"),
    "pyodbc": ("pyodbc", "pyodbc"),
    "psycopg2": ("psycopg2-binary", "psycopg2"),
    "pg8000": ("pg8000", "pg8000"),
}
DATABRICKS = re.compile(r"databricks(-uc)?(://.*)?|uc(:.*)?")
# `ray job submit` unpacks the code to such a folder, which is removed some time after the job.
RAY_WORKING_DIR = "runtime_resources"
EXAMPLES = "http://HOST:PORT of a server, sqlite:///PATH/mlflow.db, postgresql://USER@HOST/NAME or databricks"


def sqlite_path(uri: str) -> Path | None:
    """The file of a SQLite tracking URI, None for other stores.

    SQLAlchemy decodes %XX in the path and cuts it at "?"; a path that was given as it is on the disk, in a folder that
    is there, is taken so.
    """
    if not uri.startswith(SQLITE):
        return None
    given = uri.removeprefix(SQLITE)
    literal, decoded = Path(given).absolute(), Path(unquote(given.split("?", 1)[0])).absolute()
    return literal if literal.parent.is_dir() else decoded


def sqlite_uri(path: Path) -> str:
    """The URI of a SQLite file, whatever characters its path holds."""
    return SQLITE + quote(str(path.absolute()), safe="/ !$&'()*+,;=:@~")


def checked_uri(given: str) -> str:
    """A tracking URI as MLflow takes it.

    Raises:
        UserError: it is of no kind that MLflow 3 writes to, or the database's driver is not installed.
    """
    check_secrets("MLFLOW_", "DATABRICKS_")
    uri = given.strip()
    scheme, separator, rest = uri.partition("://")
    shown = mask_uris(given)
    if DATABRICKS.fullmatch(uri):
        return uri
    if separator:
        uri = scheme.lower() + separator + rest
    if uri.startswith(SQLITE) and len(uri) > len(SQLITE):
        path = sqlite_path(uri)
        assert path is not None
        if path.is_dir():
            raise UserError(f"{shown} names a folder; name a file in it: sqlite:///{path}/mlflow.db.")
        return sqlite_uri(path)
    kind, _, driver = scheme.lower().partition("+")
    if kind in SERVERS and rest.strip("/"):
        return uri.rstrip("/") if not rest.startswith("/") else uri
    if kind == "postgres":
        raise UserError(f"{shown}: SQLAlchemy calls it postgresql://.")
    if kind in DRIVERS and separator:
        package, module = NAMED_DRIVERS.get(driver, DRIVERS[kind]) if driver else DRIVERS[kind]
        if find_spec(module) is None:
            raise UserError(f"{shown} needs a driver that is not installed: pip install {package}.")
        return uri
    if uri.startswith("file:") or not separator:
        raise UserError(
            f"MLflow 3 does not write to plain folders such as {shown}; "
            "use sqlite:///PATH/mlflow.db or the address of a server, http://HOST:PORT."
        )
    hint = did_you_mean(kind, [*SERVERS, *DRIVERS, "sqlite", "databricks"])
    raise UserError(f"{shown} is no tracking store that MLflow knows.{hint} Give {EXAMPLES}.")


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
        wrong = "is temporary" if RAY_WORKING_DIR in root.parts else "" if _writable(root) else "cannot be written"
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
