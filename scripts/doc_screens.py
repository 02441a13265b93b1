"""Photograph what people see: terminal, report and MLflow, of a small evaluation and training that are run for it.

python -m scripts.doc_screens      (minutes; needs chromium and chromedriver; writes docs/pictures/)
"""

from __future__ import annotations

import html
import io
import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from selenium import webdriver

from pipeline import storage
from tests.chromium import chromium
from tests.docs.given import give
from tests.docs.reader import environment

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "pictures"
EVALUATE = "cfr-icl evaluate --checkpoint small --data mine=mine --cfr-steps 0 1 --out results/small"
COMMANDS = [
    EVALUATE,
    "cfr-icl prepare folder --root mine --out shards/mine",
    "cfr-icl train tiny --data.train shards/mine --data.val shards/mine --out runs/first --train.steps 60 "
    "--train.log-every 5 --train.val-every 20",
]
SERVER = "sqlite:///mlflow.db"
# Where this checkout lies is nobody's business.
WITHOUT_PATHS = """
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (texts.nextNode()) texts.currentNode.data = texts.currentNode.data.replaceAll(arguments[0], arguments[1]);
"""
# MLflow's charts without the tools over them, from the training's own curves on.
ONLY_CURVES = """
const all = [...document.querySelectorAll("*")];
const named = text => all.find(e => !e.children.length && e.textContent.startsWith(text));
document.head.insertAdjacentHTML("beforeend", "<style>.modebar {display: none !important}</style>");
const group = named("train (") || named("train");
if (group) group.scrollIntoView();
"""
PATIENCE = 180  # seconds that a page may take


@contextmanager
def mlflow_pages(folder: Path) -> Iterator[str]:
    """The address of MLflow's pages on the store of a folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", SERVER, "--port", str(port)]
    server = subprocess.Popen(
        command, cwd=folder, env=environment(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        address = f"http://127.0.0.1:{port}"
        until(lambda: answers(f"{address}/health"))
        yield address
    finally:
        server.terminate()
        server.wait()


def answers(url: str) -> bool:
    try:
        return bool(urllib.request.urlopen(url, timeout=5))
    except OSError:
        return False


def until(ready: Callable[[], bool]) -> None:
    """Wait for something.

    Raises:
        TimeoutError: it does not come.
    """
    end = time.monotonic() + PATIENCE
    while not ready():
        if time.monotonic() > end:
            raise TimeoutError("the page did not come")
        time.sleep(0.5)


def photograph(
    driver: webdriver.Chrome, url: str, name: str, size: tuple[int, int], shows: str, tidied: str = "", kept: int = 0
) -> None:
    """A page as docs/pictures/NAME.png, once it shows a text.

    Args:
        size: (width, height) of the page, pixels.
        tidied: a script that is run in it first.
        kept: columns from the left that are kept; 0: all.
    """
    screen = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    driver.get(url)
    until(lambda: shows in driver.execute_script("return document.body.innerText"))
    time.sleep(3)  # what people are shown first is not yet there
    driver.execute_script(tidied)
    time.sleep(3)  # curves are drawn after their names
    driver.execute_script(WITHOUT_PATHS, str(ROOT), "~/cfr-icl")
    driver.execute_script(WITHOUT_PATHS, tempfile.gettempdir() + "/", "~/")
    buffer = io.BytesIO()
    picture = (
        Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB").crop((0, 0, kept or size[0], size[1]))
    )
    picture.quantize(256, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    storage.write_bytes(str(PICTURES / f"{name}.png"), buffer.getvalue())
    print(f"{name}.png: {len(buffer.getvalue()) / 1000:.0f} kB", flush=True)


def terminal(folder: Path, command: str, printed: str) -> str:
    """The address of a page that looks like the terminal in which a command was run."""
    text = html.escape(f"$ {command}\n{printed}".replace(str(folder), "~"))
    style = "background:#1b1f27;color:#dfe3ea;font:15px/1.45 monospace;padding:18px;margin:0;white-space:pre-wrap"
    page = f'<meta charset="utf-8"><body style="margin:0;background:#1b1f27"><pre style="{style}">{text}</pre>'
    (folder / "terminal.html").write_text(page)
    return (folder / "terminal.html").as_uri()


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="screens") as name:
        folder = Path(name)
        give(folder)
        said = [
            subprocess.run(command, shell=True, cwd=folder, env=environment(folder), check=True, stdout=subprocess.PIPE)
            for command in COMMANDS
        ]
        with chromium(folder / "chromium") as driver:
            page = terminal(folder, EVALUATE, said[0].stdout.decode())
            photograph(driver, page, "terminal", (1250, 500), "NoC")
            photograph(driver, (folder / "results/small/report.html").as_uri(), "report", (1000, 1250), "NoC")
            with mlflow_pages(folder) as address:
                names = (
                    "runs/first",
                    "results/small",
                    *(f"results/small/settings/{name}" for name in ("cfr0", "cfr1")),
                )
                found = [json.loads((folder / name / "tracking.json").read_text()) for name in names]
                experiment, (training, evaluation, *settings) = found[0]["experiment_id"], [f["run_id"] for f in found]
                runs = f"{address}/#/experiments/{experiment}/runs"
                view = "?workflowType=machine_learning"
                # So much of the width is not the assistant beside them.
                url = f"{runs}/{training}/model-metrics{view}"
                photograph(driver, url, "mlflow", (1200, 800), "optim/lr", ONLY_CURVES, kept=890)
                url = f"{runs}/{evaluation}{view}"
                photograph(driver, url, "mlflow-run", (1640, 900), "Evaluation on", kept=1215)
                quoted = ",".join(f"%22{run}%22" for run in settings)
                url = f"{address}/#/compare-runs?runs=[{quoted}]&experiments=[%22{experiment}%22]&{view[1:]}"
                photograph(driver, url, "mlflow-compare", (1500, 1500), "Run details", kept=1110)


if __name__ == "__main__":
    main()
