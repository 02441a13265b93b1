"""The code map names every source file, and every option that the documentation shows exists."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from jobs.recipes import RECIPES
from pipeline.config import io as config_io
from pipeline.data.readers import SOURCES

ROOT = Path(__file__).resolve().parents[2]
WRITTEN = [page for page in sorted((ROOT / "docs").glob("*.md")) if page.name != "code-map.md"]
PAGES = "\n".join(page.read_text() for page in [ROOT / "README.md", *WRITTEN])


def test_the_code_map_is_made_from_the_docstrings() -> None:
    spec = importlib.util.spec_from_file_location("code_map", ROOT / "scripts" / "code_map.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    said = (ROOT / "docs" / "code-map.md").read_text()
    assert said == script.code_map(), "`make format` writes it anew"
    assert "- `icl.py`: " in said and "## pipeline/engine/" in said


def test_dotted_options_exist() -> None:
    known = config_io.flatten(RECIPES["tiny"].config)
    shown = {name.replace("-", "_").replace(".no_", ".") for name in re.findall(r"--([a-z]+\.[a-z_.-]*[a-z])", PAGES)}
    assert shown
    assert shown <= set(known)


def test_recipes_and_sources_exist() -> None:
    assert set(re.findall(r"(?:cfr-icl |jobs\.)train ([a-z_]+)", PAGES)) <= set(RECIPES)
    assert set(re.findall(r"(?:cfr-icl |jobs\.)prepare ([a-z-]+) --", PAGES)) <= set(SOURCES)
