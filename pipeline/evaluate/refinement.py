"""The inner loop of CFR-n: what a forward pass of a clicked object looks at, and the maps that it leaves.

n + 1 runs for a click, each fed the probability map of the run before (paper, CFR). Whoever places the clicks
(`evaluate.cfr`, `predict.clicked`) drives it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from pipeline.clicks.encode import Click, encode
from pipeline.config import Cfr
from pipeline.evaluate import zoom

NOWHERE = zoom.Box(0, -1, 0, -1)  # of no pixel: where the map lies before the first run


@dataclass(frozen=True)
class RunInput:
    """Input of one forward pass of one object; K = 2 with the mirror image second, else 1.

    Attributes:
        image: (K, 3, S, S) float32 RGB in [0, 1], on the session's device.
        prev_mask: (K, 1, S, S) float32 probabilities, on the session's device.
        points: (K, 2N, 3) float32, on the CPU.
    """

    image: torch.Tensor
    prev_mask: torch.Tensor
    points: torch.Tensor


class Look(NamedTuple):
    """What a run looks at besides the map of the run before it.

    Two runs of one object with equal looks and the same map before them are the same forward pass.
    """

    roi: zoom.Box
    clicks: tuple[Click, ...]
    crop: int
    flip: bool


class Photo:
    """An image on the device that its crops are made on; the objects of an image may share it.

    Attributes:
        size: (H, W).
    """

    def __init__(self, image: np.ndarray, device: torch.device | str = "cpu") -> None:
        """`image`: (H, W, 3) uint8 RGB, which is not copied on a CPU and must not change."""
        self._pixels = torch.from_numpy(np.ascontiguousarray(image)).to(device)
        self.size = (self._pixels.shape[0], self._pixels.shape[1])

    def crop(self, roi: zoom.Box, side: int) -> torch.Tensor:
        """(1, 3, side, side) float32 in [0, 1] of what a box holds."""
        cut = self._pixels[roi.row_min : roi.row_max + 1, roi.col_min : roi.col_max + 1]
        planes = cut.permute(2, 0, 1).contiguous()  # as bytes: a quarter of the memory to go through
        return zoom.resize(planes.to(torch.float32).div_(255.0), side)


class Refinement:
    """The maps of one object under clicks: the inner loop, whoever places the clicks.

    Attributes:
        clicks: clicks so far, image coordinates.
        forwards: forward passes of each finished click (one counts once, though it may hold the mirror image too).
        rois: the region of interest in force at the last run of each finished click.
        roi: that of the last run, None before the first.
        part: float32 map of the last run inside of `part_roi`; there is nothing outside of it.
        lines: `zoom.lines_of` the foreground of `part`, where somebody has brought it from the device.
        run_ended: the runs of the current click are over, and it is to be ended.
    """

    def __init__(self, image: np.ndarray | Photo, size: tuple[int, int], cfr: Cfr, device: torch.device | str) -> None:
        """Nothing is clicked yet.

        Args:
            image: (H, W, 3) uint8 RGB, or a `Photo` of it on `device`.
            size: (H, W).
            cfr: the inner loop and the zoom-in.
            device: where crops are made and maps are kept.
        """
        self.cfr, self.size = cfr, size
        self.image = image if isinstance(image, Photo) else Photo(image, device)
        self.part, self.part_roi = torch.zeros((0, 0), dtype=torch.float32, device=device), NOWHERE
        self._mask = self.part > cfr.threshold, self.part_roi  # after the last finished click, as part and box
        self.lines: np.ndarray | None = None
        self.clicks: list[Click] = []
        self.forwards: list[int] = []
        self.rois: list[zoom.Box] = []
        self.roi: zoom.Box | None = None
        self.run_ended = False
        self._crop: tuple[zoom.Box, torch.Tensor] | None = None  # the image's crop at a ROI, perhaps with its mirror
        self._runs = 0  # runs of the current click
        self._before: tuple[torch.Tensor, zoom.Box] | None = None  # binary mask of the run before, same click

    @property
    def probability(self) -> torch.Tensor:
        """(H, W) float32 on the device: map of the last run; zeros before the first."""
        return zoom.moved(self.part, self.part_roi, zoom.whole(*self.size))

    @property
    def mask_part(self) -> tuple[torch.Tensor, zoom.Box]:
        """The binary mask after the last finished click inside of a box, on the device; nothing is outside of it."""
        return self._mask

    @property
    def device_mask(self) -> torch.Tensor:
        """(H, W) bool on the device: binary mask after the last finished click."""
        return zoom.moved(*self._mask, zoom.whole(*self.size))

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool: the same on the CPU."""
        return self.device_mask.cpu().numpy()

    def begin(self, probability: torch.Tensor) -> None:
        """Begin with an (H, W) float32 map on the device, and without clicks."""
        self.roi = zoom.whole(*self.size)  # the first pass then looks where the map is, as later ones do
        self._set(probability)
        self._mask = self._binary()

    def foreground_lines(self) -> torch.Tensor:
        """`zoom.lines_of` the foreground of the map, on the device."""
        assert self.roi is not None, "foreground_lines() follows a run"
        return zoom.lines_of(self.part, self.cfr.zoom_threshold, self.part_roi, self.size)

    def look(self) -> Look:
        """Decide the ROI of the next run anew; `cut` makes its input."""
        found = None
        if self.roi is not None:
            lines = self.foreground_lines().cpu().numpy() if self.lines is None else self.lines
            found = zoom.box_of(lines, self.size[0])
        self.roi = zoom.next_roi(self.roi, found, self.clicks, self.size, self.cfr)
        return Look(self.roi, tuple(self.clicks), self.cfr.crop, self.cfr.flip)

    def cut(self, out: tuple[torch.Tensor, torch.Tensor] | None = None) -> RunInput:
        """Cut the input of the run that `look` decided; `out`: the memory its image and map are to lie in."""
        assert self.roi is not None, "cut() follows look()"
        roi, side = self.roi, self.cfr.crop
        images, maps = out or (None, None)
        if self._crop is None or self._crop[0] != roi:
            self._crop = (roi, self.image.crop(roi, side))
        image = self._with_mirror(self._crop[1], images)
        if images is None:
            self._crop = (roi, image)  # mirrored once for all runs that look there
        if zoom.common(self.part_roi, roi) is None:
            prev_mask = self.part.new_zeros((1, 1, side, side))
        else:
            prev_mask = zoom.resize(zoom.moved(self.part, self.part_roi, roi)[None], side)
        clicks = [zoom.scale_click(click, roi, side) for click in self.clicks]
        points = encode(clicks)[None]
        if self.cfr.flip:
            # Mirrored as clicks, not as encoded rows: a click up and left of the crop vanishes, its mirror image need
            # not.
            points = np.concatenate([points, encode([zoom.mirror_click(click, side) for click in clicks])[None]])
        return RunInput(image, self._with_mirror(prev_mask, maps), torch.from_numpy(points))

    def next_input(self) -> RunInput:
        """Decide the ROI anew and cut the input of the next run."""
        self.look()
        return self.cut()

    def _with_mirror(self, maps: torch.Tensor, out: torch.Tensor | None) -> torch.Tensor:
        """(1, C, S, S) maps followed by their mirror image when cfr.flip; maps that have it already stay so."""
        if out is None:
            return torch.cat([maps, maps.flip(3)]) if self.cfr.flip and len(maps) == 1 else maps
        return torch.cat([maps[:1], maps[:1].flip(3)] if self.cfr.flip else [maps], out=out)

    def accept(self, logits: torch.Tensor) -> None:
        """Take the (K, 1, S, S) float32 logits of the run that `next_input` described."""
        self.take(self.paste(logits))

    def paste(self, logits: torch.Tensor) -> torch.Tensor:
        """(K, 1, S, S) float32 logits of the run that `look` decided as the map inside of its ROI."""
        assert self.roi is not None, "paste() follows look()"
        if self.cfr.flip:
            logits = 0.5 * (logits[:1] + logits[1:].flip(3))
        return zoom.resize_back(torch.sigmoid(logits), self.roi)

    def take(self, part: torch.Tensor) -> None:
        """Go on with the map of the run that `look` decided, inside of its ROI; it is kept, never changed."""
        assert not self.run_ended, "a click ends after its last run"
        self._set(part)
        self._runs += 1
        mask = self._binary()
        if self._refine_again(mask):
            self._before = mask
            return
        self._before, self._mask = None, mask
        self.run_ended = True

    def _set(self, part: torch.Tensor) -> None:
        assert self.roi is not None, "a map belongs to a look"
        self.part, self.part_roi, self.lines = part, self.roi, None

    def _refine_again(self, mask: tuple[torch.Tensor, zoom.Box]) -> bool:
        if len(self.clicks) > self.cfr.clicks or self._runs > self.cfr.steps:
            return False
        if self.cfr.adaptive and self._before is not None:
            both = zoom.around(mask[1], self._before[1])
            changed = int((zoom.moved(*mask, both) != zoom.moved(*self._before, both)).sum())
            return changed > self.cfr.adaptive_pixels
        return True

    def resume(self, roi: zoom.Box, logits: torch.Tensor, part: torch.Tensor | None = None) -> None:
        """Be as after a finished click whose last run had this ROI and these logits; `part`: its map, if it is kept."""
        self.roi = roi
        self._set(self.paste(logits) if part is None else part)
        self._mask = self._binary()

    def _binary(self) -> tuple[torch.Tensor, zoom.Box]:
        """The map above the threshold, inside of its box."""
        return self.part > self.cfr.threshold, self.part_roi

    def end_runs(self) -> None:
        """The click that ended is counted; the next one may come."""
        assert self.run_ended and self.roi is not None, "a click ends after its last run"
        self.forwards.append(self._runs)
        self.rois.append(self.roi)
        self._runs, self.run_ended = 0, False
