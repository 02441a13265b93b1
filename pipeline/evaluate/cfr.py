"""CFR-n on one object, as a session that can advance beside many others.

A `Session` is clicked by the simulated user of the evaluation, a `Replay` by clicks that are given.

    session = Session(image, truth, cfr, rules, device)      # the first click is placed
    while not session.done:
        run = session.next_input()                            # crop, previous map and clicks of one forward pass
        session.accept(model(run.image, run.prev_mask, run.points))
        if session.run_ended:                                 # the click's last refinement is in
            session.end_click()                               # IoU and next click: any thread

Outer loop: clicks. Inner loop: n + 1 runs per click, each fed the probability map of the run before (paper, CFR).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from pipeline.clicks.encode import Click
from pipeline.clicks.simulate import next_click_center
from pipeline.config import Cfr, Eval
from pipeline.evaluate.metrics import iou
from pipeline.evaluate.refinement import Photo, Refinement


class Session(Refinement):
    """One object being clicked, each click placed where the mask is most wrong (RITM's simulated user).

    Attributes:
        ious: IoU after each finished click, double precision.
        done: no further run is wanted.
    """

    def __init__(
        self,
        image: np.ndarray | Photo,
        truth: np.ndarray,
        cfr: Cfr,
        rules: Eval,
        device: torch.device | str = "cpu",
        first: Click | None = None,
    ) -> None:
        """Place the first click.

        Args:
            image, cfr, device: see `Refinement`.
            truth: (H, W) int8, 1 object (at least one pixel), 0 background, -1 ignore.
            rules: when the object ends.
            first: the first click, when another session of the same object has placed it.
        """
        super().__init__(image, (truth.shape[0], truth.shape[1]), cfr, device)
        self.rules, self.truth = rules, truth
        self.clicks.append(first or next_click_center(truth, self.mask, []))
        self.ious: list[float] = []
        self.done = False

    def end_click(self) -> None:
        """Measure the click that ended and place the next one, or be done."""
        mask = self.mask
        self._count_click(iou(self.truth, mask))
        if not self.done:
            self.clicks.append(next_click_center(self.truth, mask, self.clicks))

    def end_click_as(self, value: float, click: Click) -> None:
        """`end_click` where its IoU and the next click (not used when this was the last one) are known already."""
        self._count_click(value)
        if not self.done:
            self.clicks.append(click)

    def end_click_like(self, other: Session) -> None:
        """`end_click` of a session whose mask is that of another one, which has ended its own."""
        self.end_click_as(other.ious[-1], other.clicks[-1])

    def _count_click(self, value: float) -> None:
        self.end_runs()
        self.ious.append(value)
        reached = value >= self.rules.target_iou and not self.rules.full_curve
        self.done = reached or len(self.clicks) == self.rules.max_clicks


class Replay(Refinement):
    """One object under clicks that are given.

    Attributes:
        ious: none, as nobody knows the truth.
        done: no further run is wanted.
    """

    def __init__(
        self,
        image: np.ndarray | Photo,
        size: tuple[int, int],
        given: Sequence[Click],
        cfr: Cfr,
        device: torch.device | str = "cpu",
    ) -> None:
        """`given`: at least one click, in their order; for the rest see `Refinement`."""
        super().__init__(image, size, cfr, device)
        self._given = list(given)
        self.clicks.append(self._given[0])
        self.ious: list[float] = []
        self.done = False

    def end_click(self) -> None:
        """Go on to the next click, or be done."""
        self.end_runs()
        self.done = len(self.clicks) == len(self._given)
        if not self.done:
            self.clicks.append(self._given[len(self.clicks)])

    def end_click_like(self, other: Replay) -> None:
        """`end_click`, as for a `Session`."""
        self.end_click()
