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
from pipeline.evaluate.refinement import Photo
from pipeline.evaluate.results import encode_mask
from pipeline.evaluate.shared import Network
from pipeline.evaluate.zoom import Box, whole
from pipeline.predict.clicked import ClickedObject, Finished, score_of
from pipeline.serve.pictures import Kept, Picture
from pipeline.serve.refusal import Refused

MAX_CLICKS = 200  # of an object
MAX_STEPS = 20  # n of CFR-n that a client may ask for
PICTURE_BYTES = 1_500_000_000  # of the decoded images that are kept
FINISHED_BYTES = 500_000_000  # of the finished clicks that are kept: 1.6 MB each at 448 pixels
PART_BYTES = 500_000_000  # of their maps, which can be made again
CROP_BYTES = 20_000_000  # of the crops of an image


@dataclass(frozen=True)
class Answer:
    """The mask of a list of clicks.

    Attributes:
        part: bool, the mask inside of `region`; nothing is outside of it.
        region: that was looked at last.
        size: (H, W) of the image.
        box: x, y, width and height of the mask, pixels; zeros of an empty one.
        score: IoU to expect if the probabilities are right.
        steps, adaptive: of CFR, as it was computed.
        passes: forward passes that were computed for it.
        milliseconds: that it took.
    """

    part: np.ndarray
    region: Box
    size: tuple[int, int]
    box: tuple[int, int, int, int]
    score: float
    steps: int
    adaptive: bool
    passes: int
    milliseconds: float

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool: the whole mask, made when it is asked for."""
        mask, at = np.zeros(self.size, np.bool_), self.region
        mask[at.row_min : at.row_max + 1, at.col_min : at.col_max + 1] = self.part
        return mask

    @property
    def png(self) -> str:
        """The mask inside of its box: a PNG of one bit a pixel in base64, "" of an empty mask."""
        x, y, width, height = self.box
        if not width:
            return ""
        top, left = y - self.region.row_min, x - self.region.col_min
        return base64.b64encode(encode_mask(self.part[top : top + height, left : left + width])).decode("ascii")


def bytes_of(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


class Shown(Photo):
    """An image that keeps its last crops, as every click of an object looks at it anew."""

    def __init__(self, picture: Picture, device: torch.device) -> None:
        super().__init__(picture.pixels, device)
        self.picture = picture
        self._crops: Kept[tuple[Box, int], torch.Tensor] = Kept(CROP_BYTES, bytes_of)

    def crop(self, roi: Box, side: int) -> torch.Tensor:
        """See `Photo.crop`; it is not to be changed."""
        kept = self._crops.get((roi, side))
        if kept is None:
            kept = super().crop(roi, side)
            self._crops.put((roi, side), kept)
        return kept


class Clicker:
    """Masks of clicks on the images that it was shown. Threads may share it.

    Attributes:
        cfr: of clicks whose client asks for nothing else.
    """

    def __init__(self, network: Network, cfr: Cfr, device: torch.device) -> None:
        """`network`: on `device`; called from several threads at once."""
        self.cfr = cfr
        self._network, self._device = network, device
        self._shown: Kept[str, Shown] = Kept(PICTURE_BYTES, lambda one: one.picture.pixels.nbytes)
        self._finished: Kept[_Key, Finished] = Kept(FINISHED_BYTES, lambda one: bytes_of(one.logits))
        self._parts: Kept[_Key, torch.Tensor] = Kept(PART_BYTES, bytes_of)

    def show(self, picture: Picture) -> None:
        """Take an image, so that clicks on it can be answered."""
        self._show(picture).crop(whole(*picture.size), self.cfr.crop)  # where every object begins

    def _show(self, picture: Picture) -> Shown:
        found = self._shown.get(picture.sha)
        if found is None:
            found = Shown(picture, self._device)
            self._shown.put(picture.sha, found)
        return found

    def picture(self, sha: str) -> Picture | None:
        """An image that it was shown, None where it is forgotten."""
        found = self._shown.get(sha)
        return found and found.picture

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
        one = ClickedObject(network, self._show(picture), cfr, self._device)
        keys = [(picture.sha, cfr.steps, cfr.adaptive, tuple(clicks[:n])) for n in range(len(clicks) + 1)]
        for same in range(len(clicks), 0, -1):
            if (found := self._finished.get(keys[same])) is not None:
                one.go_on(clicks[:same], found, self._parts.get(keys[same]))
                break
        for number in range(len(one.now.clicks), len(clicks)):
            one.add([clicks[number]])
            self._finished.put(keys[number + 1], one.last)
        if clicks:
            self._parts.put(keys[-1], one.now.part)
        mask, region = one.now.mask_part
        part = mask.cpu().numpy()
        x, y, width, height = cv2.boundingRect(part.view(np.uint8)) if part.size else (0, 0, 0, 0)
        box = (x + region.col_min, y + region.row_min, width, height) if width else (0, 0, 0, 0)
        score = score_of(one.now) if clicks else 0.0
        took = 1e3 * (time.perf_counter() - start)
        return Answer(part, region, picture.size, box, score, cfr.steps, cfr.adaptive, network.passes, took)


_Key = tuple[str, int, bool, tuple[Click, ...]]
"""Image, steps and adaptive of CFR, and clicks."""


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
