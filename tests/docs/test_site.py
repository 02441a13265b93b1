"""The site: built with every link checked, nothing in it from another host, readable on a desk and on a phone."""

from __future__ import annotations

import functools
import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Browser
from tests.docs.blocks import PAGES, ROOT

LOADED = re.compile(r"<(?:script|img|iframe|source)\b[^>]*?\bsrc=[\"']?([^\"'\s>]+)|<link\b([^>]*)>", re.I)
OF_STYLE = re.compile(r"url\(\s*[\"']?([^\"')]+)|@import\s+[\"']([^\"']+)")
FOREIGN = re.compile(r"^(https?:)?//")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make docs` builds."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def foreign(site: Path) -> list[str]:
    """What the site's files would fetch from another host: "FILE: URL"."""
    found = []
    for file in sorted(site.rglob("*")):
        if file.suffix == ".html":
            text = file.read_text()
            named = [src or link for src, link in LOADED.findall(text)]
            urls = [re.sub(r".*\bhref=[\"']?([^\"'\s>]+).*", r"\1", name, flags=re.S) for name in named]
            urls += [a or b for a, b in OF_STYLE.findall(" ".join(re.findall(r"<style.*?</style>", text, re.S)))]
        elif file.suffix == ".css":
            urls = [a or b for a, b in OF_STYLE.findall(file.read_text())]
        elif file.suffix == ".js":
            urls = re.findall(
                r"(?:https?:)?//[a-z0-9.]*(?:unpkg|jsdelivr|cdnjs|googleapis|gstatic)[^\"' ]*", file.read_text()
            )
        else:
            continue
        found += [f"{file.relative_to(site)}: {url}" for url in urls if FOREIGN.match(url)]
    return found


def test_nothing_comes_from_another_host(site: Path) -> None:
    assert len(list(site.rglob("*.html"))) > len(PAGES)
    assert foreign(site) == []


def test_a_foreign_host_is_seen(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<script src="https://a/b.js"></script><link rel=x href=//c/d.css><img src="e.png">'
    )
    (tmp_path / "a.css").write_text("@import 'https://f/g.css'; p {background: url(h.png)}")
    (tmp_path / "a.js").write_text('load("https://unpkg.com/x")')
    assert len(foreign(tmp_path)) == 4


def test_pages_in_a_browser(address: str, browser: Browser, tmp_path: Path) -> None:
    """No page is wider than a phone, and none fetches from elsewhere."""
    for page in ("index.html", "options.html", "reliability.html"):
        for width in (1200, 390):
            browser.driver.set_window_size(width, 900)
            browser.open(f"{address}/{page}")
            wide = browser.driver.execute_script(
                "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
            assert wide <= 0, (page, width)
            (pages,) = browser.driver.find_elements("css selector", ".md-sidebar--primary")
            assert (0 < pages.rect["width"] and pages.rect["x"] >= 0) == (width == 1200)
            fetched = browser.driver.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
            assert fetched and [url for url in fetched if not url.startswith((address, "data:"))] == []


def test_links_of_the_readme_lead_somewhere() -> None:
    """The site's builder checks those of docs/; the README is not on the site."""
    for link in LINK.findall((ROOT / "README.md").read_text()):
        if FOREIGN.match(link):
            continue
        name, _, anchor = link.partition("#")
        assert (ROOT / name).is_file(), link
        headings = re.findall(r"^#+ (.+)$", (ROOT / name).read_text(), re.M) if anchor else []
        slugs = [re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings]
        assert not anchor or anchor in slugs, link
