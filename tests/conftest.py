"""Shared data, one Ray for the whole test run, a headless browser."""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

# Ray, MLflow and matplotlib read these when they are imported, in this process and in the jobs that tests start.
# The folder's path is short because Ray puts Unix sockets under it, whose paths end at 107 bytes. With a temp folder
# and a token of its own the test run neither finds another Ray of this machine nor is found by one, and leaves the
# user's Ray token alone.
RUN_FOLDER = Path(tempfile.mkdtemp(prefix="cfr", dir="/tmp" if os.path.isdir("/tmp") else None))
atexit.register(shutil.rmtree, RUN_FOLDER, ignore_errors=True)
(RUN_FOLDER / "token").write_text(secrets.token_hex(32))
(RUN_FOLDER / "token").chmod(0o600)
for _name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN", "MLFLOW_TRACKING_URI"):
    os.environ.pop(_name, None)
os.environ.update(
    RAY_TMPDIR=str(RUN_FOLDER),
    RAY_AUTH_MODE="token",
    RAY_AUTH_TOKEN_PATH=str(RUN_FOLDER / "token"),
    RAY_TRAIN_HEALTH_CHECK_INTERVAL_S="0.2",
    RAY_TRAIN_ENABLE_PREEMPTION_WATCHER="0",  # a process of each training; `faults/test_elastic.py` turns it on
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
    RAY_USAGE_STATS_ENABLED="0",
    MLFLOW_DISABLE_TELEMETRY="true",
    MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false",
    OMP_NUM_THREADS="1",  # the models of the tests are too small for a second thread to be of use
    HF_HUB_OFFLINE="1",
    MPLBACKEND="Agg",
)

import hypothesis
import pytest
from selenium import webdriver

from tests.chromium import chromium, is_there

hypothesis.settings.register_profile("tests", deadline=None)  # no test asserts a wall-clock time
hypothesis.settings.load_profile("tests")

ROOT = Path(__file__).resolve().parent.parent
pytest_plugins = ["tests.cost"] if "TEST_COST" in os.environ else []
IN_CI = os.environ.get("CI", "").lower() in ("1", "true")


def absent(reason: str, required: bool) -> NoReturn:
    """Skip for want of something outside the repository, or fail where it was promised."""
    if required:
        pytest.fail(f"{reason}, and this run requires it")
    pytest.skip(reason)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked `gpu` where there is no GPU."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared test data: CFR_ICL_SHARED, else `shared` beside the repository."""
    named = os.environ.get("CFR_ICL_SHARED", "")
    folder = (ROOT / (named or "../shared")).resolve()
    if not folder.is_dir():
        absent(f"no shared test data at {folder} (CFR_ICL_SHARED)", required=IN_CI and bool(named))
    return folder


@pytest.fixture(scope="session")
def golden(shared: Path) -> Path:
    """Arrays recorded from the original code."""
    return shared / "golden" / "public"


@pytest.fixture(scope="session")
def sample(shared: Path) -> Path:
    """Real photographs with COCO+LVIS annotations."""
    return shared / "data" / "sample"


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray of 6 logical CPUs for all tests that ask for it."""
    import ray

    ray.init(
        address="local",
        num_cpus=6,
        num_gpus=0,
        object_store_memory=500_000_000,
        include_dashboard=False,
        log_to_driver=False,
    )
    yield
    ray.shutdown()


Exits = Callable[..., tuple[int, str, str]]


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Exits:
    """exits(job, *args): exit code, stdout and stderr of a job as a process of its own would end (`main`)."""

    def run(job: Callable[[list[str]], None], *args: str) -> tuple[int, str, str]:
        import ray

        from pipeline.engine.main import main

        monkeypatch.setattr(sys, "argv", ["job", *args])
        monkeypatch.setattr(ray, "shutdown", lambda: None)  # of the session's Ray
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(job)
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out, said.err

    return run


class Browser:
    """A headless Chromium."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, page: str | Path) -> None:
        """Go to a URL or to a file."""
        self.driver.get(page.resolve().as_uri() if isinstance(page, Path) else page)

    def screenshot(self, path: Path, width: int = 1200) -> Path:
        """Write the whole page, `width` pixels wide and as high as it is (at most 6000), as PNG to `path`."""
        self.driver.set_window_size(width, 900)
        height = self.driver.execute_script("return document.documentElement.scrollHeight")
        self.driver.set_window_size(width, min(max(height, 900), 6000) + 200)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not self.driver.save_screenshot(str(path)):
            raise OSError(f"cannot write {path}")
        return path


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    """A fresh headless Chromium; CI must have one."""
    if not is_there():
        absent("no chromium and chromedriver on this machine", required=IN_CI)
    with chromium(tmp_path / "chromium") as driver:
        yield Browser(driver)
