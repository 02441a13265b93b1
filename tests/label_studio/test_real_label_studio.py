"""A real Label Studio with jobs.serve as its model, driven in Chromium.

Only with LABEL_STUDIO, the program (`make test-label-studio`). Screenshots go to build/label-studio-screenshots.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from selenium.common.exceptions import ElementClickInterceptedException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from pipeline.predict.predictor import Predictor
from pipeline.serve import label_studio_rle
from tests.conftest import ROOT, Browser

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(not os.environ.get("LABEL_STUDIO"), reason="only with LABEL_STUDIO (make test-label-studio)"),
]
USER, PASSWORD = "someone@example.com", "a-long-Password-1"
PHOTO = "train2017/000000000030.jpg"  # a vase with flowers, 640 x 428
VASE, FLOWERS = (0.51, 0.66), (0.45, 0.32)
SHOTS = ROOT / "build" / "label-studio-screenshots"
# What is asked of the model, kept by the page: the clicks are gone once a mask is accepted.
KEEP_REQUESTS = """
const real = window.fetch; window.asked = []; window.answered = 0;
window.fetch = async (...all) => {
  const answer = real(...all);
  if (String(all[0]).includes("interactive-annotating")) {
    window.asked.push(all[1].body);
    await (await answer).clone().text();
    window.answered += 1;
  }
  return answer;
};
"""


def wait(what: str, found: Callable[[], Any], seconds: float = 300) -> Any:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(requests.ConnectionError, ElementClickInterceptedException):  # a window on its way
            if value := found():
                return value
        time.sleep(0.3)
    raise AssertionError(f"{what}: not within {seconds} s")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running(command: Sequence[str | Path], log: Path, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **env}, stdout=out, stderr=out, start_new_session=True
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class Studio:
    """A running Label Studio and somebody who is logged in.

    Attributes:
        session: logged in as a browser is.
        token: a personal access token.
    """

    def __init__(self, url: str) -> None:
        self.url, self.session = url, requests.Session()
        self.session.get(f"{url}/user/login/")
        form = {"email": USER, "password": PASSWORD, "csrfmiddlewaretoken": self.session.cookies["csrftoken"]}
        self.session.post(f"{url}/user/login/", form, headers={"Referer": url}).raise_for_status()
        self.token = str(self.post("/api/token/")["token"])

    def post(self, path: str, data: Any = None, **more: Any) -> Any:
        headers = {"X-CSRFToken": self.session.cookies["csrftoken"], "Referer": self.url}
        answer = self.session.post(self.url + path, json=data, headers=headers, **more)
        assert answer.ok, answer.text
        return answer.json()

    def get(self, path: str) -> Any:
        answer = self.session.get(self.url + path)
        assert answer.ok, answer.text
        return answer.json()


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    folder, port = tmp_path_factory.mktemp("label-studio"), free_port()
    quiet = {"SENTRY_DSN": "", "FRONTEND_SENTRY_DSN": "", "LATEST_VERSION_CHECK": "false", "COLLECT_ANALYTICS": "false"}
    command = [os.environ["LABEL_STUDIO"], "start", "--no-browser", "--data-dir", str(folder), "--port", str(port)]
    command += ["--internal-host", "127.0.0.1", "--username", USER, "--password", PASSWORD]
    url = f"http://127.0.0.1:{port}"
    # Both: a model at a private address is refused otherwise, and so is the webhook that comes with it.
    open_ = {"ML_BLOCK_LOCAL_IP": "false", "SSRF_PROTECTION_ENABLED": "false"}
    with running(command, folder / "log", **quiet, **open_):
        wait("Label Studio", lambda: requests.get(f"{url}/health", timeout=5).ok, 600)
        yield Studio(url)


@pytest.fixture(scope="module")
def model(studio: Studio, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """(URL, token) of jobs.serve."""
    folder, port = tmp_path_factory.mktemp("serve"), free_port()
    token = secrets.token_hex(16)
    (folder / "token").write_text(token)
    (folder / "studio-token").write_text(studio.token)
    command = [sys.executable, "-m", "jobs.serve", "--checkpoint", "small", "--port", str(port), "--token-file"]
    command += [
        folder / "token",
        "--label-studio-url",
        studio.url,
        "--label-studio-token-file",
        folder / "studio-token",
    ]
    with running(command, folder / "log") as process:
        wait("jobs.serve", lambda: process.poll() is not None or "Annotator:" in (folder / "log").read_text(), 600)
        assert process.poll() is None, (folder / "log").read_text()
        yield f"http://127.0.0.1:{port}", token
    said = (folder / "log").read_text()
    assert token not in said.replace(f"#token={token}", "") and studio.token not in said


@pytest.fixture(scope="module")
def task(studio: Studio, model: tuple[str, str], sample: Path) -> dict[str, Any]:
    """A project as docs/label-studio.md describes it, with one photograph."""
    guide = (ROOT / "docs" / "label-studio.md").read_text()
    config = guide.partition("```xml")[2].partition("```")[0]
    project = studio.post("/api/projects", {"title": "clicks", "label_config": config})["id"]
    with (sample / PHOTO).open("rb") as photo:
        studio.post(f"/api/projects/{project}/import", files={"file": ("a photo.jpg", photo, "image/jpeg")})
    url, token = model
    about = {"url": url, "project": project, "title": "CFR-ICL", "is_interactive": True}
    connected = studio.post(
        "/api/ml", {**about, "auth_method": "BASIC_AUTH", "basic_auth_user": "any", "basic_auth_pass": token}
    )
    assert connected["state"] == "CO" and connected["model_version"].startswith("small ")
    return studio.get(f"/api/tasks?project={project}")["tasks"][0]


def test_a_click_and_a_negative_click_become_a_submitted_mask(
    studio: Studio, task: dict[str, Any], browser: Browser, sample: Path
) -> None:
    driver = browser.driver
    driver.set_window_size(1400, 1000)
    driver.execute_cdp_cmd("Network.enable", {})
    driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["https://*"]})
    driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": KEEP_REQUESTS})
    browser.open(f"{studio.url}/user/login/")
    driver.find_element(By.NAME, "email").send_keys(USER)
    driver.find_element(By.NAME, "password").send_keys(PASSWORD + Keys.ENTER)
    wait("being logged in", lambda: "/login" not in driver.current_url)
    browser.open(f"{studio.url}/projects/{task['project']}/data?task={task['id']}")

    def find(css: str) -> list[Any]:
        return driver.find_elements(By.CSS_SELECTOR, css)

    def shot(name: str) -> None:
        SHOTS.mkdir(parents=True, exist_ok=True)
        driver.save_screenshot(str(SHOTS / f"{name}.png"))

    def asked() -> list[Any]:
        return [json.loads(text)["context"]["result"] for text in driver.execute_script("return window.asked")]

    def answered(times: int) -> None:
        wait(f"answer {times}", lambda: driver.execute_script("return window.answered") == times)
        time.sleep(3)  # until it is drawn

    wait("the image", lambda: find(".konvajs-content canvas") and len(find(".lsf-label")) == 4)
    driver.find_element(By.XPATH, "//label[contains(., 'Auto-Annotation')]").click()
    find("[data-testid=bottombar-settings-button]")[0].click()
    keep = "//label[contains(., 'Keep label selected after creating a region')]"
    wait("the settings", lambda: [label.click() for label in driver.find_elements(By.XPATH, keep)])
    time.sleep(1)  # until the window stands still
    shot("0-settings")
    ActionChains(driver).send_keys(Keys.ESCAPE).perform()
    wait("no settings", lambda: not any(one.is_displayed() for one in driver.find_elements(By.XPATH, keep)))
    wait("the smart tool", lambda: find(".lsf-tool_smart"))[0].click()
    find(".lsf-label")[2].click()  # "object" of the keypoints
    stage = find(".konvajs-content")[0]

    def click(place: tuple[float, float], *keys: str) -> None:
        x, y = (round((share - 0.5) * stage.rect[side]) for share, side in zip(place, ("width", "height"), strict=True))
        actions = ActionChains(driver).move_to_element_with_offset(stage, x, y)
        for key in keys:
            actions.key_down(key)
        actions.click()
        for key in keys:
            actions.key_up(key)
        actions.perform()

    accept = "[data-testid=bottombar-accept-suggestions-button]"
    click(VASE)
    answered(1)
    wait("a suggestion", lambda: find(accept))
    shot("1-a-click")
    click(FLOWERS, Keys.ALT)
    answered(2)
    shot("2-a-negative-click")
    ActionChains(driver).send_keys("u").perform()  # unselects the label, which the region would get as well
    wait("a suggestion", lambda: find(accept))[0].click()
    wait("no more suggestions", lambda: not find(accept))
    time.sleep(2)
    shot("3-accepted")
    find("[data-testid=bottombar-submit-button]")[0].click()
    wait("an annotation", lambda: studio.get(f"/api/tasks/{task['id']}")["annotations"])
    shot("4-submitted")

    first, second = asked()
    assert [point["is_positive"] for point in second] == [True, False] and second[0] == first[0]
    exported = studio.get(f"/api/projects/{task['project']}/export?exportType=JSON")
    (region,) = exported[0]["annotations"][0]["result"]
    assert region["type"] == "brushlabels" and region["value"]["brushlabels"] == ["object"]
    height, width = region["original_height"], region["original_width"]
    mask = label_studio_rle.decode(region["value"]["rle"], (height, width))

    predictor = Predictor.load("small")
    predictor.set_image(sample / PHOTO)

    def predicted(points: list[Any]) -> np.ndarray:
        places = [(one["value"]["x"] / 100 * width, one["value"]["y"] / 100 * height) for one in points]
        pixels = [[math.floor(x), math.floor(y)] for x, y in places]
        return predictor.predict(pixels, [int(one["is_positive"]) for one in points])[0][0]

    expected = predicted(second)
    print(f"mask of {mask.sum()} pixels; of the first click alone {predicted(first).sum()}")
    assert mask.any() and (predicted(first) != expected).any()
    assert (mask == expected).all(), f"{(mask != expected).sum()} pixels differ"
