"""One object that somebody clicks: one click after the other, back again, or on from a map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from pipeline.clicks.encode import Click
from pipeline.config import Cfr
from pipeline.errors import UserError
from pipeline.evaluate import zoom
from pipeline.evaluate.cfr import Refinement
from pipeline.evaluate.metrics import expected_iou
from pipeline.evaluate.photo import Photo
from pipeline.evaluate.shared import Network


class Finished(NamedTuple):
    """What a finished click is made again from, at a hundredth of a map's memory."""

    clicks: int  # so far
    roi: zoom.Box
    logits: torch.Tensor


class ClickedObject:
    """An object's clicks and maps.

    Attributes:
        now: the clicks, the mask and the map.
        finished: how often clicks were added; what `back_to` counts.
    """

    def __init__(self, network: Network, image: Photo, cfr: Cfr, device: torch.device) -> None:
        """`image`: on `device`."""
        self._network, self._image, self._cfr, self._device = network, image, cfr, device
        self._kept: list[Finished] = []
        self._start: torch.Tensor | None = None  # the map that clicks began from, where one was given
        self.now = self._new()

    @property
    def finished(self) -> int:
        return len(self._kept)

    @property
    def last(self) -> Finished:
        """What `go_on` goes on from, after at least one `add`."""
        return self._kept[-1]

    def go_on(self, clicks: Sequence[Click], last: Finished, part: torch.Tensor | None = None) -> None:
        """Be as an object of the same image and settings was after these clicks.

        Args:
            last: its `last`.
            part: its `now.part`, which saves making it again.
        """
        self.now.clicks.extend(clicks)
        self._kept = [last]
        with torch.inference_mode():
            self.now.resume(last.roi, last.logits, part)

    def add(self, clicks: Sequence[Click]) -> None:
        """Clicks that see the same map, usually one: passes until the last refinement. All of it, or nothing."""
        before = self.finished
        self.now.clicks.extend(clicks)
        try:
            with torch.inference_mode():
                logits: torch.Tensor | None = None
                while not self.now.run_ended:
                    run = self.now.next_input()
                    logits = self._network(run.image, run.prev_mask, run.points.to(self._device)).float()
                    self.now.accept(logits)
                self.now.end_runs()
        except BaseException:
            self.back_to(before)
            raise
        assert logits is not None and self.now.roi is not None
        self._kept.append(Finished(len(self.now.clicks), self.now.roi, logits))

    def back_to(self, count: int) -> None:
        """As it was when clicks had been added `count` times, to the bit: the logits are pasted again."""
        clicks, self._kept = self.now.clicks, self._kept[:count]
        self.now = self._new()
        with torch.inference_mode():
            if self._kept:
                last = self._kept[-1]
                self.now.clicks.extend(clicks[: last.clicks])
                self.now.resume(last.roi, last.logits)
            elif self._start is not None:
                self.now.begin(self._start)

    def follow(self, clicks: Sequence[Click]) -> None:
        """Have these clicks, one after the other: what they have in common with the present ones is not made again."""
        if self._start is not None:
            self._start = None
            self.back_to(0)
        present, same = self.now.clicks, 0
        while same < min(len(present), len(clicks)) and present[same] == clicks[same]:
            same += 1
        if same < len(present):
            self.back_to(same)
        for click in clicks[same:]:
            self.add([click])

    def begin_with(self, logits: np.ndarray) -> None:
        """No clicks, and the map of (H, W) or (1, H, W) float32 logits.

        Raises:
            UserError: another shape, or no numbers.
        """
        size = self._image.size
        if logits.shape not in (size, (1, *size)):
            raise UserError(
                f"mask_input is (1, {size[0]}, {size[1]}), logits of the image; this one is {logits.shape}."
            )
        if not np.isfinite(logits).all():
            raise UserError("mask_input holds NaN or infinity; logits as predict returns them do not.")
        self._start = torch.sigmoid(torch.from_numpy(logits.reshape(size).astype(np.float32)).to(self._device))
        self.back_to(0)

    def _new(self) -> Refinement:
        return Refinement(self._image, self._image.size, self._cfr, self._device)


def score_of(now: Refinement) -> float:
    """`metrics.expected_iou` of an object; outside of the last run's ROI there is nothing to expect."""
    return expected_iou(now.part.cpu().numpy(), now.mask_part[0].cpu().numpy())
