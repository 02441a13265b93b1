"""The table of docs/reliability.md, made from what the fault tests saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


@dataclass(frozen=True)
class Row:
    """What one test saw.

    Attributes:
        seconds: from the fault to the next sign that the work goes on; None where a message is all there is.
        test: its name.
    """

    fault: str
    happens: str
    lost: str
    seconds: float | None
    test: str


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """Put the rows between the marks of a Markdown file."""
    text = path.read_text()
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    lines = ["| fault | what happens | what is lost | goes on after | test |", "|---|---|---|---:|---|"]
    for row in rows:
        time = "-" if row.seconds is None else f"{row.seconds:.0f} s"
        lines.append(f"| {row.fault} | {row.happens} | {row.lost} | {time} | `{row.test}` |")
    path.write_text(f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{after}")
