"""Every command of README and docs/: marked, spelled rightly, and run; those that take long by `make docs-check`."""

from __future__ import annotations

import importlib
import os
import re
from pathlib import Path

import pytest

from jobs import flags, tune_cfr, tune_icl
from tests.docs.blocks import NEVER_RUN, PAGES, ROOT, Block, agree, blocks_of, commands_of, job_of, problem
from tests.docs.given import give
from tests.docs.reader import Reader

ALL = os.environ.get("DOCS", "") == "all"
KINDS = ("run", "long") if ALL else ("run",)
BLOCKS = [block for page in PAGES for block in blocks_of(page)]
FOLLOWED = [page for page in PAGES if any(block.kind in KINDS for block in blocks_of(page))]
SWEEPS = {"cfr": tune_cfr.parse, "icl": tune_icl.parse}


def test_every_block_says_whether_it_is_run() -> None:
    assert [said for block in BLOCKS if (said := problem(block))] == []


def test_no_block_is_hidden_by_its_indent() -> None:
    """Four spaces make code too, without a marker."""
    for page in PAGES:
        text = re.sub(r"^( *)```.*?^\1```$", "", page.read_text(), flags=re.S | re.M)
        assert not re.search(r"\n\n {4}\S", re.sub(r"^(!!!|- |\d+\. ).*\n(\n? {2,}.*\n)*", "", text, flags=re.M)), page


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language not in NEVER_RUN], ids=str)
def test_jobs_and_options_exist(block: Block) -> None:
    """Also of what is not run."""
    if block.language == "python":
        compile(block.text, str(block), "exec")
        return
    if block.kind in ("file", "output"):
        return
    for words in commands_of(block):
        found = job_of(words)
        if found is None or {"--help", "-h"} & set(found):
            continue
        job, *rest = found
        rest = flags.without_config(rest)
        module = importlib.import_module(f"jobs.{job}")
        if job == "tune":
            SWEEPS[rest[0]](rest[1:])
        elif hasattr(module, "parse"):
            module.parse(rest)
        else:
            flags.parse(module.Args, rest, prog=job, about="")


@pytest.mark.ray
@pytest.mark.timeout(3600 if ALL else 300)
@pytest.mark.parametrize("page", FOLLOWED, ids=lambda page: page.stem)
def test_a_reader_can_follow(page: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    blocks = blocks_of(page)
    if not ALL and any("cfr-icl" in block.text for block in blocks if block.kind == "run"):
        request.getfixturevalue("ray_session")
    give(tmp_path)
    reader = Reader(tmp_path, alone=ALL)
    done = [reader.follow(block, KINDS) for block in blocks]
    assert any(done)


def test_the_readme_shows_the_clicks_of_its_picture() -> None:
    from scripts import doc_pictures

    (block,) = [b for b in blocks_of(ROOT / "README.md") if b.language == "python"]
    assert f"points = {doc_pictures.POINTS}" in block.text and f"point_labels={doc_pictures.LABELS}" in block.text
    assert (ROOT / "docs/pictures/clicks.png").stat().st_size < 300_000


def test_markers_are_read() -> None:
    page = Path("page.md")
    text = "a\n<!-- not run: why -->\n```\nls  # all\n```\n\n```text\nno\n```\n"
    text += "- b\n\n  <!-- run -->\n  ```\n  cfr-icl \\\n    x\n  ```\n"
    first, second, third = blocks_of(page, text)
    assert (first.kind, first.said, first.line, commands_of(first)) == ("not run", "why", 3, [["ls"]])
    assert problem(second) == "" and second.text == "no\n"
    assert third.kind == "run" and commands_of(third) == [["cfr-icl", "x"]]
    assert "has no marker" in problem(blocks_of(page, "```\nls\n```\n")[0])
    assert "needs words" in problem(blocks_of(page, "<!-- not run -->\n```\nls\n```\n")[0])


@pytest.mark.parametrize(
    ("words", "job"),
    [
        ("cfr-icl track-sync a", ["track_sync", "a"]),
        ("ray job submit --working-dir . -- python jobs/train.py tiny", ["train", "tiny"]),
        (".venv/bin/python -m jobs.train tiny", ["train", "tiny"]),
        ("cfr-icl --completion bash", None),
        ("make demo", None),
    ],
)
def test_the_job_of_a_command(words: str, job: list[str] | None) -> None:
    assert job_of(words.split()) == job


def test_outputs_are_compared() -> None:
    assert agree("a\n...\nd\n", "a\nb\nc\nd")
    assert agree("a\n...\nd\n", "a\nd")
    assert not agree("a\n...\nd\n", "a\nb\nc")
    assert not agree("(1)", "(2)")
