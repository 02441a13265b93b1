"""What a process may use of its machine, and settings that are wrong, each provoked."""

from __future__ import annotations

import http.server
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.engine import machine
from pipeline.errors import Unavailable, UserError

ROOT = Path(__file__).resolve().parents[2]


def group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


@pytest.mark.parametrize(
    ("quota", "cpus"), [("200000 100000", 2), ("150000 100000", 2), ("50000 100000", 1), ("max 100000", 64)]
)
def test_cpus_of_a_container(tmp_path: Path, quota: str, cpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    group(tmp_path / "job" / "step", cpu__max="max 100000")
    group(tmp_path / "job", cpu__max=quota)
    assert machine.usable_cpus(tmp_path, "0::/job/step\n") == cpus


def test_cpus_of_the_first_version_of_cgroups_and_of_affinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)), raising=False)
    assert machine.usable_cpus(tmp_path, "") == 6
    group(tmp_path / "cpu" / "docker" / "x", cpu__cfs_quota_us="300000", cpu__cfs_period_us="100000")
    assert machine.usable_cpus(tmp_path, "4:cpu,cpuacct:/docker/x\n") == 3
    group(tmp_path / "cpu" / "docker" / "x", cpu__cfs_quota_us="-1")
    assert machine.usable_cpus(tmp_path, "4:cpu,cpuacct:/docker/x\n") == 6


def test_memory_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = machine.usable_memory(tmp_path, "")
    group(tmp_path, memory__max=str(1 << 30))
    assert machine.usable_memory(tmp_path, "0::/\n") == 1 << 30 < whole
    monkeypatch.setattr(machine, "usable_memory", lambda: 1 << 30)
    assert machine.store_bytes() == int(0.3 * (1 << 30))
    monkeypatch.setattr(machine, "usable_memory", lambda: 64 << 30)
    assert machine.store_bytes() == machine.STORE_BYTES


@pytest.mark.parametrize("name", ["x" * 60, "absent/and/no/right"])
def test_a_named_folder_that_cannot_be_used(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / name) if name[0] == "x" else f"/proc/{name}")
    with pytest.raises(UserError, match=r"RAY_TMPDIR can be used.*Set RAY_TMPDIR to a folder with a short name"):
        machine.engine_folder()


def test_a_temporary_folder_with_a_long_name_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR")
    monkeypatch.setattr(machine, "_temporary", lambda: str(tmp_path / ("y" * 80)))
    found = machine.engine_folder()
    assert len(found) + machine.ENGINE_PATH <= machine.SOCKET_PATH and os.access(found, os.W_OK)


@pytest.mark.parametrize(
    ("address", "kind", "message"),
    [
        ("http://127.0.0.1:8265", UserError, "ray job submit"),
        ("ray://127.0.0.1:10001", UserError, "Ray Client"),
        ("somewhere", UserError, "HOST:PORT"),
        ("host:port", UserError, "HOST:PORT"),
        ("127.0.0.1:99999", UserError, "HOST:PORT"),
        ("no-such-host.invalid:6379", UserError, "there is no host"),
        ("127.0.0.1:1", Unavailable, "nothing answers there"),
    ],
)
def test_addresses_that_lead_nowhere(
    address: str, kind: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f" {address} ")
    with pytest.raises(kind, match=message):
        machine.cluster_address()


@pytest.mark.parametrize(("given", "meant"), [("", ""), ("  ", ""), ("local", ""), ("auto\n", "auto")])
def test_addresses_that_name_no_host(given: str, meant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", given)
    assert machine.cluster_address() == meant


def test_something_else_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.server_address[1]}")
    with pytest.raises(UserError, match="is no Ray head"):
        machine.cluster_address()
    server.shutdown()
    server.server_close()


def test_a_head_that_greets(monkeypatch: pytest.MonkeyPatch) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def greet() -> None:
        connection, _ = listener.accept()
        connection.recv(64)
        connection.sendall(bytes([0, 0, 0, machine.HTTP2_SETTINGS, 0, 0, 0, 0, 0]))
        connection.close()

    threading.Thread(target=greet, daemon=True).start()
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert machine.cluster_address() == address
    listener.close()


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ConnectionError("Could not find any running Ray instance."), UserError, "no cluster runs on this machine"),
        (OSError("AF_UNIX path length cannot exceed 107 bytes"), UserError, "RAY_TMPDIR to a short one"),
        (OSError(28, "No space left on device"), UserError, "full"),
        (ConnectionError("Failed to connect to Ray cluster at h:1"), Unavailable, "RAY_AUTH_TOKEN_PATH"),
        (PermissionError(13, "Permission denied"), UserError, "cannot write"),
        (RuntimeError("Version mismatch: The cluster was started with Ray 2.9"), UserError, "another version"),
        (Exception("The current node timed out during startup."), Unavailable, "too busy"),
    ],
)
def test_what_errors_of_the_engine_mean(error: Exception, kind: type[Exception], message: str) -> None:
    meaning = machine.explain(error)
    assert isinstance(meaning, kind) and message in str(meaning)


def test_an_unknown_error_stays_as_it_is() -> None:
    assert machine.explain(KeyError("x")) is None


def run(code: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, **options)  # type: ignore[call-overload]


def test_too_few_open_files() -> None:
    code = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))\n"
    code += "from pipeline.engine import machine\ntry: machine.raise_open_files()\n"
    code += "except Exception as e: print(type(e).__name__, e)"
    assert "UserError This process may open 200 files" in run(code).stdout


def test_a_working_folder_that_is_gone(tmp_path: Path) -> None:
    code = (
        "import os, sys; sys.path.insert(0, os.getcwd()); from pipeline.engine import machine; os.mkdir(sys.argv[1])\n"
    )
    code = code.replace("sys.argv[1]", repr(str(tmp_path / "x")))
    code += f"os.chdir({str(tmp_path / 'x')!r}); os.rmdir({str(tmp_path / 'x')!r})\n"
    code += "try: machine.check_working_folder()\nexcept Exception as e: print(type(e).__name__, e)"
    assert "UserError The working folder is gone" in run(code).stdout


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_output_that_nobody_reads_or_that_cannot_show_a_name(encoding: str) -> None:
    code = "from pipeline.engine.main import main\nmain(lambda args: [print('caf\\u00e9', i) for i in range(100000)])"
    command = f'{sys.executable} -c "$CODE" | head -1; echo ${{PIPESTATUS[0]}}'
    environment = {**os.environ, "CODE": code, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, timeout=60)
    lines = done.stdout.decode().split("\n")
    assert lines[0] == ("caf\\xe9 0" if encoding == "ascii" else "caf\u00e9 0") and lines[1] == "141"
    assert done.stderr == b""
