"""Remote outputs: the run stays one MLflow run on any machine, and nothing is lost or left lying on this one.

A file:// URI is a remote output to us, with everything that an object store has but the network.
"""

from __future__ import annotations

import json
import random
import threading
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from jobs import track_sync
from pipeline import config
from pipeline.errors import UserError
from pipeline.tracking.places import kept_spools, spool_folder, spools_of, state_folder
from pipeline.tracking.run import Run, open_run
from pipeline.tracking.spool import Identity, Spool

AWAY = config.Tracking(uri="http://127.0.0.1:9", experiment="unit")


def start(store: config.Tracking, out: str, **changes: Any) -> Run:
    arguments: dict[str, Any] = {"kind": "train", "name": "remote", "params": {"lr": 0.1}, **changes}
    return open_run(store, out=out, **arguments)


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A remote output, seen from machine a."""
    monkeypatch.setenv("CFR_ICL_STATE", str(tmp_path / "a"))
    return f"file://{tmp_path}/bucket/runs/first"


def home(tmp_path: Path) -> dict[str, Any]:
    return json.loads((tmp_path / "bucket" / "runs" / "first" / "tracking.json").read_text())


def runs(store: config.Tracking, key: str) -> list[Any]:
    client = MlflowClient(store.uri)
    experiment = client.get_experiment_by_name("unit")
    assert experiment
    return client.search_runs([experiment.experiment_id], f"tags.`cfr_icl.key` = '{key}'")


def steps(store: config.Tracking, run_id: str, key: str = "loss") -> list[int]:
    return sorted(m.step for m in MlflowClient(store.uri).get_metric_history(run_id, key))


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CFR_ICL_STATE", str(tmp_path))
    assert state_folder() == tmp_path / "tracking"
    assert spool_folder(str(tmp_path / "run"), "k" * 32) == tmp_path / "run" / "tracking-spool"
    names = {
        spool_folder(uri, key).name for uri in ("s3://b/runs/x", "s3://b/runs/x/", "gs://b/runs/x") for key in "kl"
    }
    assert len(names) == 4 and all(name.startswith("b-runs-x-") for name in names)
    assert "wJalr" not in str(spool_folder("s3://AKIA:wJalr/X@b/x", "k"))
    monkeypatch.delenv("CFR_ICL_STATE")
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("XDG_STATE_HOME", "/var/me")
    assert state_folder() == Path("/var/me/cfr-icl/tracking")
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert state_folder() == Path("/home/me/.local/state/cfr-icl/tracking")


def test_a_finished_run_leaves_its_identity_and_no_spool(store: config.Tracking, out: str, tmp_path: Path) -> None:
    with start(store, out) as run:
        assert len(kept_spools()) == 1
        run.metrics({"loss": 1.0}, 0)
    assert kept_spools() == []
    found = home(tmp_path)
    assert run.run_id and found["run_id"] == run.run_id
    assert [r.info.run_id for r in runs(store, found["key"])] == [run.run_id]
    with start(store, out) as again:  # the same command
        again.metrics({"loss": 1.0}, 1)
    assert again.run_id == run.run_id and steps(store, run.run_id) == [0, 1]


def test_the_same_command_on_another_machine(
    store: config.Tracking, out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server was down on the first machine, and is back for the second: one run, and the second's end counts."""
    first = start(AWAY, out, tags={"host": "a", "only": "a"}, wait=5)
    for step in range(5):
        first.metrics({"loss": 1.0}, step)
    assert not first.close("KILLED", timeout=0.1)
    begun = home(tmp_path)
    assert begun["run_id"] is None
    monkeypatch.setenv("CFR_ICL_STATE", str(tmp_path / "b"))
    with start(store, out, tags={"host": "b"}) as second:
        for step in range(3, 9):
            second.metrics({"loss": 1.0}, step)
    assert home(tmp_path) == {**begun, "run_id": second.run_id, "uri": store.uri}
    assert kept_spools() == []

    monkeypatch.setenv("CFR_ICL_STATE", str(tmp_path / "a"))
    track_sync.job([out, "--uri", store.uri])
    (found,) = runs(store, begun["key"])
    assert (found.info.run_id, found.info.status) == (second.run_id, "FINISHED")
    assert (found.data.tags["host"], found.data.tags["only"]) == ("b", "a")
    assert steps(store, found.info.run_id) == list(range(9))
    assert kept_spools() == []


def test_an_output_begun_again_is_another_run(store: config.Tracking, out: str, tmp_path: Path) -> None:
    first = start(AWAY, out, wait=5)
    first.metrics({"loss": 1.0}, 0)
    first.close(timeout=0.1)
    old = home(tmp_path)["key"]
    (tmp_path / "bucket" / "runs" / "first" / "tracking.json").unlink()
    with start(store, out) as second:
        second.metrics({"loss": 1.0}, 0)
    new = home(tmp_path)
    assert new["key"] != old and len(spools_of(out)) == 1
    track_sync.job([out, "--uri", store.uri])
    assert home(tmp_path) == new  # the old run does not take the output back
    for key in (old, new["key"]):
        (found,) = runs(store, key)
        assert steps(store, found.info.run_id) == [0]


def test_what_cannot_be_written_is_one_message(out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plain").write_text("")
    with pytest.raises(UserError, match=r"plain/run/tracking.json cannot be written"):
        start(AWAY, f"file://{tmp_path}/plain/run")
    (tmp_path / "bucket").mkdir()
    monkeypatch.setenv("CFR_ICL_STATE", "/dev/null/x")
    with pytest.raises(UserError, match=r"/dev/null/x.*CFR_ICL_STATE"):
        start(AWAY, out)
    (tmp_path / "bucket" / "runs" / "first" / "tracking.json").write_text("{}")
    with pytest.raises(UserError, match="does not say which run"):
        start(AWAY, out)


def test_many_processes_on_one_spool_lose_nothing(tmp_path: Path) -> None:
    """Each opens the spool, logs, then dies or sends all it can see and removes the folder; nobody's record is lost."""
    folder, written, sent = tmp_path / "spool", [], []

    def process(number: int) -> None:
        draw = random.Random(number)
        for turn in range(40):
            spool = Spool(folder)
            with spool.lock():
                spool.save(Identity("key", "uri", "experiment", "name", home="file:///elsewhere"))
                lanes = [*spool.orphans(), spool.new_lane()]
            lanes[-1].records.append({"type": "tags", "record": f"{number} {turn}"})
            written.append(f"{number} {turn}")
            if draw.random() < 0.6:
                for lane in lanes:
                    found = lane.records.unsent(1000)
                    sent.extend(record["record"] for record, _ in found)
                    if found:
                        lane.records.mark(found[-1][1])
            for lane in lanes:
                lane.release()
            spool.discard()

    threads = [threading.Thread(target=process, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    left = [record["record"] for lane in Spool(folder).orphans() for record, _ in lane.records.unsent(1000)]
    assert len(written) == 240
    assert sorted(sent + left) == sorted(written)
