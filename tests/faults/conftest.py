"""One local cluster for all fault tests, a whole run to compare with, and the table of what was seen."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipeline.data.readers.synthetic import write_synthetic
from pipeline.evaluate.results import read_table
from tests.faulty_s3 import FaultyS3, forget_clients

from .local_cluster import ROOT, SMALL, Local
from .table import Row, write_table

ROWS: list[Row] = []
TABLE = "CFR_ICL_FAULT_TABLE"  # names the file whose table a complete run of these tests writes


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.ray)
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(600))  # the first one sets up the cluster and the reference run


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if TABLE in os.environ and ROWS and not session.testsfailed:
        write_table(Path(os.environ[TABLE]), ROWS)


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    """The cluster; this process finds its S3 server too."""
    cluster = Local(tmp_path_factory.mktemp("local"))
    settings = {name: value for name, value in cluster.env.items() if name.startswith("AWS_")}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    forget_clients()
    yield cluster
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    forget_clients()
    cluster.stop()


@pytest.fixture
def faulty(local: Local) -> Iterator[FaultyS3]:
    """A proxy before the S3 server, its switches off; a job goes through it with AWS_ENDPOINT_URL=faulty.url."""
    proxy = FaultyS3(local.env["AWS_ENDPOINT_URL"])
    yield proxy
    proxy.close()


@dataclass
class Reference:
    """A run that nothing happened to: prepared, trained and evaluated on s3:// through `ray job submit`.

    Attributes:
        logs: what each job said, by job.
    """

    train: str
    val: str
    run: str
    evaluation: str
    logs: dict[str, str] = field(default_factory=dict)


@pytest.fixture(scope="session")
def reference(local: Local) -> Reference:
    from ray.job_submission import JobSubmissionClient

    bucket = local.bucket
    made = Reference(f"{bucket}/train", f"{bucket}/val", f"{bucket}/reference", f"{bucket}/evaluation")
    write_synthetic(f"{bucket}/raw", train=24, val=6, seed=1, size=(96, 120), evaluation=6)
    data = ["--data.train", made.train, "--data.val", made.val]
    raw = ["coco-lvis", "--root", f"{bucket}/raw"]
    jobs = {
        "prepare train": ["prepare.py", *raw, "--split", "train", "--out", made.train],
        "prepare val": ["prepare.py", *raw, "--split", "val", "--out", made.val],
        "train": ["train.py", "tiny", *data, "--out", made.run, *SMALL],
        "evaluate": ["evaluate.py", *evaluation_args(made, made.run, made.evaluation), "--actors", "2"],
    }
    os.environ.update({name: local.env[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")})
    client = JobSubmissionClient(local.env["RAY_API_SERVER_ADDRESS"])
    for together in (("prepare train", "prepare val"), ("train",), ("evaluate",)):
        start = time.monotonic()
        submitted = {
            name: client.submit_job(
                entrypoint=shlex.join([sys.executable, f"jobs/{jobs[name][0]}", *jobs[name][1:]]),
                runtime_env={"working_dir": str(ROOT)},
            )
            for name in together
        }
        for name, job in submitted.items():
            while not client.get_job_status(job).is_terminal():
                assert time.monotonic() - start < 240, client.get_job_logs(job)
                time.sleep(0.3)
            made.logs[name] = client.get_job_logs(job)
            assert client.get_job_status(job).value == "SUCCEEDED", made.logs[name]
    return made


def evaluation_args(made: Reference, checkpoint: str, out: str) -> list[str]:
    data = [f"davis={made.val.rsplit('/', 1)[0]}/raw/eval", f"val={made.val}"]
    return [
        "--checkpoint",
        checkpoint,
        "--data",
        *data,
        "--cfr-steps",
        "0",
        "1",
        "--max-clicks",
        "3",
        "--limit",
        "8",
        "--out",
        out,
    ]


def errors_in(said: str) -> list[str]:
    """The messages of a job that ended with one; there must be no traceback."""
    assert "Traceback" not in said, said[-5000:]
    return [line for line in said.splitlines() if line.startswith("error: ")]


def results(evaluation: str) -> list[dict[str, Any]]:
    """Rows of objects.parquet, without what depends on the machine."""
    return read_table(f"{evaluation}/objects.parquet").drop_columns(["seconds"]).to_pylist()


@pytest.fixture
def noted() -> Callable[..., None]:
    """noted(fault, happens=..., lost=..., seconds=...): a row of docs/reliability.md, from this very run."""

    def note(fault: str, happens: str, lost: str, seconds: float | None = None) -> None:
        test = os.environ["PYTEST_CURRENT_TEST"].split("::")[-1].split(" ")[0].split("[")[0]
        ROWS.append(Row(fault, happens, lost, seconds, test))

    return note
