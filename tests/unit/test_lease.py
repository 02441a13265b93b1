"""One writer of an output folder: refused by name, taken over from the dead, never from the living."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline import storage
from pipeline.engine import lease, lease_entry
from pipeline.engine.lease import FILE, held
from pipeline.engine.lease_entry import Entry, entry_of, parse, watch
from pipeline.errors import UserError
from tests.made import rows_of_blobs

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys, time
from pipeline.engine.lease import held
with held(sys.argv[1], "jobs.train"):
    print("held", flush=True)
    sys.stdin.readline()
"""


class Holder:
    """Another process that holds the lease of a folder."""

    def __init__(self, out: str) -> None:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen([sys.executable, "-c", HOLD, out], cwd=ROOT, text=True, **pipes)
        assert self.process.stdout is not None
        self.first = self.process.stdout.readline().strip()

    def end(self) -> str:
        """Let it go on to its end; what it complained of."""
        return self.process.communicate("\n", timeout=60)[1]


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Holder]:
    made = Holder(str(tmp_path / "out"))
    assert made.first == "held"
    yield made
    if made.process.poll() is None:
        made.process.send_signal(signal.SIGCONT)
        made.process.kill()
        made.process.communicate()


def test_the_second_is_refused_by_name_and_may_come_later(holder: Holder, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    with pytest.raises(UserError) as caught, held(out, "jobs.train"):
        pass
    text = str(caught.value)
    assert f"{out} is being written by jobs.train of " in text and f"(process {holder.process.pid}, since 20" in text
    assert "Wait for it, stop it, or choose another --out." in text
    assert holder.end() == ""
    assert not (tmp_path / "out").exists(), "nothing was written, so nothing is left"
    with held(out, "jobs.train"):
        assert (tmp_path / "out" / FILE).exists()


def test_a_stopped_holder_lives(holder: Holder, tmp_path: Path) -> None:
    holder.process.send_signal(signal.SIGSTOP)
    with pytest.raises(UserError, match="is being written by"), held(str(tmp_path / "out"), "jobs.train"):
        pass
    holder.process.send_signal(signal.SIGCONT)
    assert holder.end() == ""


def test_a_killed_holder_is_followed_at_once(holder: Holder, tmp_path: Path) -> None:
    holder.process.kill()
    holder.process.communicate()
    assert (tmp_path / "out" / FILE).exists()
    start = time.monotonic()
    with held(str(tmp_path / "out"), "jobs.train"):
        assert time.monotonic() - start < lease_entry.DEAD_SECONDS / 2
        found = parse((tmp_path / "out" / FILE).read_bytes())
        assert found is not None and found.pid == os.getpid()


def test_of_many_at_once_one_writes(tmp_path: Path) -> None:
    holders = [Holder(str(tmp_path / "out")) for _ in range(4)]
    assert sorted(h.first for h in holders) == ["", "", "", "held"]
    for one in holders:
        said = one.end()
        assert (one.first == "held") == (said == ""), said


def test_one_process_may_hold_a_folder_several_times(tmp_path: Path) -> None:
    with held(str(tmp_path / "out"), "jobs.demo"), held(str(tmp_path / "out"), "jobs.train"):
        pass
    with pytest.raises(ValueError, match="of the work"), held(str(tmp_path / "out"), "jobs.train"):
        raise ValueError("of the work")
    with held(str(tmp_path / "out"), "jobs.train"):
        pass


def test_another_machine_by_its_beats_and_not_by_its_clock(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    other = replace(entry_of("jobs.train"), boot="elsewhere", host="far", since="2031-01-01 00:00:00", beat=5)

    def sleep(seconds: float) -> None:
        now[0] += seconds

    assert watch("OUT", other, lambda: other, lambda: now[0], sleep), "nothing moved for a minute: dead"
    assert 60 <= now[0] < 70 and "jobs.train of" in capsys.readouterr().err
    start = now[0]
    assert not watch("OUT", other, lambda: replace(other, beat=int(6 + now[0])), lambda: now[0], sleep)
    assert now[0] - start < 10, "it lives, an hour ahead or behind"
    assert watch("OUT", other, lambda: None, lambda: now[0], sleep), "it has ended"


def test_an_entry_of_another_machine_on_a_shared_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_entry, "DEAD_SECONDS", 0.2)
    monkeypatch.setattr(lease_entry, "LOOK_SECONDS", 0.05)
    other = replace(entry_of("jobs.train"), boot="elsewhere", host="far")
    (tmp_path / FILE).write_bytes(lease_entry.encode(other))
    with held(str(tmp_path), "jobs.train"):
        found = parse((tmp_path / FILE).read_bytes())
        assert found is not None and found.host != "far"


class Store:
    """Storage functions of a store in memory."""

    def __init__(self, conditional: bool) -> None:
        self.data: dict[str, bytes] = {}
        self.exact = conditional
        self.writes = 0

    def create(self, uri: str, data: bytes) -> bool:
        if self.exact and uri in self.data:
            return False
        return self.write(uri, data)

    def write(self, uri: str, data: bytes) -> bool:
        self.data[uri] = data
        self.writes += 1
        return True

    def read_bytes(self, uri: str) -> bytes:
        if uri not in self.data:
            raise UserError("absent")
        return self.data[uri]

    def read_version(self, uri: str) -> str | None:
        return str(hash(self.data[uri])) if uri in self.data else None

    def replace(self, uri: str, data: bytes, version: str) -> bool:
        return self.read_version(uri) == version and self.write(uri, data)

    def remove(self, uri: str) -> None:
        self.data.pop(uri, None)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    made = Store(conditional=True)
    for name in ("create", "read_bytes", "read_version", "replace", "remove"):
        monkeypatch.setattr(storage, name, getattr(made, name))
    monkeypatch.setattr(storage, "conditional", lambda uri: made.exact)
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 0.01)
    monkeypatch.setattr(lease_entry, "DEAD_SECONDS", 0.2)
    monkeypatch.setattr(lease_entry, "LOOK_SECONDS", 0.05)
    return made


URI = f"s3://bkt/run/{FILE}"


def note(store: Store, **changes: Any) -> Entry:
    entry = replace(entry_of("jobs.train"), id="another", **changes)
    store.data[URI] = lease_entry.encode(entry)
    return entry


def test_on_a_store(store: Store) -> None:
    with held("s3://bkt/run", "jobs.train"):
        assert json.loads(store.data[URI])["job"] == "jobs.train"
    assert store.data == {}
    note(store)
    with pytest.raises(UserError, match="is being written by"), held("s3://bkt/run", "jobs.train"):
        pass  # the process of the entry is this one, which lives
    note(store, started=1)
    with held("s3://bkt/run", "jobs.train"):
        assert json.loads(store.data[URI])["id"] != "another", "its number belongs to a later process by now"
    note(store, boot="elsewhere")
    with held("s3://bkt/run", "jobs.train"):
        assert json.loads(store.data[URI])["id"] != "another", "it was silent"


def test_a_store_without_conditional_writes(store: Store) -> None:
    store.exact = False
    with held("s3://bkt/run", "jobs.train"):
        pass
    own = store.create

    def overwritten(uri: str, data: bytes) -> bool:
        own(uri, data)
        store.create = own  # type: ignore[method-assign]
        storage.create = own  # type: ignore[assignment]
        note(store)  # another one wrote at the same moment, and later
        return True

    storage.create = overwritten  # type: ignore[assignment]
    store.exact = True  # from now on it is looked at as any other entry
    storage.conditional = lambda uri: False  # type: ignore[assignment]
    with pytest.raises(UserError, match="is being written by"), held("s3://bkt/run", "jobs.train"):
        pass


def test_who_was_taken_over_ends(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(lease, "lost", ended.append)
    with held("s3://bkt/run", "jobs.train"):
        before = store.writes
        while store.writes < before + 2:  # it beats
            time.sleep(0.01)
        note(store)
        for _ in range(500):
            if ended:
                break
            time.sleep(0.01)
    assert ended and ended[0] == "s3://bkt/run"
    assert json.loads(store.data[URI])["id"] == "another", "and leaves the other's entry alone"


def test_a_real_job_is_refused_before_the_engine_starts(holder: Holder, tmp_path: Path) -> None:
    (tmp_path / "raw" / "images").mkdir(parents=True)
    (tmp_path / "raw" / "masks").mkdir()
    (row,) = rows_of_blobs(1)
    (tmp_path / "raw" / "images" / "a.png").write_bytes(row.image)
    (tmp_path / "raw" / "masks" / "a.png").write_bytes(row.layers[0])
    command = [sys.executable, "-m", "jobs.prepare", "folder", "--root", str(tmp_path / "raw")]
    done = subprocess.run([*command, "--out", str(tmp_path / "out")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "is being written by jobs.train" in done.stderr
