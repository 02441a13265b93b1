"""Signals to a small process that uses `pipeline.engine.stop` as the jobs do."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.engine import stop
from pipeline.engine.processes import kill, started_at

ROOT = Path(__file__).resolve().parents[2]
PLAIN = """
while True:
    time.sleep(0.05)
"""
SAVING = """
wish, inner = threading.Event(), threading.Event()
with stop.stoppable(wish.set):
    with stop.stoppable(inner.set):
        pass  # closed again: not asked any more
    print("open", flush=True)
    while not wish.is_set():
        time.sleep(0.05)
print("saved", inner.is_set(), stop.heard(), flush=True)
sys.exit(stop.code())
"""
STUBBORN = """
with stop.stoppable(lambda: print("asked", flush=True)):
    print("open", flush=True)
    time.sleep(60)
    time.sleep(60)
"""
ENGINE = """
wish = threading.Event()
with stop.stoppable(wish.set):
    print("open", flush=True)
    print(stop.beside(lambda: wish.wait(60)), flush=True)
sys.exit(stop.code())
"""
ENGINE_CALL = """
from pipeline.engine.main import main
def job(args):
    try:
        print("open", flush=True)
        time.sleep(60)
    except SystemExit:
        raise SystemExit(1)  # as Ray does in `ray.get` and `ray.wait`
main(job)
"""

FAMILY = """
import subprocess
def child(*command):
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    return subprocess.Popen(command, start_new_session=True, **streams)
middle = child("sh", "-c", "sleep 100 & echo $!; wait")
with stop.stoppable(lambda: print(child("sleep", "100").pid, flush=True)):
    print(middle.pid, middle.stdout.readline(), end="", flush=True)
    time.sleep(60)
    time.sleep(60)
"""


def status_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def parent_of(pid: int) -> int:
    return int(status_of(pid)[1])


def ended(pid: int, seconds: float = 10) -> bool:
    """Whether nothing is left of a process, soon after its end, but its exit code."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if status_of(pid)[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def start() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


AS_IN_A_TERMINAL = "signal.signal(signal.SIGHUP, signal.SIG_DFL)"  # whatever these tests themselves run under


def script(body: str, before: str = AS_IN_A_TERMINAL) -> list[str]:
    head = f"import signal, sys, threading, time\nfrom pipeline.engine import stop\n{before}\nstop.listen()\n"
    return [sys.executable, "-c", f"{head}print('ready', flush=True)\n{body}"]


def begin(
    started: list[subprocess.Popen[str]], body: str, before: str = AS_IN_A_TERMINAL, lines: int = 1
) -> subprocess.Popen[str]:
    """Start a script, and wait for its first lines."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(script(body, before), cwd=ROOT, stdout=pipe, stderr=pipe, text=True)
    started.append(process)
    assert process.stdout is not None
    for _ in range(lines):
        assert process.stdout.readline()
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_what_cannot_be_saved(
    start: list[subprocess.Popen[str]], number: signal.Signals, code: int
) -> None:
    process = begin(start, PLAIN)
    process.send_signal(number)
    _, said = process.communicate(timeout=20)
    assert (process.returncode, said) == (code, "stopping (a second signal stops at once)\n")


def test_the_first_signal_asks_only_what_is_open(start: list[subprocess.Popen[str]]) -> None:
    process = begin(start, SAVING, lines=2)
    process.send_signal(signal.SIGTERM)
    out, said = process.communicate(timeout=20)
    assert out == "saved False True\n" and process.returncode == 143
    assert said == "stopping: saving what is done (a second signal stops at once)\n"


def test_the_second_signal_ends_at_once(start: list[subprocess.Popen[str]]) -> None:
    process = begin(start, STUBBORN, lines=2)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None and process.stdout.readline() == "asked\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 130  # that of the first one


def test_the_second_signal_leaves_nobody_below(start: list[subprocess.Popen[str]]) -> None:
    process = begin(start, FAMILY)
    assert process.stdout is not None
    middle, orphan = map(int, process.stdout.readline().split())
    process.send_signal(signal.SIGINT)
    late = int(process.stdout.readline())  # started after the first signal
    below = [(pid, started_at(pid)) for pid in (orphan, late)]
    try:
        os.kill(middle, signal.SIGKILL)
        while parent_of(orphan) == middle:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 130
        assert [pid for pid, started in below if started_at(pid) == started and not ended(pid)] == []
    finally:
        for pid, started in below:
            kill(pid, started)


def test_work_in_another_thread_hears_of_it(start: list[subprocess.Popen[str]]) -> None:
    process = begin(start, ENGINE, lines=2)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    assert (out, process.returncode) == ("True\n", 130)


def test_a_signal_in_a_call_of_the_engine_keeps_its_exit_code(start: list[subprocess.Popen[str]]) -> None:
    process = begin(start, ENGINE_CALL, lines=2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 143


def test_a_closed_terminal_saves_though_it_is_told_twice(tmp_path: Path) -> None:
    done = tmp_path / "done"
    save = SAVING.replace(
        'print("saved"',
        f"time.sleep(1)\nprint('to nowhere', flush=True)\nopen({str(done)!r}, 'w').write('1')\nprint(\"saved\"",
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, script(save))
    said = b""
    while b"open" not in said:
        said += os.read(terminal, 1024)
    os.close(terminal)  # the kernel tells of it
    time.sleep(0.3)
    os.kill(pid, signal.SIGHUP)  # and so does the shell
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 129
    assert done.exists()


def test_under_nohup_a_closed_terminal_is_no_signal(start: list[subprocess.Popen[str]]) -> None:
    process = begin(start, SAVING, "signal.signal(signal.SIGHUP, signal.SIG_IGN)", lines=2)
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 143


def test_beside_passes_results_and_errors_on() -> None:
    assert stop.beside(threading.current_thread).name == "work"
    with pytest.raises(KeyError, match="missing"):
        stop.beside(lambda: {}["missing"])
    with pytest.raises(SystemExit) as end:
        stop.beside(lambda: sys.exit(3))
    assert end.value.code == 3
