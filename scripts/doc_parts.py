"""Write the parts of README and docs/ that the code says already: options, sources, recipes, claims.

    python -m scripts.doc_parts      (`make format` does it)

A part stands between `<!-- part: NAME -->` and `<!-- end of part -->`; NAME is a key of PARTS.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, fields
from functools import partial
from pathlib import Path
from typing import Any

from jobs import __main__ as jobs_command
from jobs.recipes import RECIPES
from pipeline import config, storage
from pipeline.config import evaluation, serving, sweeps
from pipeline.data.mask_rules import RULES
from pipeline.data.readers.layouts import LOOKS
from pipeline.predict import click_files
from pipeline.report import claims
from pipeline.tune import spaces
from pipeline.tune.dimensions import spec
from tests.unit.test_layout import LAYERS

ROOT = Path(__file__).resolve().parents[1]
PART = re.compile(r"(<!-- part: (?P<name>[a-z-]+) -->\n).*?(<!-- end of part -->)", re.S)
GROUPS = ["Data", "Suem", "Clicks", "Model", "Loss", "Optim", "Train", "Cfr", "Eval", "Tracking"]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows of cells as a Markdown table."""
    lines = [list(head), ["---"] * len(head), *map(list, rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def said_of_fields(kind: type) -> dict[str, str]:
    """{field: its help text}: the comment behind it, or the text below it, as `--help` shows them."""
    if kind is object:
        return {}
    inherited = {name: text for parent in reversed(kind.__bases__) for name, text in said_of_fields(parent).items()}
    lines = textwrap.dedent(inspect.getsource(kind)).splitlines()
    (body,) = (node.body for node in ast.parse("\n".join(lines)).body if isinstance(node, ast.ClassDef))
    found = {}
    for node, after in zip(body, [*body[1:], None]):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        comment = lines[(node.end_lineno or 0) - 1][node.end_col_offset or 0 :].partition("#")[2].strip()
        if not comment and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            comment = " ".join(str(after.value.value).split())
        found[node.target.id] = comment
    return inherited | found


def options(kind: type, prefix: str = "", without: Sequence[str] = ()) -> str:
    """A row for each option of a class of options, groups left out."""
    said = said_of_fields(kind)
    rows = []
    for field in fields(kind):
        if field.name in without or field.default_factory is not MISSING:
            continue
        default = "needed" if field.default is MISSING else shown(field.default)
        rows.append((f"`--{prefix}{field.name.replace('_', '-')}`", default, said[field.name]))
    return table(("option", "default", "what it is"), rows)


def shown(value: Any) -> str:
    if isinstance(value, tuple):
        return f"`{' '.join(map(str, value))}`" if value else "none"
    words = {True: "yes", False: "no", "": "none"}
    return words[value] if isinstance(value, bool) or value == "" else f"`{value}`"


def recipes() -> str:
    rows = []
    for name, recipe in RECIPES.items():
        run = recipe.config
        start = f"`{run.model.start}`" if run.model.start else "nothing"
        start = f"{recipe.needs}; refused without" if recipe.needs else start
        about = recipe.about.split("\n")[0].split(". ")[0].rstrip(".")
        rows.append((f"`{name}`", about, f"{run.total_steps:,}", start))
    return table(("recipe", "what it is", "steps", "starts from"), rows)


def jobs() -> str:
    lines = [line.split(maxsplit=1) for line in jobs_command.listed().split("\n\n")[1].splitlines()]
    return table(("job", "what it does"), [(f"`cfr-icl {name}`", text) for name, text in lines])


def claimed() -> str:
    head = ("benchmark", "model", "trained on", "metric", "claimed")
    rows = [
        (
            c.benchmark,
            f"{c.model.system} CFR-{c.cfr_steps} {c.model.variant}",
            c.model.trained_on,
            f"NoC@{c.level}",
            f"{c.value:.2f}",
        )
        for c in claims.CLAIMS
    ]
    return table(head, rows)


def click_columns() -> str:
    said = {
        "image": "path below the folder of images",
        "object": "a name of its own on its image; may be left out where an image has one object",
        "x": "pixels from the left edge, from 0",
        "y": "pixels from the upper edge, from 0",
        "positive": f"{', '.join(click_files.YES)} or {', '.join(click_files.NO)}; left out: positive",
        "clicks": "in place of x, y, positive: the object's clicks as a list of {x, y, positive} or [x, y, positive]",
    }
    rows = table(("column", "what it holds"), [(f"`{name}`", said[name]) for name in click_files.COLUMNS])
    return f"{rows}\n\nFiles end in {', '.join(f'`{suffix}`' for suffix in click_files.SUFFIXES)}."


def space(dimensions: dict[str, Any]) -> str:
    return table(("name", "range"), [(f"`{name}`", f"`{spec(found)}`") for name, found in dimensions.items()])


def published_files() -> str:
    """The checkpoints and benchmarks of the paper's claims, and where people get them."""
    weights = [
        (f"`{name}`", f"{i.system} {i.variant}, {i.trained_on}", where) for i, (name, where) in claims.WEIGHTS.items()
    ]
    benchmarks = [(name, f"{b.objects} objects, `{b.layout}`", b.where) for name, b in claims.BENCHMARKS.items()]
    return table(("file or folder", "what it is", "where people get it"), [*weights, *benchmarks])


PARTS: dict[str, Callable[[], str]] = {
    "jobs": jobs,
    "sources": lambda: table(("source", "what lies in its folder"), [(f"`{k}`", v) for k, v in LOOKS.items()]),
    "mask-rules": lambda: table(("`--masks`", "what a mask means"), [(f"`{k}`", v) for k, v in RULES.items()]),
    "click-columns": click_columns,
    "recipes": recipes,
    "claims": claimed,
    "published-files": published_files,
    "cfr-space": lambda: space(spaces.cfr_defaults()),
    "icl-space": lambda: space(spaces.icl_defaults(RECIPES["tiny"].config)),
    "layers": lambda: " < ".join(", ".join(n.removeprefix("pipeline.") for n in floor) for floor in LAYERS),
    "options-evaluate": partial(options, evaluation.EvaluateConfig),
    "options-predict": partial(options, evaluation.PredictConfig),
    "options-serve": partial(options, serving.ServeConfig),
    "options-claims": partial(options, evaluation.ClaimsConfig),
    "options-tune-cfr": partial(options, sweeps.CfrSweepConfig),
    "options-tune-icl": partial(options, sweeps.IclSweepConfig),
    **{f"options-{name.lower()}": partial(options, getattr(config, name), f"{name.lower()}.") for name in GROUPS},
}


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def with_parts(text: str) -> str:
    """A page with its parts made anew.

    Raises:
        KeyError: a part that is not in PARTS.
    """
    return PART.sub(lambda found: f"{found[1]}\n{PARTS[found['name']]()}\n\n{found[3]}", text)


if __name__ == "__main__":
    for page in pages():
        storage.write_bytes(str(page), with_parts(page.read_text()).encode())
