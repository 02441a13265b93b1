"""What several unit tests need."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from moto.server import ThreadedMotoServer

from pipeline import config


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> config.Tracking:
    """One SQLite store of MLflow for all tests: making its tables takes seconds."""
    return config.Tracking(uri=f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db", experiment="unit")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """URL of an S3 server of this process."""
    moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    yield f"http://{host}:{port}"
    moto.stop()
