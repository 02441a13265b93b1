"""The annotator in a real browser against a real server: what is clicked there is what the network gives elsewhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

import pipeline
from pipeline.clicks.encode import Click
from pipeline.clicks.simulate import next_click_center
from pipeline.config.serving import ServeConfig
from pipeline.evaluate.metrics import iou
from pipeline.evaluate.results import decode_mask
from tests.annotator_page import AnnotatorPage
from tests.chromium import chromium

from .conftest import free_port

pytestmark = [pytest.mark.slow, pytest.mark.ray]

PHOTOGRAPHS = ["bsds_104010", "bsds_107045", "bsds_15062", "bsds_161045"]


class Server(NamedTuple):
    url: str
    out: Path
    images: Path

    def saved(self, name: str) -> list[dict[str, Any]]:
        """The objects of an image, each with its mask as `mask`."""
        found = [json.loads(path.read_text()) for path in (self.out / "objects" / name).glob("*.json")]
        for one in found:
            one["mask"] = decode_mask((self.out / one["mask"]).read_bytes())
        return sorted(found, key=lambda one: one["number"])


@pytest.fixture(scope="module")
def server(ray_session: None, sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    from pipeline.serve.server import check, served

    folder = tmp_path_factory.mktemp("annotator")
    (folder / "images").mkdir()
    for name in PHOTOGRAPHS:
        shutil.copy(sample / "eval" / "img" / f"{name}.jpg", folder / "images")
    (folder / "token").write_text("only-for-this-test-run")
    config = ServeConfig(
        checkpoint="small",
        images=str(folder / "images"),
        out=str(folder / "out"),
        port=free_port(),
        token_file=str(folder / "token"),
    )
    with served(check(config)) as url:
        yield Server(url, folder / "out", folder / "images")


@pytest.fixture
def page(server: Server, browser: Any) -> Iterator[AnnotatorPage]:
    browser.driver.set_window_size(1300, 850)
    page = AnnotatorPage(browser.driver, server.url)
    yield page
    complaints = [line["message"] for line in page.driver.get_log("browser") if "Content Security" in line["message"]]
    assert complaints == []


def go(page: AnnotatorPage, name: str) -> None:
    page.opened()
    page.driver.find_element(By.CSS_SELECTOR, f'#rail [data-name="{name}.jpg"]').click()
    page.opened(name)


def expected(server: Server, name: str, clicks: list[dict[str, Any]], steps: int = 0) -> np.ndarray:
    """The mask of the same clicks by the network without a server."""
    predictor = pipeline.Predictor.load("small", cfr_steps=steps)
    picture = cv2.imread(str(server.images / name))
    assert picture is not None
    predictor.set_image(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
    for click in clicks:
        predictor.click(click["x"], click["y"], click["positive"])
    return predictor.mask


def click_by(
    truth: np.ndarray, page: AnnotatorPage, saved: Callable[[], np.ndarray], most: int, reload_at: int
) -> float:
    """Click where the mask is wrong until IoU 0.9 or `most` clicks; returns the IoU."""
    clicks: list[Click] = []
    mask = np.zeros(truth.shape, bool)
    reached = 0.0
    while len(clicks) < most and reached < 0.9:
        click = next_click_center(truth, mask, clicks)
        page.click(click.col, click.row, click.positive)
        clicks.append(click)
        if len(clicks) == reload_at:
            page.driver.refresh()
            page.opened()
            page.driver.find_element(By.CSS_SELECTOR, "#objects .pick").click()
        mask = saved()
        reached = iou(mask, truth)
    return reached


def test_an_object_by_its_ground_truth_with_a_reload_in_the_middle(
    page: AnnotatorPage, server: Server, sample: Path
) -> None:
    name = "bsds_104010.jpg"
    go(page, "bsds_104010")
    truth = cv2.imread(str(sample / "eval" / "gt" / "bsds_104010.png"), cv2.IMREAD_GRAYSCALE)
    assert truth is not None
    truth = (truth > 0).astype(np.int8)
    reached = click_by(truth, page, lambda: server.saved(name)[0]["mask"], most=20, reload_at=2)
    (one,) = server.saved(name)
    assert len(one["clicks"]) == 20 or reached >= 0.9
    np.testing.assert_array_equal(one["mask"], expected(server, name, one["clicks"]))

    page.keys("f")  # CFR-1 of the whole object
    (refined,) = server.saved(name)
    assert refined["steps"] == 1 and refined["clicks"] == one["clicks"]
    np.testing.assert_array_equal(refined["mask"], expected(server, name, one["clicks"], steps=1))


def test_clicks_are_moved_undone_and_made_by_keys_and_fingers(page: AnnotatorPage, server: Server) -> None:
    name = "bsds_107045.jpg"
    go(page, "bsds_107045")
    page.click(100, 100)
    page.drag((100, 100), (140, 120))
    page.click(60, 60, positive=False)

    def clicks() -> list[tuple[float, float, bool]]:
        return [(c["x"], c["y"], c["positive"]) for one in server.saved(name) for c in one["clicks"]]

    first, second = clicks()
    assert abs(first[0] - 140) <= 1 and abs(first[1] - 120) <= 1 and not second[2]
    page.keys("zz")
    assert [(round(x, -1), round(y, -1)) for x, y, _ in clicks()] == [(100, 100)]
    page.keys("y")
    assert clicks() == [first]
    page.canvas().send_keys(Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ENTER)
    page.idle()
    assert len(clicks()) == 2
    page.canvas().send_keys(Keys.BACKSPACE)
    page.idle()
    assert clicks() == [first]

    page.keys("n")
    page.click(200, 200)
    page.keys("l")
    page.keys("dog", Keys.ENTER)
    assert [one["label"] for one in server.saved(name)] == ["object", "dog"]
    page.keys(Keys.DELETE)
    assert clicks() == [first]

    page.emulate(width=390, height=844)
    page.keys("]", "0x")
    x, y = page.place(50, 50)
    before = page.js("document.getElementById('view').dataset.view")
    page.touch([(x, y)])
    assert [positive for _, _, positive in clicks()] == [True, False]
    page.touch([(150, 300), (250, 300)], [(130, 320), (290, 320)], [(100, 330), (330, 330)])
    scale = float(page.js("document.getElementById('view').dataset.view").split()[0])
    assert scale > 1.5 * float(before.split()[0])
    assert page.js("document.documentElement.scrollWidth") <= 390


def test_a_replica_is_killed_in_the_middle_of_an_object(page: AnnotatorPage, server: Server) -> None:
    import ray

    name = "bsds_15062.jpg"
    go(page, "bsds_15062")
    page.click(150, 100)
    page.click(200, 150, positive=False)
    actors: list[Any] = ray.util.list_named_actors(all_namespaces=True)
    (replica,) = [one for one in actors if "SERVE_REPLICA" in one["name"]]
    ray.kill(ray.get_actor(replica["name"], namespace=replica["namespace"]))
    page.click(180, 120, wait=False)
    page.click(120, 160, wait=False)
    page.driver.refresh()
    page.wait(lambda: page.js("document.getElementById('stage').dataset.state") == "open", "open image", 120)
    page.idle(120)
    (one,) = server.saved(name)
    assert len(one["clicks"]) == 4 and page.js("document.getElementById('away').hidden")
    np.testing.assert_array_equal(one["mask"], expected(server, name, one["clicks"]))


def test_two_people_on_one_image(page: AnnotatorPage, server: Server, tmp_path: Path) -> None:
    name = "bsds_161045.jpg"
    go(page, "bsds_161045")
    page.click(100, 100)
    with chromium(tmp_path / "second") as driver:
        driver.set_window_size(1300, 850)
        other = AnnotatorPage(driver, server.url)
        other.opened()
        who = driver.find_element(By.ID, "who")
        who.send_keys("Bea", Keys.ENTER)
        go(other, "bsds_161045")
        assert len(other.objects()) == 1
        other.wait(lambda: "also open with somebody" in other.text("holder"), "word of the other one")
        driver.find_element(By.CSS_SELECTOR, "#objects .pick").click()
        other.click(150, 120)
        (theirs,) = server.saved(name)
        assert len(theirs["clicks"]) == 2

        page.click(200, 200)  # on what it was before
        page.wait(lambda: "Somebody else has changed it" in page.objects()[0]["clash"], "conflict")
        assert page.notes()
        (kept,) = server.saved(name)
        assert kept["version"] == theirs["version"]
        page.driver.find_element(By.CSS_SELECTOR, "#objects .mine").click()
        page.idle()
        first, second = server.saved(name)
        assert first["clicks"] == theirs["clicks"] and second["clicks"][-1]["x"] == pytest.approx(200, abs=1)
        assert [one["clash"] for one in page.objects()] == ["", ""]


def test_each_refusal_is_shown_and_nothing_else_is_lost(page: AnnotatorPage, server: Server, tmp_path: Path) -> None:
    page.opened()
    files = {"text.png": b"no image at all", "large.jpg": bytes(65 * 2**20)}
    files["broken.jpg"] = (server.images / "bsds_15062.jpg").read_bytes()[:2000]
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        page.take(tmp_path / name)
        page.wait(lambda name=name: f"{name}: " in page.notes(), f"word of {name}")
    assert "at most 64 MiB" in page.notes()
    Image.open(server.images / "bsds_15062.jpg").save(tmp_path / "scan.tif")  # which no browser shows by itself
    page.take(tmp_path / "scan.tif")
    page.opened("scan.tif")
    thumbnail = "document.querySelector('#rail [aria-current=true] img')"
    page.wait(lambda: page.js(f"{thumbnail}.naturalWidth") > 0, "a thumbnail of scan.tif")
    page.press("forget")
    page.opened()

    shutil.copy(server.images / "bsds_15062.jpg", tmp_path / "dropped photograph.jpg")
    page.take(tmp_path / "dropped photograph.jpg")
    page.opened("dropped photograph.jpg")
    busy = "new Response('{\"error\": \"Too many\"}', {status: 429, headers: {'Retry-After': '1'}})"
    page.driver.execute_script(
        "window.real = window.fetch; window.left = 2; "
        f"window.fetch = async (...asked) => left-- > 0 ? {busy} : real(...asked)"
    )
    page.click(100, 100, wait=False)
    page.wait(lambda: "busy" in page.text("away"), "word of a busy server")
    page.idle()
    page.driver.execute_script(
        "left = 2; window.fetch = async (...asked) => { if (left-- > 0) throw new TypeError(); return real(...asked); }"
    )
    page.click(120, 110, wait=False)
    page.wait(lambda: "server is away" in page.text("away"), "word of an absent server")
    page.idle()
    uploads = list((server.out / "objects").glob("upload-*"))
    assert len(uploads) == 1 and page.js("document.getElementById('away').hidden")
    page.driver.refresh()
    page.opened("dropped photograph.jpg")
    assert [one["about"] for one in page.objects()] == ["2"]
    page.press("done")
    page.opened("bsds")
    page.driver.execute_script("sessionStorage.clear()")
    page.driver.refresh()
    page.wait(lambda: "open the URL that the server printed" in page.notes(), "word of the missing token")


def test_it_fits_and_is_readable(page: AnnotatorPage, tmp_path: Path) -> None:
    page.opened()
    for scheme in ("light", "dark"):
        page.emulate(scheme)
        page.driver.save_screenshot(str(tmp_path / f"{scheme}.png"))
        picture = cv2.imread(str(tmp_path / f"{scheme}.png"))
        assert page.js(
            "['panel', 'stage'].every(id => (e => e.scrollWidth <= e.clientWidth)(document.getElementById(id)))"
        )
        assert picture is not None and (picture[3, 3].mean() > 200) == (scheme == "light")
    page.keys("?")
    assert page.js("document.querySelector('dialog').open")
    unnamed = "[...document.querySelectorAll('button, input')].filter(e => !e.closest('template') && "
    unnamed += "!e.textContent.trim() && !e.ariaLabel && !e.labels?.length && e.type !== 'file').map(e => e.outerHTML)"
    assert page.js(unnamed) == []
