"""What the site takes from outside of docs/: pages that lie beside what they are about (see mkdocs.yml)."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = ["cluster/README.md", "benchmarks/results.md", "pipeline/weights/small/README.md"]
ELSEWHERE = "https://unpkg.com/"  # where the theme has what we do not use (diagrams) and browsers no longer need
# From this width on the theme shows the list of pages beside a page: 1220 px, here 1140.
WIDE = {"76.25em": "71.25em", "76.234375em": "71.234375em", "1220px": "1140px"}
LINK = re.compile(r"(\]\()([^)#\s:]+)(#[^)\s]*)?(\))")


def on_files(files: Any, config: Any) -> Any:
    """The pages of OUTSIDE, under their paths in the repository."""
    for name in OUTSIDE:
        text = (ROOT / name).read_text()
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links as they are in the repository, where a page of docs/ lies one folder deeper than on the site."""
    here = page.file.src_uri
    return LINK.sub(lambda found: f"{found[1]}{moved(here, found[2])}{found[3] or ''}{found[4]}", markdown)


def moved(here: str, target: str) -> str:
    """A relative link of the repository as one of the site.

    Args:
        here: the page, as a path of the site.
        target: of a link on it.
    """
    in_repository = here if here in OUTSIDE else posixpath.join("docs", here)
    wanted = posixpath.normpath(posixpath.join(posixpath.dirname(in_repository), target))
    on_site = wanted.removeprefix("docs/")
    if wanted not in OUTSIDE and not wanted.startswith("docs/"):
        return target
    return posixpath.relpath(on_site, posixpath.dirname(here) or ".")


def on_post_build(config: Any) -> None:
    """Scripts name no other host; their maps, which do, are left out; the list of pages stands on smaller desks too."""
    for file in Path(config.site_dir, "assets").rglob("*"):
        if file.suffix == ".map":
            file.unlink()
        elif file.suffix in (".css", ".js"):
            text = file.read_text()
            for old, new in {ELSEWHERE: "absent/", **WIDE}.items():
                text = text.replace(old, new)
            file.write_text(text)
