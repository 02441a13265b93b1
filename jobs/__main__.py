"""The jobs and what each does: `python -m jobs`."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from pipeline.errors import did_you_mean

FOLDER = Path(__file__).parent
COMMANDS = (
    "prepare",
    "train",
    "tune",
    "evaluate",
    "claims",
    "predict",
    "demo",
    "track_sync",
    "import_checkpoint",
    "export_checkpoint",
)


def listed() -> str:
    """A line for every job, from the first line of its docstring."""
    lines = ["python -m jobs.NAME ...; `python -m jobs.NAME --help` lists its options.", ""]
    for name in COMMANDS:
        about = ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text())) or ""
        lines.append(f"  {name:<19}{about.splitlines()[0].partition(': python -m')[0]}")
    return "\n".join(lines)


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word not in ("-h", "--help")]
    if words:
        hint = f" Write python -m jobs.{words[0]}." if words[0] in COMMANDS else did_you_mean(words[0], COMMANDS)
        print(f"error: `python -m jobs` only lists the jobs.{hint}", file=sys.stderr)
        sys.exit(2)
    print(listed())
