"""The background thread with stores that are slow, that lose things, and a disk that is full."""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient

from pipeline import config
from pipeline.tracking import sender
from pipeline.tracking.mlflow_store import set_client_environment
from pipeline.tracking.run import Run, open_run
from pipeline.tracking.spool import Journal, Spool
from pipeline.tracking.sync import sync

SLOW, FILES = 0.05, 40  # seconds of each request to the slow store; more files than it takes in a second


def start(store: config.Tracking, out: Path, **changes: Any) -> Run:
    return open_run(store, kind="train", name="x", params={"lr": 1}, out=str(out), **changes)


class SlowRun:
    """A store that takes everything, slowly."""

    taken: list[str]
    news, last_opened = False, 0

    def __init__(self, uri: str, spool: Spool, reopen: bool = True) -> None:
        time.sleep(SLOW)

    def _take(self, what: str) -> None:
        time.sleep(SLOW)
        self.taken.append(what)

    def send_metrics(self, records: list[dict[str, Any]]) -> None:
        self._take(f"metrics up to {records[-1]['step']}")

    def send_params(self, values: dict[str, str]) -> list[str]:
        self._take("params")
        return []

    def send_tags(self, values: dict[str, str], keep: bool = False) -> None:
        self._take("tags")

    def send_status(self, status: str, milliseconds: int) -> None:
        self._take(status)

    def send_file(self, path: Path, folder: str) -> None:
        self._take(path.name)


def test_a_slow_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logging does not wait, pictures do not hold up values, and closing waits no longer than it says."""
    monkeypatch.setattr(sender, "OpenRun", SlowRun)
    SlowRun.taken = []
    run = start(config.Tracking(uri="http://slow", experiment="unit"), tmp_path / "run", wait=0.0)
    begin = time.perf_counter()
    for number in range(FILES):
        run.text("x", f"{number}.txt")
    for step in range(100):
        run.metrics({"loss": 1.0}, step)
    assert time.perf_counter() - begin < FILES * SLOW
    deadline = time.monotonic() + 20
    while "1.txt" not in SlowRun.taken and time.monotonic() < deadline:
        time.sleep(0.01)
    run.metrics({"loss": 1.0}, 100)
    begin = time.perf_counter()
    assert not run.close(timeout=1)
    assert time.perf_counter() - begin < 3
    values = [what for what in SlowRun.taken if what.startswith(("metrics", "FINISHED"))]
    assert values[-3:] == ["metrics up to 99", "metrics up to 100", "FINISHED"]
    assert f"{FILES - 1}.txt" not in SlowRun.taken
    time.sleep(2 * SLOW)  # the request on its way
    assert sync(Spool(tmp_path / "run" / "tracking-spool")).waiting.ended == 0
    files = sorted(what for what in SlowRun.taken if what.endswith(".txt"))
    assert files == sorted(f"{number}.txt" for number in range(FILES))


def test_the_client_makes_no_second_request_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its retries would ask a slow server for a run twice."""
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    set_client_environment()
    from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES

    assert MLFLOW_HTTP_REQUEST_MAX_RETRIES.get() == 0


def test_a_run_that_the_store_made_twice_is_one(store: config.Tracking, tmp_path: Path) -> None:
    """A request that nobody waited for any more is served after its repetition."""
    run = start(store, tmp_path / "run")
    identity = Spool(tmp_path / "run" / "tracking-spool").identity()
    client = MlflowClient(store.uri)
    assert identity and run.run_id
    experiment = client.get_run(run.run_id).info.experiment_id
    twin = client.create_run(experiment, tags={"cfr_icl.key": identity.key}).info.run_id
    assert run.close()
    assert client.get_run(twin).info.lifecycle_stage == "deleted"
    assert client.get_run(run.run_id).info.lifecycle_stage == "active"


def test_a_run_deleted_while_it_is_logged_is_made_again(store: config.Tracking, tmp_path: Path) -> None:
    run = start(store, tmp_path / "run")
    first = run.run_id
    assert first and run.flush()
    MlflowClient(store.uri).delete_run(first)
    for step in range(5):
        run.metrics({"loss": 1.0}, step)
    assert run.close()
    assert run.run_id not in (None, first)
    found = MlflowClient(store.uri).get_run(run.run_id or "")
    assert (found.data.params, found.info.status) == ({"lr": "1"}, "FINISHED")
    assert [m.step for m in MlflowClient(store.uri).get_metric_history(run.run_id or "", "loss")] == list(range(5))


def test_a_full_disk(
    store: config.Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What cannot be kept is lost with one complaint; the run goes on, and logs again when there is room."""
    run = start(store, tmp_path / "run")
    assert run.flush()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        patch.setattr(Path, "write_text", full)  # marks of what was sent
        patch.setattr(Journal, "append", full)
        for step in range(3):
            run.metrics({"loss": 1.0}, step)
            run.image(np.zeros((4, 4), np.uint8), f"{step}.png")
    assert not list((tmp_path / "run").rglob("files/*"))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        run.metrics({"loss": 1.0}, 3)
        run.metrics({"final": 1.0})
        assert run.flush()
    assert run.close()
    assert capfd.readouterr().out.count("No space left") == 1
    client, run_id = MlflowClient(store.uri), run.run_id or ""
    assert [m.step for m in client.get_metric_history(run_id, "loss")] == [3]
    assert len(client.get_metric_history(run_id, "final")) == 1


def test_a_journal_on_a_nearly_full_disk(tmp_path: Path) -> None:
    """The disk takes a part of a line: it is taken back, and the journal goes on when there is room."""
    journal = Journal(tmp_path / "records.jsonl")
    journal.append({"type": "tags", "values": {}})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60, hard))
    try:
        with pytest.raises(OSError):
            journal.append({"type": "tags", "values": {"a": "x" * 100}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    journal.append({"type": "params", "values": {}})
    assert [record["type"] for record, _ in journal.unsent(9)] == ["tags", "params"]


def test_what_a_power_cut_spoilt_holds_up_nothing(
    store: config.Tracking, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = start(config.Tracking(uri="http://127.0.0.1:9", experiment="unit"), tmp_path / "run")
    run.metrics({"loss": 1.0}, 1)
    run.text("x", "x.txt")
    run.close(timeout=0.1)
    spool = Spool(tmp_path / "run" / "tracking-spool")
    (lane,) = (spool.folder / "lanes").iterdir()
    for name in ("records", "files"):
        journal = lane / f"{name}.jsonl"
        journal.write_bytes(b"\0\0\0\n7\n" + journal.read_bytes())
        (lane / f"{name}.sent").write_text("")
    outcome = sync(spool, store.uri)
    assert (outcome.waiting.ended, outcome.why) == (0, "")
    assert "damaged" in capfd.readouterr().out
    identity = spool.identity()
    assert identity and identity.run_id
    found = MlflowClient(store.uri).get_run(identity.run_id)
    assert (found.data.metrics, found.info.status) == ({"loss": 1.0}, "FINISHED")
