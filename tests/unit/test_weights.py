"""The models that come with the package: what they say of themselves, their names, their sizes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from jobs.recipes import RECIPES
from jobs.train import parse
from pipeline import weights
from pipeline.config import io as config_io
from pipeline.model.checkpoints import load_model
from pipeline.model.start import new_model

LIMIT = 10e6  # bytes, of everything beside one model's weights too


def test_small_is_there() -> None:
    assert "small" in weights.NAMES


@pytest.mark.parametrize("name", weights.NAMES)
def test_it_loads_by_its_name(name: str) -> None:
    model, info = load_model(weights.located(name))
    assert info.config is not None
    assert info.config.model == RECIPES[name].config.model
    assert not any(value for key, value in config_io.flatten(info.config).items() if key in ("out", "data.train"))
    size = model.config.train_size
    points = torch.full((1, 2, 3), -1.0)
    points[0, 0] = torch.tensor((size / 2, size / 2, 0))
    logits = model(torch.zeros(1, 3, size, size), torch.zeros(1, 1, size, size), points)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", weights.NAMES)
def test_a_card_is_beside_it_and_both_are_small(name: str) -> None:
    folder = Path(weights.located(name))
    card = (folder / "README.md").read_text()
    for word in ("Data", "Command", "Figures", "Licence", "Not for"):
        assert f"## {word}" in card
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < LIMIT


def test_a_training_starts_from_it_by_its_name() -> None:
    run = parse(["small", "--out", "x", "--data.train", "y", "--model.start", "small"])
    assert run.model.start == weights.located("small")
    torch.manual_seed(0)
    started, loaded = new_model(run.model, run.model.start), load_model(run.model.start)[0]
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in started.state_dict().items())


def test_a_folder_of_the_same_name_is_reached_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkdir("small")
    assert weights.located("./small") == str(tmp_path / "small")
    assert weights.located("small") != str(tmp_path / "small")
