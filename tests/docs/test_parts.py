"""What the documentation says of the code is what the code says: generated parts, the length of README."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import TrainConfig
from pipeline.config import io as config_io
from scripts import doc_parts
from tests.docs.blocks import PAGES, ROOT


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_parts_are_current(page: Path) -> None:
    text = page.read_text()
    assert text.count("<!-- part: ") == text.count("<!-- end of part -->") == len(doc_parts.PART.findall(text))
    assert doc_parts.with_parts(text) == text, "`make format` writes it anew"


def test_every_part_is_used_and_every_option_is_explained() -> None:
    used = {found["name"] for page in PAGES for found in doc_parts.PART.finditer(page.read_text())}
    assert used == set(doc_parts.PARTS)
    listed = (ROOT / "docs/options.md").read_text()
    for name in config_io.flatten(TrainConfig()):
        if "." in name:
            assert f"| `--{name.replace('_', '-')}` |" in listed, name
    assert "|  |" not in listed


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 10_000
