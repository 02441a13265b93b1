"""What reports have in common: the facts at the top, and the files they are written to."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from pipeline import storage
from pipeline.errors import describe
from pipeline.report.blocks import Block, Facts, Heading, Paragraph, Picture, to_html, to_markdown
from pipeline.report.naming import model_name

FIGURES = "report-figures"
FORMATS = {
    "cfr-icl": "this project's",
    "published": "published .pth",
    "predictor": "a predictor of another kind; the checksum is its module's, and CFR-0 means as it is",
}


def write_pages(out: str | Path, title: str, blocks: Sequence[Block]) -> dict[str, bytes]:
    """Write a report into a folder (local path or URI): report.md with its pictures beside it, and report.html.

    Returns:
        Content of the files by name below `out`.
    """
    files = {"report.md": to_markdown(blocks, FIGURES).encode(), "report.html": to_html(blocks, title).encode()}
    files |= {f"{FIGURES}/{block.name}": block.data for block in blocks if isinstance(block, Picture)}
    for name, data in files.items():
        storage.write_bytes(storage.join(str(out), name), data)
    return files


def plot(figure: Figure, name: str, caption: str) -> Picture:
    """A figure as a picture of a report."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Picture(name, buffer.getvalue(), caption)


def section(title: str, make: Callable[[], Sequence[Block]]) -> list[Block]:
    """A part of a report, or why it could not be made: what was evaluated is written down whatever a figure does."""
    try:
        return list(make())
    except Exception as error:  # matplotlib, OpenCV and Pillow raise nearly anything on shapes they cannot draw
        reason = describe(error)
        print(f"report: {title} could not be drawn ({reason})", flush=True)
        return [Heading(title), Paragraph(f"This part could not be drawn: {reason}.")]


def header(summary: Mapping[str, Any]) -> Facts:
    """What was looked at, how, when and with what."""
    checkpoint, environment = summary.get("checkpoint"), summary.get("environment", {})
    commit = environment.get("git_commit")
    machine = [f"{environment['cpus']} CPUs"] if "cpus" in environment else []
    machine += environment.get("gpus", [])
    versions = {"python": environment.get("python"), **environment.get("versions", {})}
    about: list[tuple[str, Any]] = [("Recipe", summary.get("recipe"))]  # of a sweep that trains
    if checkpoint is not None:
        about = [
            ("Model", model_name(checkpoint) if checkpoint["format"] != "predictor" else None),
            ("Predictor" if checkpoint["format"] == "predictor" else "Checkpoint", checkpoint["uri"]),
            ("SHA-256", checkpoint["sha256"]),
            ("Format", FORMATS[checkpoint["format"]]),
            ("Recipe", checkpoint.get("recipe")),
            ("Training step", checkpoint.get("step")),
            ("Training run", checkpoint.get("mlflow_run")),
        ]
    rows = [
        *about,
        ("Command", summary.get("command")),
        ("Date", summary.get("date")),
        (
            "Commit",
            f"{commit}{' with uncommitted changes' if environment.get('git_dirty') else ''}" if commit else None,
        ),
        ("MLflow run", summary.get("mlflow_run")),
        ("Machine", ", ".join(machine)),
        ("Versions", ", ".join(f"{name} {version}" for name, version in versions.items() if version)),
    ]
    shown = [(name, str(value)) for name, value in rows if value not in (None, "")]
    return Facts(shown, frozenset({"Checkpoint", "Predictor", "SHA-256", "Command", "Training run", "MLflow run"}))
