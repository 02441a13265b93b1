"""Write docs/code-map.md: what every source file is for, by the first line of its docstring (see `make format`)."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ["jobs", "pipeline", "cluster", "benchmarks", "scripts"]
HEAD = """# The code, file by file

Made from the module docstrings by `scripts/code_map.py`. [Ray]: uses the engine. Imports go one way, in the order of
`LAYERS` in `tests/unit/test_layout.py`.
"""


def summary(path: Path) -> str:
    """The first line of a module's docstring, without its full stop.

    Raises:
        ValueError: there is none.
    """
    doc = ast.get_docstring(ast.parse(path.read_text()))
    if not doc:
        raise ValueError(f"{path} has no docstring")
    return doc.splitlines()[0].rstrip(".")


def code_map() -> str:
    """The whole page."""
    lines = [HEAD]
    for top in FOLDERS:
        files = sorted((ROOT / top).rglob("*.py"), key=lambda file: (file.parent, file.name))
        for folder in sorted({file.parent for file in files}):
            opening = folder / "__init__.py"
            lines.append(f"\n## {folder.relative_to(ROOT)}/\n")
            if opening.exists():
                lines.append(f"{summary(opening)}.\n")
            for file in files:
                if file.parent == folder and file.name != "__init__.py":
                    ray = " [Ray]" if re.search(r"^\s*(import|from) ray\b", file.read_text(), re.M) else ""
                    lines.append(f"- `{file.name}`{ray}: {summary(file)}")
    return "\n".join(lines).replace("\n\n\n", "\n\n") + "\n"


if __name__ == "__main__":
    (ROOT / "docs" / "code-map.md").write_text(code_map())
