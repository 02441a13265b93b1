"""The code blocks of README and docs/, and what their markers say of them.

A marker is an HTML comment on the line above a block:

    run            it is run in CI and by `make docs-check`
    long           by `make docs-check` alone
    not run: WHY   never; its commands are still parsed
    file: NAME     the reader writes it to NAME
    output         what the block before prints; a line `...` stands for any lines

A block of what nobody runs (```text, ```xml, ```json) needs none.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=indent)```$",
    re.S | re.M,
)
MARKER = re.compile(r"<!-- (?P<kind>run|long|not run|file|output)(?:: (?P<said>[^\n]+?))? -->\n\s*\Z")
NEEDS_WORDS = ("not run", "file")
NEVER_RUN = ("text", "xml", "json")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        kind: of its marker; "" without one.
        said: behind the marker's colon.
    """

    page: Path
    line: int
    language: str
    text: str
    kind: str
    said: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks_of(page: Path, text: str | None = None) -> list[Block]:
    """The blocks of a page, in their order."""
    text = page.read_text() if text is None else text
    found = []
    for fence in FENCE.finditer(text):
        marker = MARKER.search(text[: fence.start()])
        indent = len(fence["indent"])
        lines = [line[indent:] for line in fence["text"].splitlines()]
        found.append(
            Block(
                page,
                text.count("\n", 0, fence.start()) + 1,
                fence["language"],
                "\n".join(lines) + "\n",
                marker["kind"] if marker else "",
                (marker["said"] or "") if marker else "",
            )
        )
    return found


def problem(block: Block) -> str:
    """What is wrong with a block's marker, "" if nothing is."""
    if not block.kind:
        return (
            "" if block.language in NEVER_RUN else f"{block} has no marker; tests/docs/blocks.py says which there are"
        )
    if (block.kind in NEEDS_WORDS) != bool(block.said):
        return f"{block}: {block.kind!r} {'needs' if block.kind in NEEDS_WORDS else 'takes no'} words behind a colon"
    return ""


def commands_of(block: Block) -> list[list[str]]:
    """The words of every command of a shell block: lines that end in a backslash go on, comments are left out."""
    joined = re.sub(r"\\\n\s*", " ", block.text)
    return [words for line in joined.splitlines() if (words := shlex.split(line, comments=True))]


def job_of(words: list[str]) -> list[str] | None:
    """The job of a command and its words (["train", "tiny", ...]); None where it runs none."""
    if "--" in words and words[:3] == ["ray", "job", "submit"]:
        words = words[words.index("--") + 1 :]
    if words[0] == "cfr-icl" and len(words) > 1 and not words[1].startswith("-"):
        return [words[1].replace("-", "_"), *words[2:]]
    if re.fullmatch(r"(.*/)?python3?", words[0]) and len(words) > 1:
        if words[1] == "-m" and words[2].startswith("jobs."):
            return [words[2].removeprefix("jobs."), *words[3:]]
        if words[1].startswith("jobs/"):
            return [Path(words[1]).stem, *words[2:]]
    return None


def agree(shown: str, printed: str) -> bool:
    """Whether an output is the one that a page shows."""
    wanted = [".*" if line.strip() == "..." else re.escape(line.rstrip()) + "\n" for line in shown.strip().splitlines()]
    lines = "".join(f"{line.rstrip()}\n" for line in printed.strip().splitlines())
    return re.fullmatch("".join(wanted), lines, re.S) is not None
