"""python -m jobs.track_sync, and what may have happened before it; over HTTP in tests/e2e/test_tracking_server.py."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from jobs.track_sync import job
from pipeline import config
from pipeline.errors import UserError
from pipeline.tracking.mlflow_store import now_ms
from pipeline.tracking.places import kept_spools
from pipeline.tracking.run import Run, open_run
from pipeline.tracking.spool import Spool

ROOT = Path(__file__).resolve().parents[2]
AWAY = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CFR_ICL_STATE", str(tmp_path / "state"))


def start(out: str, uri: str = AWAY) -> Run:
    return open_run(config.Tracking(uri=uri, experiment="unit"), kind="train", name="x", params={"lr": 1}, out=out)


def kept(out: str, uri: str = AWAY) -> tuple[int, int]:
    """A whole run that its store does not see; it ended between the two times, in milliseconds."""
    run = start(out, uri)
    for step in range(20):
        run.metrics({"loss": 1.0}, step)
    run.metrics({"final": 2.0})
    run.image(np.zeros((8, 8), np.uint8), "samples/step_1.png")
    begin = now_ms()
    assert not run.close(timeout=0.1)
    return begin, now_ms()


def run_of(store: config.Tracking, spool: Path) -> str:
    return json.loads((spool / "run.json").read_text())["run_id"]


def test_a_run_that_ended_before_the_server_was_back(
    store: config.Tracking, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = f"file://{tmp_path}/bucket/run"
    earliest, latest = kept(out)
    assert f"python -m jobs.track_sync {kept_spools()[0].folder}" in capfd.readouterr().out
    job(["--list"])
    assert capfd.readouterr().out == f"{out}: 25 left (for {AWAY})\n"
    with pytest.raises(SystemExit) as away:
        job([])
    said = capfd.readouterr()
    assert away.value.code == 1 and "1 of 1 runs could not be sent" in said.err
    assert said.out.startswith(f"{out}: 0 records sent to {AWAY}, 25 left: the tracking store cannot be reached (")
    time.sleep(0.01)
    job([out, "--uri", store.uri])
    assert capfd.readouterr().out.endswith(f"{out}: 25 records sent to {store.uri}, 0 left\n")
    assert kept_spools() == []
    run_id = json.loads((tmp_path / "bucket" / "run" / "tracking.json").read_text())["run_id"]
    client = MlflowClient(store.uri)
    found = client.get_run(run_id)
    assert found.info.status == "FINISHED" and found.info.end_time
    assert found.info.start_time <= earliest <= found.info.end_time <= latest
    assert [m.step for m in client.get_metric_history(run_id, "loss")] == list(range(20))
    assert [f.path for f in client.list_artifacts(run_id, "samples")] == ["samples/step_1.png"]
    job([])
    job([out])
    assert capfd.readouterr().out == "nothing is kept on this machine\n" * 2


def test_sending_that_was_not_noted_is_repeated_without_doubles(store: config.Tracking, tmp_path: Path) -> None:
    """A SIGKILL between sending and marking: the next one sends all of it again."""
    out, spool = str(tmp_path / "run"), Spool(tmp_path / "run" / "tracking-spool")
    kept(out)
    (lane,) = (spool.folder / "lanes").iterdir()
    copies = {path: path.read_bytes() for path in lane.rglob("*") if path.is_file()}
    for _ in range(2):
        job([str(spool.folder), "--uri", store.uri])
        assert not lane.exists()
        for path, content in copies.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    client, run_id = MlflowClient(store.uri), run_of(store, spool.folder)
    assert [m.step for m in client.get_metric_history(run_id, "loss")] == list(range(20))
    assert [m.value for m in client.get_metric_history(run_id, "final")] == [2.0]
    assert len(client.list_artifacts(run_id, "samples")) == 1
    assert "continued.lr" not in client.get_run(run_id).data.tags


def test_what_a_running_process_has_is_left_to_it(
    store: config.Tracking, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = str(tmp_path / "run")
    first = start(out)
    first.close("FAILED", timeout=0.1)
    monkeypatch.setattr("pipeline.tracking.sender.GATHER_SECONDS", 60)
    with monkeypatch.context() as patch:
        patch.setattr(Spool, "orphans", lambda self: [])  # it does not take the first one's lane
        second = start(out, store.uri)
        assert second.flush()
    for _ in range(5):
        second.tags({"a": "b"})
    capfd.readouterr()
    job([out])
    said = capfd.readouterr().out
    assert said == f"{out}: 3 records sent to {store.uri}, in use by a running process that still sends 5 itself\n"
    assert MlflowClient(store.uri).get_run(second.run_id or "").info.status == "RUNNING"
    assert second.close()
    assert MlflowClient(store.uri).get_run(second.run_id or "").info.status == "FINISHED"


def test_mistakes(store: config.Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no tracking spool"):
        job([str(tmp_path)])
    with pytest.raises(UserError, match=r"no tracked run in file://.*tracking.json"):
        job([f"file://{tmp_path}/bucket"])
    with pytest.raises(UserError, match="--uri needs"):
        job(["--uri", AWAY])
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UserError, match="does not say which"):
        job([str(tmp_path)])
    secret, out = "http://me:hunter2@127.0.0.1:9", str(tmp_path / "run")
    kept(out, secret)
    with pytest.raises(UserError, match=r"--uri http://\*\*\*@127") as told:
        job([out])
    assert "hunter2" not in str(told.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", secret)
    with pytest.raises(SystemExit):  # tried, and away
        job([out])


KILLED = """
import os, signal, sys
from pipeline.config import Tracking
from pipeline.tracking.run import open_run
run = open_run(Tracking(uri=sys.argv[1], experiment="unit"), kind="train", name="killed", params={}, out=sys.argv[2])
run.metrics({"loss": 1.0}, step=1)
run.close(status=None) if len(sys.argv) > 3 else None
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_that_was_killed_without_a_word_is_closed(store: config.Tracking, tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    subprocess.run([sys.executable, "-c", KILLED, store.uri, out], cwd=ROOT, check=False)
    job([out])
    run_id = run_of(store, tmp_path / "run" / "tracking-spool")
    run = MlflowClient(store.uri).get_run(run_id)
    assert run.info.status == "KILLED" and run.data.metrics == {"loss": 1.0}
    job([out])
    assert MlflowClient(store.uri).get_run(run_id).info.end_time == run.info.end_time, "once"
