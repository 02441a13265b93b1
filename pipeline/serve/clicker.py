"""Clicks to masks for many people at once, without a session: whoever asks brings all clicks of the object.

What was computed for the first clicks of a list is kept (the last logits and where they belong), and found again by
image, settings and clicks. So a further click costs its own passes, an undo none; what is gone (a restart, another
process) is made again from the clicks, to the bit.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch

from pipeline.clicks.encode import Click
from pipeline.config import Cfr
from pipeline.evaluate.cfr import image_tensor
from pipeline.evaluate.metrics import expected_iou
from pipeline.evaluate.shared import Network
from pipeline.predict.clicked import ClickedObject, Finished
from pipeline.serve.pictures import Kept, Picture
from pipeline.serve.refusal import Refused

MAX_CLICKS = 200  # of an object
MAX_STEPS = 20  # n of CFR-n that a client may ask for
PICTURE_BYTES = 1_500_000_000  # of the decoded images that are kept
FINISHED_BYTES = 500_000_000  # of the finished clicks that are kept: 1.6 MB each at 448 pixels


@dataclass(frozen=True)
class Answer:
    """The mask of a list of clicks.

    Attributes:
        mask: (H, W) bool.
        box: x, y, width and height of the mask, pixels; zeros of an empty one.
        score: IoU to expect if the probabilities are right.
        steps, adaptive: of CFR, as it was computed.
        passes: forward passes that were computed for it.
        milliseconds: that it took.
    """

    mask: np.ndarray
    box: tuple[int, int, int, int]
    score: float
    steps: int
    adaptive: bool
    passes: int
    milliseconds: float

    @property
    def png(self) -> str:
        """The mask inside of its box: a PNG of one bit a pixel in base64, "" of an empty mask."""
        x, y, width, height = self.box
        if not width:
            return ""
        return base64.b64encode(mask_png(self.mask[y : y + height, x : x + width])).decode("ascii")


def mask_png(mask: np.ndarray) -> bytes:
    """(H, W) bool as a PNG of one bit a pixel, 0 and 255."""
    ok, data = cv2.imencode(".png", mask.astype(np.uint8) * 255, [cv2.IMWRITE_PNG_BILEVEL, 1])
    assert ok, "OpenCV encodes every mask"
    return data.tobytes()


class Clicker:
    """Masks of clicks on the images that it was shown. Threads may share it.

    Attributes:
        cfr: of clicks whose client asks for nothing else.
    """

    def __init__(self, network: Network, cfr: Cfr, device: torch.device) -> None:
        """`network`: on `device`; called from several threads at once."""
        self.cfr = cfr
        self._network, self._device = network, device
        self._pictures: Kept[str, Picture] = Kept(PICTURE_BYTES, lambda one: one.pixels.nbytes)
        self._finished: Kept[tuple[str, int, bool, tuple[Click, ...]], Finished] = Kept(
            FINISHED_BYTES, lambda one: one.logits.numel() * one.logits.element_size()
        )

    def show(self, picture: Picture) -> None:
        """Take an image, so that clicks on it can be answered."""
        self._pictures.put(picture.sha, picture)

    def picture(self, sha: str) -> Picture | None:
        """An image that it was shown, None where it is forgotten."""
        return self._pictures.get(sha)

    def answer(
        self, picture: Picture, clicks: Sequence[Click], steps: int | None = None, adaptive: bool | None = None
    ) -> Answer:
        """The mask after all clicks of an object, to the pixel that of `jobs.evaluate` for the same clicks.

        Args:
            steps: n of CFR-n, None: as `cfr` says; `adaptive` likewise.

        Raises:
            Refused: too many clicks or steps, or a click outside of the image (400).
        """
        start = time.perf_counter()
        cfr = replace(
            self.cfr,
            steps=self.cfr.steps if steps is None else steps,
            adaptive=self.cfr.adaptive if adaptive is None else adaptive,
        )
        _check(picture, clicks, cfr)
        network = _Counted(self._network)
        one = ClickedObject(network, image_tensor(picture.pixels, self._device), picture.size, cfr, self._device)
        listed = tuple(clicks)
        same = next((n for n in range(len(listed), 0, -1) if self._found(picture, cfr, listed[:n])), 0)
        if same and (found := self._found(picture, cfr, listed[:same])):
            one.go_on(listed[:same], found)
        for number, click in enumerate(listed[same:], same + 1):
            one.add([click])
            self._finished.put((picture.sha, cfr.steps, cfr.adaptive, listed[:number]), one.last)
        mask = one.now.mask
        x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
        score = expected_iou(one.now.probability.cpu().numpy(), mask) if clicks else 0.0
        took = 1e3 * (time.perf_counter() - start)
        return Answer(mask, (x, y, width, height), score, cfr.steps, cfr.adaptive, network.passes, took)

    def _found(self, picture: Picture, cfr: Cfr, clicks: tuple[Click, ...]) -> Finished | None:
        return self._finished.get((picture.sha, cfr.steps, cfr.adaptive, clicks))


class _Counted:
    """A network that counts its passes."""

    def __init__(self, network: Network) -> None:
        self._network, self.passes = network, 0

    def __call__(self, image: torch.Tensor, prev_mask: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        return self._network(image, prev_mask, points)


def _check(picture: Picture, clicks: Sequence[Click], cfr: Cfr) -> None:
    if len(clicks) > MAX_CLICKS:
        raise Refused(400, f"An object has at most {MAX_CLICKS} clicks, not {len(clicks)}: begin a new one.")
    if cfr.steps > MAX_STEPS:
        raise Refused(400, f"CFR takes at most {MAX_STEPS} steps here, not {cfr.steps}.")
    height, width = picture.size
    for click in clicks:
        if not (0 <= click.row < height and 0 <= click.col < width):
            raise Refused(400, f"The click ({click.col}, {click.row}) is outside of the image, {width} x {height}.")
