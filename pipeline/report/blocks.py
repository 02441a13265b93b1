"""The pieces a report is made of, and their two forms: Markdown, and one self-contained HTML page.

All text of a block is plain text and is escaped here; the HTML page asks for nothing from outside.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath


@dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Facts:
    """Names and values, `code` ones set in a fixed-width font. With a title the HTML page shows them folded away."""

    rows: Sequence[tuple[str, str]]
    code: frozenset[str] = frozenset()
    title: str = ""


@dataclass(frozen=True)
class Table:
    """A table; the first `text_columns` columns hold text, the others figures.

    Attributes:
        groups: (title, number of columns) over the header, e.g. ("NoC", 4); empty: no second header line. In Markdown,
            which has one header line, the title is put before the names of its columns.
        marks: {text of a cell: CSS class}, for statuses.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int = 1
    groups: Sequence[tuple[str, int]] = ()
    marks: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Picture:
    """An encoded picture (.png or .jpg by its name).

    Attributes:
        width: of a strip, pixels: it takes the page's width and scrolls sideways on a small screen; 0: a plot.
        note: a sentence on what it shows, under the caption.
    """

    name: str
    data: bytes
    caption: str
    width: int = 0
    note: str = ""


Block = Heading | Paragraph | Facts | Table | Picture

READABLE_STRIP = 900  # pixels; strips are not shrunk below this

_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~$!&])")


def _md(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))


def _md_code(text: str) -> str:
    """A code span; its fence is longer than any run of backticks inside."""
    text = " ".join(text.split()).replace("|", "\\|")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _md_table(head: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int) -> str:
    rule = ["---" if i < text_columns else "---:" for i in range(len(head))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, rule, *rows])


def _md_block(block: Block, folder: str) -> str:
    match block:
        case Heading():
            return f"{'#' * block.level} {_md(block.text)}"
        case Paragraph():
            return _md(block.text)
        case Facts():
            rows = [(_md(k), _md_code(v) if k in block.code else _md(v)) for k, v in block.rows]
            title = f"### {_md(block.title)}\n\n" if block.title else ""
            return title + _md_table(["", ""], rows, 2)
        case Table():
            titles = [title for title, width in block.groups for _ in range(width)] or [""] * len(block.head)
            head = [_md(f"{title}{name}") for title, name in zip(titles, block.head, strict=True)]
            return _md_table(head, [[_md(cell) for cell in row] for row in block.rows], block.text_columns)
        case Picture():
            note = f"\n\n{_md(block.note)}" if block.note else ""
            return f"![{_md(block.caption)}]({folder}/{block.name})\n\n{_md(block.caption)}{note}"


def to_markdown(blocks: Sequence[Block], folder: str) -> str:
    """Markdown whose pictures are files in `folder`, relative to it."""
    return "\n\n".join(_md_block(block, folder) for block in blocks) + "\n"


def _html_block(block: Block) -> str:
    e = html.escape
    match block:
        case Heading():
            return f"<h{block.level}>{e(block.text)}</h{block.level}>"
        case Paragraph():
            return f"<p>{e(block.text)}</p>"
        case Facts():
            values = [(k, f"<code>{e(v)}</code>" if k in block.code else e(v)) for k, v in block.rows]
            table = '<dl class="facts">' + "".join(f"<dt>{e(k)}</dt><dd>{v}</dd>" for k, v in values) + "</dl>"
            return f"<details><summary>{e(block.title)}</summary>{table}</details>" if block.title else table
        case Table():
            return _html_table(block)
        case Picture():
            kind = "jpeg" if PurePosixPath(block.name).suffix == ".jpg" else "png"
            source = f"data:image/{kind};base64,{base64.b64encode(block.data).decode()}"
            note = f'<span class="note">{e(block.note)}</span>' if block.note else ""
            caption = f"<figcaption>{e(block.caption)}{note}</figcaption>"
            if not block.width:
                return f'<figure class="plot"><img src="{source}" alt="{e(block.caption)}">{caption}</figure>'
            size = f"width:{block.width}px;min-width:{min(block.width, READABLE_STRIP)}px"
            image = f'<img src="{source}" alt="{e(block.caption)}" style="{size}">'
            return f'<figure class="wide"><div class="scroll" tabindex="0">{image}</div>{caption}</figure>'


def _html_table(table: Table) -> str:
    """In a box of its own, in which the header and the first column stay in sight."""
    e = html.escape
    starts, column = set(), 0
    top = ""
    for title, width in table.groups:
        spans = [1, width - 1] if not column and not title and width > 1 else [width]  # the first column is one cell
        kind = ' class="group"' if title else ""
        top += "".join(f'<th colspan="{span}"{kind}>{e(title)}</th>' for span in spans)
        starts.add(column)
        column += width

    def cell(tag: str, i: int, text: str) -> str:
        classes = ["text" if i < table.text_columns else "number"]
        classes += ["first"] if i in starts and i >= table.text_columns else []
        content = f'<span class="{table.marks[text]}">{e(text)}</span>' if text in table.marks else e(text)
        return f'<{tag} class="{" ".join(classes)}">{content}</{tag}>'

    def line(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(cell(tag, i, text) for i, text in enumerate(cells)) + "</tr>"

    head = (f'<tr class="groups">{top}</tr>' if top else "") + line("th", table.head)
    body = "".join(line("td", row) for row in table.rows)
    return f'<div class="scroll table" tabindex="0"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'


_STYLE = """
:root { color-scheme: light dark; --ink: #1d2329; --soft: #5c6670; --line: #d8dde2; --paper: #fff; --panel: #f5f7f9;
  --good: #00714f; --bad: #b3400a; --none: #5c6670; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ec; --soft: #9aa5af; --line: #39424b; --paper: #14181c;
  --panel: #1d2329; --good: #4fd0a3; --bad: #ff9e6b; --none: #9aa5af; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1440px; padding: 24px 20px 60px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .6rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .7rem; padding-bottom: .25rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.6rem 0 .5rem; }
p { max-width: 75ch; margin: .6rem 0; }
code { font: .86em/1.5 ui-monospace, "DejaVu Sans Mono", Consolas, monospace; background: var(--panel);
  padding: .1em .35em; border-radius: 4px; }
.facts { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .25rem 1.2rem; margin: .8rem 0; }
.facts dt { color: var(--soft); } .facts dd { margin: 0; }
details { margin: .8rem 0; } summary { cursor: pointer; color: var(--soft); }
.scroll { overflow-x: auto; }
.table { overflow: auto; max-height: 85vh; max-width: max-content; margin: .4rem 0; }
table { width: max-content; border-collapse: separate; border-spacing: 0; font-size: .88rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .34rem .55rem; border-bottom: 1px solid var(--line); white-space: nowrap; overflow-wrap: normal; }
th { font-weight: 600; color: var(--soft); background: var(--paper); position: sticky; top: 0; z-index: 2; }
.groups th { border-bottom: 0; padding-bottom: 0; height: 1.7rem; } .groups + tr th { top: 1.7rem; }
tr { background: var(--paper); } td:first-child { background: inherit; position: sticky; left: 0; z-index: 1; }
th:first-child { left: 0; z-index: 3; } th:first-child, td:first-child { border-right: 1px solid var(--line); }
.group { text-align: center; } .first, .group { border-left: 1px solid var(--line); }
.text { text-align: left; } .number { text-align: right; }
tbody tr:hover { background: var(--panel); }
figure { margin: 1rem 0; } figcaption { color: var(--soft); font-size: .86rem; margin-top: .35rem; }
.note { display: block; color: var(--ink); }
.plot { display: inline-block; vertical-align: top; max-width: 100%; margin-right: 1.2rem; }
.plot img { max-width: 100%; height: auto; background: #fff; border-radius: 6px; border: 1px solid var(--line); }
.wide .scroll { background: #fff; border: 1px solid var(--line); border-radius: 6px; padding: 6px; }
.wide img { display: block; max-width: 100%; height: auto; }
.good, .bad { font-weight: 600; }
.good { color: var(--good); } .bad { color: var(--bad); } .none { color: var(--none); }
@media (max-width: 640px) { .facts { grid-template-columns: 1fr; gap: 0; } .facts dd { margin-bottom: .5rem; }
  th:first-child, td:first-child { max-width: 34vw; white-space: normal; overflow-wrap: anywhere; } }
@media print { .scroll { overflow: visible; max-height: none; } .wide img { min-width: 0 !important; }
  th, td:first-child { position: static; } }
"""


def to_html(blocks: Sequence[Block], title: str) -> str:
    """One HTML page with its style and pictures inside."""
    body = "\n".join(_html_block(block) for block in blocks)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )
