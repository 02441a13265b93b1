"""The installed program: the wheel holds what it needs, and works in a folder that is not the repository's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that a wheel, built from a copy of the tracked files, is installed to."""
    folder = tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "pipeline", "jobs", "pyproject.toml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    for name in [*tracked, "README.md", "LICENSE"]:
        if (ROOT / name).exists():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "source" / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder / "built"), str(folder / "source")]
    subprocess.run([*pip, *build], check=True, timeout=300)
    (wheel,) = (folder / "built").iterdir()
    assert wheel.stat().st_size < 8_000_000
    subprocess.run(
        [*pip, "install", "--no-deps", "--target", str(folder / "site"), str(wheel)], check=True, timeout=300
    )
    return folder / "site"


def run(site: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


def test_the_command_outside_of_the_repository(site: Path, tmp_path: Path) -> None:
    program = str(site / "bin" / "cfr-icl")
    assert run(site, tmp_path, program, "--version").stdout.strip() == "cfr-icl 0.1.0"
    listed = run(site, tmp_path, program)
    assert listed.returncode == 0 and "import-checkpoint" in listed.stdout
    helped = run(site, tmp_path, program, "train", "small", "--help")
    assert helped.returncode == 0 and "--train.compile" in helped.stdout
    assert run(site, tmp_path, program, "evaluate", "--nothing").returncode == 2
    wrong = run(site, tmp_path, program, "evalute")
    assert wrong.returncode == 2 and "Did you mean 'evaluate'?" in wrong.stderr
    script = run(site, tmp_path, program, "--completion", "bash")
    assert script.returncode == 0
    assert all(word in script.stdout for word in ("complete ", "--cfr.threshold", "import-checkpoint"))
    checked = run(site, tmp_path, "bash", "-n", "-c", script.stdout)
    assert checked.returncode == 0, checked.stderr
    assert run(site, tmp_path, program, "--completion", "fish").returncode == 2


def test_the_annotators_page_comes_with_it(site: Path) -> None:
    in_wheel = {path.name for path in (site / "pipeline" / "serve" / "page").iterdir()}
    in_repository = {path.name for path in (ROOT / "pipeline" / "serve" / "page").iterdir()}
    assert in_wheel == in_repository - {"types.d.ts"} and "index.html" in in_wheel


def test_the_packaged_model_comes_with_it(site: Path, tmp_path: Path) -> None:
    code = """
import numpy as np, pipeline
predictor = pipeline.Predictor.load("small")
predictor.set_image(np.zeros((50, 60, 3), np.uint8))
print(pipeline.__file__, predictor.click(20, 20).shape)
"""
    done = run(site, tmp_path, sys.executable, "-c", code)
    assert done.stdout.split(maxsplit=1)[0].startswith(str(site)), done.stderr
    assert "(50, 60)" in done.stdout
