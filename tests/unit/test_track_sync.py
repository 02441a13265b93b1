"""python -m jobs.track_sync, and what may have happened before it; over HTTP in tests/e2e/test_tracking_server.py."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from jobs.track_sync import job
from pipeline import config
from pipeline.engine import lease
from pipeline.errors import UserError
from pipeline.tracking.mlflow_client import now_ms
from pipeline.tracking.run import Run, open_run

ROOT = Path(__file__).resolve().parents[2]
AWAY = "http://127.0.0.1:9"


def start(out: str, uri: str = AWAY) -> Run:
    return open_run(config.Tracking(uri=uri, experiment="unit"), kind="train", name="x", params={"lr": 1}, out=out)


def kept(folder: Path, uri: str = AWAY, scheme: str = "") -> tuple[int, int]:
    """A whole run that its store does not see; it ended between the two times, in milliseconds."""
    run = start(f"{scheme}{folder}", uri)
    rows = [{"step": step, "time": 1000 + step, "loss": 1.0} for step in range(20)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "pictures").mkdir(exist_ok=True)
    (folder / "pictures" / "samples_1.png").write_bytes(b"a picture")
    summary = {"trials": [], "best": {"objectives": {"noc90": 2.0}}}
    (folder / "summary.json").write_text(json.dumps(summary))
    begin = now_ms()
    assert not run.close(timeout=0.1)
    return begin, now_ms()


def run_of(folder: Path) -> str:
    return json.loads((folder / "tracking.json").read_text())["run_id"]


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_run_that_ended_before_the_server_was_back(
    store: config.Tracking, tmp_path: Path, capfd: pytest.CaptureFixture[str], scheme: str
) -> None:
    folder = tmp_path / "bucket" / "run"
    out = f"{scheme}{folder}"
    earliest, latest = kept(folder, scheme=scheme)
    assert f"python -m jobs.track_sync {out}`" in capfd.readouterr().out
    with pytest.raises(SystemExit) as away:
        job([out])
    said = capfd.readouterr()
    assert away.value.code == 1 and "1 of 1 runs could not be sent" in said.err
    start_of = f"{out}: 0 values and 0 files sent to {AWAY}; the rest is left: the tracking store cannot be reached ("
    assert said.out.startswith(start_of)
    time.sleep(0.01)
    job([out, "--uri", store.uri])
    assert capfd.readouterr().out == f"{out}: 21 values and 2 files sent to {store.uri}\n"
    client, run_id = MlflowClient(store.uri), run_of(folder)
    found = client.get_run(run_id)
    assert found.info.status == "FINISHED" and found.info.end_time
    assert found.info.start_time <= earliest <= found.info.end_time <= latest
    assert [(m.step, m.timestamp) for m in client.get_metric_history(run_id, "loss")] == [
        (step, 1000 + step) for step in range(20)
    ]
    assert found.data.metrics["noc90"] == 2.0 and found.data.tags["out"] == out
    assert [f.path for f in client.list_artifacts(run_id, "pictures")] == ["pictures/samples_1.png"]
    job([out, "--uri", store.uri])  # nothing is doubled
    assert capfd.readouterr().out == f"{out}: 0 values and 1 files sent to {store.uri}\n"
    assert client.get_run(run_id).info.end_time == found.info.end_time
    assert len(client.get_metric_history(run_id, "noc90")) == 1


def test_sending_that_was_not_noted_is_repeated_without_doubles(store: config.Tracking, tmp_path: Path) -> None:
    """A SIGKILL between sending and noting: the next one sends all of it again."""
    folder = tmp_path / "run"
    kept(folder)
    before = (folder / "tracking.json").read_text()
    job([str(folder), "--uri", store.uri])
    run_id = run_of(folder)
    (folder / "tracking.json").write_text(before)
    client = MlflowClient(store.uri)
    job([str(folder), "--uri", store.uri])
    assert run_of(folder) == run_id, "found by its key"
    assert [m.step for m in client.get_metric_history(run_id, "loss")] == list(range(20))
    assert [m.value for m in client.get_metric_history(run_id, "noc90")] == [2.0]
    assert len(client.list_artifacts(run_id, "pictures")) == 1
    assert "continued.lr" not in client.get_run(run_id).data.tags


def test_what_a_running_process_has_is_left_to_it(
    store: config.Tracking, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    script = f"""
import sys
from pipeline.engine import lease
with lease.held({out!r}, "jobs.train"), lease.held({str(tmp_path)!r}, "jobs.train"):
    print("held", flush=True)
    sys.stdin.readline()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdin and other.stdout and other.stdout.readline() == b"held\n"
        run = start(out, store.uri)
        trial = start(f"{out}/trials/0001", store.uri)
        elsewhere = f"{tmp_path}/trials/run"  # a folder of that name is not a sweep's
        assert start(elsewhere, store.uri).close()
        job([elsewhere])
        assert f"{elsewhere}: 0 values and 0 files sent" in capfd.readouterr().out
        capfd.readouterr()
        for place in (out, f"{out}/trials/0001"):
            job([place])
            said = capfd.readouterr().out
            assert f"{out} is being written by jobs.train" in said and "It sends what is left itself" in said
        for one in (run, trial):
            assert MlflowClient(store.uri).get_run(one.run_id or "").info.status == "RUNNING"
            assert one.close()
        other.stdin.write(b"\n")
        other.stdin.flush()
    assert MlflowClient(store.uri).get_run(run.run_id or "").info.status == "FINISHED"
    job([out])  # it has gone


@pytest.mark.parametrize("below", ["trials", "settings"])
def test_children_are_sent_with_it(store: config.Tracking, tmp_path: Path, below: str) -> None:
    """The trials of a sweep, the settings of an evaluation."""
    out = tmp_path / "sweep"
    assert not start(str(out)).close(timeout=0.1)
    trial = out / below / "0003"
    assert not start(str(trial)).close("FAILED", timeout=0.1)
    (out / below / "0004").mkdir()  # was not tracked yet
    job([str(out), "--uri", store.uri])
    found = [MlflowClient(store.uri).get_run(run_of(folder)) for folder in (out, trial)]
    assert [run.info.status for run in found] == ["FINISHED", "FAILED"]


def test_mistakes(store: config.Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for scheme in ("", "file://"):
        with pytest.raises(UserError, match=r"no tracked run here: .*tracking.json"):
            job([f"{scheme}{tmp_path}"])
    with pytest.raises(UserError, match="OUT"):
        job(["--uri", AWAY])
    (tmp_path / "tracking.json").write_text("{}")
    with pytest.raises(UserError, match="does not say which"):
        job([str(tmp_path)])
    secret, out = "http://me:hunter2@127.0.0.1:9", tmp_path / "run"
    kept(out, secret)
    with pytest.raises(UserError, match=r"--uri http://\*\*\*@127") as told:
        job([str(out)])
    assert "hunter2" not in str(told.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", secret)
    with pytest.raises(SystemExit):  # tried, and away
        job([str(out)])


KILLED = """
import os, signal, sys
from pipeline.config import Tracking
from pipeline.tracking.run import open_run
run = open_run(Tracking(uri=sys.argv[1], experiment="unit"), kind="train", name="killed", params={}, out=sys.argv[2])
run.metrics({"loss": 1.0}, step=1)
assert run.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_that_was_killed_without_a_word_is_closed(store: config.Tracking, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = subprocess.run([sys.executable, "-c", KILLED, store.uri, str(out)], cwd=ROOT, check=False)
    assert done.returncode == -9
    job([str(out)])
    run = MlflowClient(store.uri).get_run(run_of(out))
    assert run.info.status == "KILLED" and run.data.metrics == {"loss": 1.0}
    job([str(out)])
    assert MlflowClient(store.uri).get_run(run_of(out)).info.end_time == run.info.end_time, "once"
    with lease.held(str(out), "a test"), open_run(store, kind="train", name="x", params={}, out=str(out)) as again:
        pass
    assert again.run_id == run.info.run_id
    assert MlflowClient(store.uri).get_run(run.info.run_id).info.status == "FINISHED"
