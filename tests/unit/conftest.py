"""What several unit tests need."""

from __future__ import annotations

import pytest

from pipeline import config


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> config.Tracking:
    """One SQLite store of MLflow for all tests: making its tables takes seconds."""
    return config.Tracking(uri=f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db", experiment="unit")
