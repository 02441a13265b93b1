"""The background thread with stores that are slow, lose things or are away for long, and with a disk that is full."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from pipeline import config, storage
from pipeline.errors import UserError
from pipeline.tracking import sender
from pipeline.tracking.contents import DataInput, Identity, Values, read_identity
from pipeline.tracking.mlflow_client import file_lock, set_client_environment
from pipeline.tracking.replay import replay
from pipeline.tracking.run import Run, open_run

SLOW, FILES = 0.05, 40  # seconds of each request to the slow store; more files than it takes in a second


def start(store: config.Tracking, out: Path, **changes: Any) -> Run:
    return open_run(store, kind="train", name="x", params={"lr": 1}, out=str(out), **changes)


def save(out: Path, steps: Sequence[int]) -> None:
    lines = [json.dumps({"step": step, "time": step, "loss": 1.0}) for step in steps]
    (out / "metrics.jsonl").write_text("\n".join(lines))


def steps(store: config.Tracking, run: Run) -> list[int]:
    return [m.step for m in MlflowClient(store.uri).get_metric_history(run.run_id or "", "loss")]


class SlowRun:
    """A store that takes everything, slowly."""

    taken: list[str]
    created, values = True, 0

    def __init__(self, uri: str, identity: Identity, reopen: bool, still: Callable[[], None]) -> None:
        time.sleep(SLOW)

    def _take(self, what: str) -> None:
        time.sleep(SLOW)
        self.taken.append(what)

    def send_metrics(self, records: list[Values]) -> None:
        self._take(f"metrics up to {records[-1].step}")

    def send_params(self, values: list[tuple[str, str]]) -> None:
        self._take("params")

    def send_tags(self, values: list[tuple[str, str]]) -> None:
        self._take("tags")

    def send_status(self, status: str, milliseconds: int) -> None:
        self._take(status)

    def send_inputs(self, inputs: list[DataInput]) -> None:
        self._take("inputs")

    def page_of(self, run_id: str) -> str:
        return ""

    def files_beside(self, names: list[str]) -> set[str]:
        return set(self.taken)

    def send_file(self, name: str, data: bytes) -> None:
        self._take(name)


def test_a_slow_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logging does not wait, pictures do not hold up values, and closing waits no longer than it says."""
    monkeypatch.setattr(sender, "OpenRun", SlowRun)
    SlowRun.taken = []
    out = tmp_path / "run"
    names = [f"pictures/{number:02d}.png" for number in range(FILES)]
    (out / "pictures").mkdir(parents=True)
    run = start(config.Tracking(uri="http://slow", experiment="unit"), out, wait=0.0)
    begin = time.perf_counter()
    for name in names:
        (out / name).write_bytes(b"x")
        run.file(name)
    for step in range(100):
        run.metrics({"loss": 1.0}, step)
    assert time.perf_counter() - begin < FILES * SLOW
    deadline = time.monotonic() + 20
    while names[1] not in SlowRun.taken and time.monotonic() < deadline:
        time.sleep(0.01)
    run.metrics({"loss": 1.0}, 100)
    begin = time.perf_counter()
    assert not run.close(timeout=1)
    assert time.perf_counter() - begin < 3
    values = [what for what in SlowRun.taken if what.startswith(("metrics", "FINISHED"))]
    assert values[-3:] == ["metrics up to 99", "metrics up to 100", "FINISHED"]
    assert names[-1] not in SlowRun.taken
    time.sleep(2 * SLOW)  # the request on its way
    assert replay(str(out)).why == ""
    assert sorted(what for what in SlowRun.taken if what.endswith(".png")) == names


def test_the_client_makes_no_second_request_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its retries would ask a slow server for a run twice."""
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    set_client_environment()
    from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES

    assert MLFLOW_HTTP_REQUEST_MAX_RETRIES.get() == 0


def test_a_run_that_the_store_made_twice_is_one(store: config.Tracking, tmp_path: Path) -> None:
    """A request that nobody waited for any more is served after its repetition."""
    run = start(store, tmp_path / "run")
    identity = read_identity(str(tmp_path / "run"))
    client = MlflowClient(store.uri)
    assert identity and run.run_id
    experiment = client.get_run(run.run_id).info.experiment_id
    twin = client.create_run(experiment, tags={"cfr_icl.key": identity.key}).info.run_id
    assert run.close()
    assert client.get_run(twin).info.lifecycle_stage == "deleted"
    assert client.get_run(run.run_id).info.lifecycle_stage == "active"


def test_a_run_deleted_while_it_is_logged_is_made_again(store: config.Tracking, tmp_path: Path) -> None:
    """With what was logged before, once that is saved."""
    run = start(store, tmp_path / "run")
    run.metrics({"loss": 1.0}, 0)
    first = run.run_id
    assert first and run.flush()
    MlflowClient(store.uri).delete_run(first)
    for step in range(1, 5):
        run.metrics({"loss": 1.0}, step)
    assert run.flush()
    assert run.run_id not in (None, first)
    save(tmp_path / "run", range(5))
    assert run.close()
    found = MlflowClient(store.uri).get_run(run.run_id or "")
    assert (found.data.params, found.info.status) == ({"lr": "1"}, "FINISHED")
    assert sorted(steps(store, run)) == list(range(5))


def test_more_than_the_queue_holds(
    store: config.Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The store is away for long: memory is bounded, and what was left out comes from the output at the end."""
    monkeypatch.setattr(sender, "QUEUE", 5)
    monkeypatch.setattr(sender, "RETRY_SECONDS", (0.05, 0.05))
    run = start(store, tmp_path / "run")
    assert run.flush()

    def away(*_: object, **__: object) -> None:
        raise ConnectionError("away")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", away)
        for step in range(20):
            run.metrics({"loss": 1.0}, step)
        assert len(run._sender._values) == 5
        assert not run.flush(0.2)
    run.metrics({"loss": 1.0}, 20)
    save(tmp_path / "run", range(21))
    assert run.close()
    assert sorted(steps(store, run)) == list(range(21))
    said = capfd.readouterr().out
    assert said.count("the tracking store cannot be reached (away)") == 1 and "the tracking store is back" in said
    identity = read_identity(str(tmp_path / "run"))
    assert identity and identity.complete == 20


def test_an_output_that_cannot_be_written_any_more(
    store: config.Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A full disk: the run goes on, is logged, and says so; a file that is gone holds nothing up."""
    run = start(store, tmp_path / "run")
    assert run.flush()

    def full(uri: str, _: bytes) -> None:
        raise UserError(f"{uri} cannot be written: No space left on device.")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_bytes", full)
        run.metrics({"loss": 1.0}, 3)
        run.file("pictures/0.png")
        assert run.close()
    said = capfd.readouterr().out
    assert "tracking.json cannot be written: No space left" in said and "pictures/0.png is left out" in said
    assert steps(store, run) == [3]
    assert MlflowClient(store.uri).get_run(run.run_id or "").info.status == "FINISHED"


def test_a_file_that_the_artifact_store_does_not_take_holds_up_no_value(
    store: config.Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def away(*_: object) -> None:
        raise ConnectionError("away")

    monkeypatch.setattr(MlflowClient, "log_artifact", away)
    run = start(store, tmp_path / "run")
    (tmp_path / "run" / "report.md").write_text("x")
    run.metrics({"loss": 1.0}, 1)
    assert not run.close(timeout=1.0)
    assert steps(store, run) == [1]
    assert MlflowClient(store.uri).get_run(run.run_id or "").info.status == "FINISHED"
    said = capfd.readouterr().out
    assert "the artifact store cannot be reached (away)" in said and "jobs.track_sync" in said


def test_the_lock_of_a_store_that_many_make_at_once(tmp_path: Path) -> None:
    inside, most = [], []

    def take() -> None:
        with file_lock(tmp_path / "new" / "folder" / "db-lock"):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.002)
            inside.pop()

    threads = [threading.Thread(target=take) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 20
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        file_lock(tmp_path / "file" / "lock").__enter__()
