"""Pictures of the annotator: `python -m scripts.screenshots --sample FOLDER`.

FOLDER is in the layout of COCO panoptic (val2017/, train2017/, annotations/): some of its photographs are clicked by
their ground truth, in a real browser, against a server of its own with the packaged model. All pictures go to --out to
be looked at; those of the documentation are copied to docs/pictures/.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from pipeline.clicks.encode import Click
from pipeline.clicks.simulate import next_click_center
from pipeline.evaluate.metrics import iou
from pipeline.evaluate.results import decode_mask
from tests.annotator_page import AnnotatorPage
from tests.chromium import chromium

MOST = 12  # clicks of an object
PHOTOGRAPHS = {"000000458756": "train2017", "000000343937": "val2017", "000000196393": "train2017"}
"""With the folder they are in; their licence stands in docs/pictures/README.md."""
DOCS = Path(__file__).resolve().parents[1] / "docs" / "pictures"
KEPT = ("annotator.png", "annotator-phone.png")


class Truth:
    """The annotated objects of the photographs."""

    def __init__(self, sample: Path) -> None:
        self.sample = sample
        self._objects: dict[str, list[tuple[str, int]]] = {}
        for split in set(PHOTOGRAPHS.values()):
            found = json.loads((sample / "annotations" / f"panoptic_{split}.json").read_text())
            names = {one["id"]: one["name"] for one in found["categories"]}
            for one in found["annotations"]:
                parts = sorted(one["segments_info"], key=lambda part: -part["area"])
                self._objects[Path(one["file_name"]).stem] = [(names[p["category_id"]], p["id"]) for p in parts]

    def objects(self, name: str) -> list[tuple[str, np.ndarray]]:
        """(label, (H, W) bool) of a photograph's objects, the largest first."""
        path = self.sample / "annotations" / f"panoptic_{PHOTOGRAPHS[name]}" / f"{name}.png"
        ids = np.asarray(Image.open(path).convert("RGB")).astype(np.int64) @ [1, 256, 65536]
        return [(label, ids == number) for label, number in self._objects[name]]


def annotate(page: AnnotatorPage, out: Path, label: str, truth: np.ndarray) -> None:
    """Click a new object until it is right, and name it."""
    page.keys("n")
    clicks: list[Click] = []
    mask = np.zeros(truth.shape, bool)
    before = set(out.glob("masks/*/*.png"))
    while len(clicks) < MOST and iou(mask, truth.astype(np.int8)) < 0.92:
        clicks.append(next_click_center(truth.astype(np.int8), mask, clicks))
        page.click(clicks[-1].col, clicks[-1].row, clicks[-1].positive)
        saved = [path for path in out.glob("masks/*/*.png") if path not in before]
        mask = decode_mask(saved[0].read_bytes()) if saved else mask
    page.keys("l")
    page.keys(label, "\n")


def shoot(page: AnnotatorPage, path: Path) -> None:
    """A screenshot of 256 colours, which a page of documentation can carry."""
    path.parent.mkdir(parents=True, exist_ok=True)
    page.driver.save_screenshot(str(path))
    Image.open(path).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size // 1024} KiB")


def pictures(url: str, folder: Path, truth: Truth, to: Path) -> None:
    out = folder / "out"
    with chromium(folder / "chromium") as driver:
        driver.set_window_size(1240, 880)
        page = AnnotatorPage(driver, url)
        page.opened("000000196393")
        annotate(page, out, *truth.objects("000000196393")[0])
        shoot(page, to / "one.png")
        page.press("next")
        page.opened("000000343937")
        objects = truth.objects("000000343937")
        annotate(page, out, *objects[0])
        small = next(mask for label, mask in objects if label == "snowboard")
        row, col = np.argwhere(small).mean(axis=0)
        page.wheel(col, row, -250)
        annotate(page, out, "snowboard", small)
        shoot(page, to / "small-object.png")
        page.press("done")
        page.opened("000000458756")
        for label, mask in truth.objects("000000458756")[1:6]:
            annotate(page, out, label, mask)
        driver.find_elements("css selector", "#objects .pick")[0].click()
        page.idle()
        shoot(page, to / "annotator.png")
        page.emulate("dark")
        shoot(page, to / "annotator-dark.png")
        page.keys("?")
        shoot(page, to / "keys.png")
        page.keys("\ue00c")
        picture = cv2.imread(str(folder / "images" / "000000458756.jpg"))
        assert picture is not None
        large = cv2.resize(picture, (7360, 5520), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / "40 megapixels.jpg"), large)
        page.take(folder / "40 megapixels.jpg")
        page.opened("40 megapixels")
        for x, y in ((3400, 2700), (2000, 3000)):
            page.click(x, y, wait=False)
            page.idle(300)
        shoot(page, to / "40-megapixels.png")
        page.press("next")
        page.opened("000000196393")
        page.press("next")
        page.opened("000000343937")
        page.press("next")
        page.opened("000000458756")
        page.emulate("light", width=390, height=780, scale=1.5)
        page.keys("0", "[")
        shoot(page, to / "annotator-phone.png")
        page.press("panel")
        shoot(page, to / "phone-objects.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=Path, required=True, help="photographs with COCO panoptic annotations")
    parser.add_argument("--out", type=Path, default=Path("build/pictures"), help="where the pictures go")
    parser.add_argument("--port", type=int, default=8799)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pictures") as temporary:
        folder = Path(temporary)
        (folder / "images").mkdir()
        for stem, split in PHOTOGRAPHS.items():
            shutil.copy(args.sample / split / f"{stem}.jpg", folder / "images")
        command = [sys.executable, "-m", "jobs.serve", "--checkpoint", "small", "--port", str(args.port)]
        command += ["--images", str(folder / "images"), "--out", str(folder / "out")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                lines = iter(server.stdout.readline, "")
                url = next(found[0] for line in lines if (found := re.search(r"http://\S+", line)))
                pictures(url, folder, Truth(args.sample), args.out)
                for name in KEPT:
                    shutil.copy(args.out / name, DOCS)
            finally:
                server.send_signal(signal.SIGINT)
                server.wait(60)


if __name__ == "__main__":
    main()
