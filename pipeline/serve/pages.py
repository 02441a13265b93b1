"""The files of the page, and the plain list of the HTTP interface."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from starlette.responses import HTMLResponse, Response

from pipeline.serve.refusal import Refused

PAGE = Path(__file__).parent / "page"
TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}


def read(name: str) -> Response:
    """A file of the page.

    Raises:
        Refused: there is none of that name.
    """
    if name not in {path.name for path in PAGE.iterdir() if path.suffix in TYPES}:
        raise Refused(404, f"The page has no file {name!r}: reload it.")
    path = PAGE / name
    return Response(path.read_bytes(), media_type=TYPES[path.suffix], headers={"Cache-Control": "no-cache"})


def interface(schema: dict[str, Any]) -> Response:
    """The paths of an OpenAPI schema with what they are for, as a page."""
    rows = []
    for path, methods in schema["paths"].items():
        for method, about in methods.items():
            text = html.escape(about.get("description", ""))
            rows.append(f"<dt><code>{method.upper()} {html.escape(path)}</code></dt><dd>{text}</dd>")
    title = html.escape(schema["info"]["title"])
    return HTMLResponse(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}: HTTP interface</title>'
        f'<link rel="stylesheet" href="/page/style.css"><h1>{title}: HTTP interface</h1>'
        f'<p>The schema for tools: <a href="/openapi.json">/openapi.json</a></p><dl>{"".join(rows)}</dl></html>'
    )
