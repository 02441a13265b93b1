"""The README names every source file, and every option it shows exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jobs.recipes import RECIPES
from pipeline.config import io as config_io
from pipeline.data.readers import SOURCES

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("folder", ["jobs", "pipeline", "benchmarks", "scripts", "cluster"])
def test_every_file_has_its_line(folder: str) -> None:
    files = {p for p in (ROOT / folder).rglob("*.py") if p.name != "__init__.py"}
    tree = README.split("## The files")[1].split("```")[1]
    listed: set[Path] = set()
    at = ROOT
    for line in tree.strip().splitlines():
        name = line.split()[0]
        if not line.startswith(" "):
            at = ROOT / name
        elif (at / name).suffix == ".py":
            listed.add(at / name)
    assert files == {p for p in listed if p.is_relative_to(ROOT / folder)}


def test_dotted_options_exist() -> None:
    known = config_io.flatten(RECIPES["tiny"]())
    shown = set(re.findall(r"--([a-z]+\.[a-z_.]+)", README))
    assert shown
    assert shown <= set(known)


def test_recipes_and_sources_exist() -> None:
    assert set(re.findall(r"jobs\.train ([a-z_]+)", README)) <= set(RECIPES)
    assert set(re.findall(r"jobs\.prepare ([a-z-]+) --", README)) <= set(SOURCES)
