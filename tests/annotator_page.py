"""The annotator's page as somebody uses it: clicks, keys and files in a real browser."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

SECONDS = 60.0


class AnnotatorPage:
    """One open page."""

    def __init__(self, driver: Any, url: str) -> None:
        self.driver = driver
        driver.get(url)

    def js(self, expression: str) -> Any:
        return self.driver.execute_script(f"return {expression}")

    def wait(self, done: Callable[[], bool], what: str, seconds: float = SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            if time.monotonic() > deadline:
                raise TimeoutError(f"no {what}; the page says: {self.js('document.body.innerText')}")
            time.sleep(0.05)

    def opened(self, name: str = "") -> None:
        """Wait until an image (of that name) is shown and nothing is under way."""
        state = "document.getElementById('stage').dataset.state"
        self.wait(lambda: self.js(state) == "open" and name in self.text("name"), f"image {name}")
        self.idle()

    def idle(self, seconds: float = SECONDS) -> None:
        """Wait until every mask is there, and saved."""
        self.wait(lambda: self.js("document.body.dataset.busy") == "false", "quiet page", seconds)

    def text(self, element: str) -> str:
        return self.js(f"document.getElementById({json.dumps(element)}).textContent")

    def notes(self) -> str:
        """What the page complains of."""
        return self.text("notes")

    def objects(self) -> list[dict[str, str]]:
        """The list of objects: label, what stands behind it, and whether somebody else has changed it."""
        row = "{label: r.querySelector('input').value, about: r.querySelector('.about').textContent, "
        row += "clash: r.querySelector('.clash').hidden ? '' : r.querySelector('.clash').textContent}"
        return self.js(f"[...document.querySelectorAll('#objects li')].map(r => ({row}))")

    def place(self, x: float, y: float) -> tuple[int, int]:
        """Where the middle of a pixel of the image is in the window.

        Raises:
            ValueError: outside of the canvas.
        """
        canvas = "document.getElementById('view')"
        scale, left, top = (float(number) for number in self.js(f"{canvas}.dataset.view").split())
        box = self.js(f"(b => [b.left, b.top, b.width, b.height])({canvas}.getBoundingClientRect())")
        at = (x + 0.5) * scale + left, (y + 0.5) * scale + top
        if not (0 <= at[0] < box[2] and 0 <= at[1] < box[3]):
            raise ValueError(f"({x}, {y}) is not in sight")
        return int(box[0] + at[0]), int(box[1] + at[1])

    def click(self, x: float, y: float, positive: bool = True, wait: bool = True) -> None:
        """Click a pixel of the image, by the left or the right button."""
        chain = ActionChains(self.driver, duration=0)
        chain.w3c_actions.pointer_action.move_to_location(*self.place(x, y))
        pointer = chain.w3c_actions.pointer_action
        pointer.click() if positive else pointer.context_click()
        chain.perform()
        if wait:
            self.idle()

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Drag from a pixel of the image to another one."""
        chain = ActionChains(self.driver, duration=20)
        pointer = chain.w3c_actions.pointer_action
        pointer.move_to_location(*self.place(*start)).pointer_down().move_to_location(*self.place(*end)).pointer_up()
        chain.perform()
        self.idle()

    def wheel(self, x: float, y: float, by: int) -> None:
        """Turn the wheel over a pixel of the image."""
        box = self.js(
            "(b => [b.left, b.top, b.width, b.height])(document.getElementById('view').getBoundingClientRect())"
        )
        at = self.place(x, y)
        middle = int(at[0] - box[0] - box[2] / 2), int(at[1] - box[1] - box[3] / 2)
        origin = ScrollOrigin.from_element(self.canvas(), *middle)
        ActionChains(self.driver).scroll_from_origin(origin, 0, by).perform()
        self.idle()

    def keys(self, *keys: str) -> None:
        ActionChains(self.driver).send_keys(*keys).perform()
        self.idle()

    def canvas(self) -> WebElement:
        return self.driver.find_element(By.ID, "view")

    def press(self, command: str, where: str = "") -> None:
        """A visible button of the page."""
        found = self.driver.find_elements(By.CSS_SELECTOR, f'{where} button[data-do="{command}"]')
        next(one for one in found if one.is_displayed()).click()

    def take(self, *files: Path) -> None:
        """Choose files in the dialog."""
        self.driver.find_element(By.ID, "file").send_keys("\n".join(str(path) for path in files))

    def emulate(self, scheme: str = "light", width: int = 0, height: int = 0, scale: float = 2.0) -> None:
        """A colour scheme, and the size of a phone."""
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        if width:
            size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": True}
            self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            self.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})

    def touch(self, *steps: list[tuple[float, float]]) -> None:
        """Fingers in the window: where they are at each step; they are lifted after the last one."""
        for number, fingers in enumerate(steps):
            points = [{"x": x, "y": y, "id": at} for at, (x, y) in enumerate(fingers)]
            kind = "touchStart" if number == 0 else "touchMove"
            self.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        self.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        self.idle()
