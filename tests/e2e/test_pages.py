"""The pages people look at, in a real browser: report.html and MLflow's UI."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline import config
from pipeline.report.plots import learning_curves
from pipeline.report.report import write_report
from pipeline.report.sweep_report import write_sweep_report
from pipeline.tracking.run import open_run
from tests.report_example import HOSTILE, objects_table, pictures_of, summary_of
from tests.sweep_example import sweep_summary

from .conftest import MlflowServer

pytestmark = pytest.mark.slow


def wait_until(done: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"no {what}"
        time.sleep(0.3)


def wait_for_text(browser: Any, *words: str, seconds: float = 60) -> str:
    """The text of the page once it holds all `words`."""
    text = ""

    def there() -> bool:
        nonlocal text
        text = browser.driver.execute_script("return document.body ? document.body.innerText : ''") or ""
        return all(word in text for word in words)

    wait_until(there, f"{words} in the page", seconds)
    return text


def test_report_page(browser: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    objects = objects_table(rng)
    write_report(tmp_path, summary_of(objects), objects, pictures_of(objects, rng))
    browser.open(tmp_path / "report.html")
    text = wait_for_text(browser, "Results", "Plots", "Worst objects", "Typical objects", "Published figures")
    assert HOSTILE in text
    assert browser.driver.title == "Evaluation of tiny_run, step 600"  # the script in a file name did not run
    look_at(browser, tmp_path)


STUCK = """
const wrong = [];
for (const box of document.querySelectorAll('.table')) {
  box.scrollTop = box.scrollLeft = 10000;
  const place = box.getBoundingClientRect(), lines = box.querySelectorAll('thead tr');
  const first = lines[0].cells[0].getBoundingClientRect(), last = lines[lines.length - 1];
  const names = last.cells[last.cells.length - 1].getBoundingClientRect();
  const cells = [...box.querySelectorAll('tbody td:first-child')].map(cell => cell.getBoundingClientRect().left);
  if (Math.abs(first.top - place.top) > 1 || Math.abs(first.left - place.left) > 1) wrong.push('corner');
  if (names.bottom > place.top + 100) wrong.push('header');
  if (cells.some(left => Math.abs(left - place.left) > 1)) wrong.push('column');
  if (box.scrollWidth > box.clientWidth && !box.scrollLeft) wrong.push('does not scroll');
}
return [document.querySelectorAll('.table').length, wrong];
"""


def test_headers_and_first_columns_stay_in_sight(browser: Any, tmp_path: Path) -> None:
    """Of tables wider and longer than a phone, in the box that they scroll in."""
    rng = np.random.default_rng(0)
    objects = objects_table(rng)
    summary = summary_of(objects)
    summary["rejected"] = {"grabcut": {f"reason {i} of many, and a long one at that": i for i in range(60)}}
    write_report(tmp_path, summary, objects, [])
    for width in (1200, 390):
        phone = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
        browser.open(tmp_path / "report.html")
        wait_for_text(browser, "reason 59 of many")
        assert browser.driver.execute_script("return document.documentElement.scrollWidth") <= width
        count, wrong = browser.driver.execute_script(STUCK)
        assert count >= 3 and wrong == []


def test_sweep_page(browser: Any, tmp_path: Path) -> None:
    write_sweep_report(tmp_path, sweep_summary())
    browser.open(tmp_path / "report.html")
    text = wait_for_text(browser, "Settings worth using at each cost", "What mattered", "All trials", "Failed trials")
    assert HOSTILE in text and browser.driver.title == "Sweep over CFR settings of tiny_run, step 300"
    look_at(browser, tmp_path)


def look_at(browser: Any, folder: Path) -> None:
    """The page is whole, asks for nothing, and fits a desktop and a phone in both colour schemes."""
    broken = "return [...document.images].filter(i => !i.complete || i.naturalWidth < 50).length"
    assert browser.driver.execute_script(broken) == 0
    requests = "return performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length"
    assert browser.driver.execute_script(requests) == 0
    for scheme in ("light", "dark"):
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        for width in (1400, 600):
            picture = browser.screenshot(folder / f"{scheme}-{width}.png", width)
            wider = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
            assert browser.driver.execute_script(wider) <= 0  # tables and strips scroll in their own boxes
            pixels = cv2.imread(str(picture))
            assert pixels is not None
            assert (pixels[5, 5].mean() > 200) == (scheme == "light")


def test_mlflow_shows_a_run(browser: Any, mlflow_server: MlflowServer, tmp_path: Path) -> None:
    params = {"optim.lr": 1e-3, "train.steps": 40}
    tracking = config.Tracking(uri=mlflow_server.uri, experiment="pages")
    out = tmp_path / "run"
    with open_run(tracking, kind="train", name="a tiny run", params=params, out=str(out)) as run:
        rows = [{"step": step, "train/loss": 1 / (1 + step), "val/noc90": 20 - step / 4} for step in range(40)]
        for row in rows:
            run.metrics({key: value for key, value in row.items() if key != "step"}, int(row["step"]))
        for folder in ("report-figures", "pictures"):
            (out / folder).mkdir()
        learning_curves(rows).savefig(out / "report-figures" / "learning_curves.png")
        cv2.imwrite(str(out / "pictures" / "samples_00000001.png"), np.full((64, 64, 3), 128, np.uint8))
    client_id = run.run_id
    assert client_id
    page = f"{mlflow_server.uri}/#/experiments/{_experiment(mlflow_server, client_id)}/runs/{client_id}"
    browser.driver.set_window_size(1400, 1100)
    browser.open(page)
    wait_for_text(browser, "a tiny run", "optim.lr", "0.001", "train.steps", "train/loss", "val/noc90", "Finished")
    browser.driver.save_screenshot(str(tmp_path / "mlflow-run.png"))
    browser.open(f"{page}/model-metrics")
    wait_for_text(browser, "train/loss", "val/noc90")
    drawn = "return document.querySelectorAll('.scatterlayer .js-line').length"
    wait_until(lambda: browser.driver.execute_script(drawn) >= 2, "two metric charts")
    browser.driver.save_screenshot(str(tmp_path / "mlflow-metrics.png"))
    browser.open(f"{page}/artifacts")
    wait_for_text(browser, "report-figures", "pictures")
    browser.driver.find_element("xpath", "//*[text()='report-figures']").click()
    wait_for_text(browser, "learning_curves.png")
    browser.driver.find_element("xpath", "//*[text()='learning_curves.png']").click()
    shown = "return [...document.images].some(i => i.naturalWidth > 300)"
    wait_until(lambda: browser.driver.execute_script(shown), "a preview of the plot")
    browser.driver.save_screenshot(str(tmp_path / "mlflow-artifacts.png"))


def _experiment(server: MlflowServer, run_id: str) -> str:
    from mlflow import MlflowClient

    return MlflowClient(server.uri).get_run(run_id).info.experiment_id
