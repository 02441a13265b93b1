"""What the numbers of a mask mean: rules of published layouts, and what the values themselves tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from pipeline.data.mask_files import Labels
from pipeline.data.masks import Region, region
from pipeline.errors import BadRow

IGNORE = 128
VOID = 255
VOC_VOID = 224 << 32 | 224 << 16 | 192  # colour of what PASCAL VOC leaves undecided
MOST_OBJECTS = 1000  # numbers or colours of one mask; more is a photograph, or a lossy file
STRAY_SHARE = 0.01  # of an object's pixels that a published mask may show in some channels only
STRAY_PIXELS = 16  # and at most so many that a mask of people's own may have
SOFT_SHARE = 0.05  # of pixels that are neither black nor white, up to which a mask has soft edges
NEAR = 40  # numbers that count as black or white in a lossy file

EMPTY = "object with no pixels"
UNCLEAR = "mask can be read in two ways"
NO_NUMBERS = "mask holds no numbers of objects"

Rule = Literal["auto", "trimap", "nonzero", "components", "values"]
RULES = {
    "one": "all that is not 0 is one object",
    "trimap": "255 is the object, 128 is ignored",
    "ids": "each number or colour but 0 is an object",
    "ids-void": "the same, but 255 (or VOC's beige) is ignored",
}
"""What `jobs.prepare folder --masks` takes."""


@dataclass(frozen=True)
class Found:
    """Objects of one mask.

    Attributes:
        ignored: (H, W) bool, or None.
        understood: what the mask was taken for, for the last lines of a job.
    """

    regions: list[Region]
    ignored: np.ndarray | None
    understood: str


def objects_of(labels: Labels, rule: str) -> Found:
    """Objects of a mask by a rule of `Rule` or `RULES`.

    Raises:
        BadRow: there are none, or the mask holds what the rule would throw away.
    """
    if rule == "auto":
        rule, text = understand(labels)
    else:
        text = RULES.get(rule, f"mask by the rule of its layout ({rule})")
    ignored: np.ndarray | None = None
    if rule == "trimap":
        blue = _blue(labels)
        regions, ignored = _one(blue > IGNORE), blue == IGNORE
    elif rule == "soft":
        regions = _one(labels.grey() >= 128)
    elif rule in ("one", "nonzero"):
        regions = _one(labels.nonzero())
    elif rule == "components":
        count, parts = cv2.connectedComponents(labels.nonzero().astype(np.uint8), connectivity=8)
        regions = _each(parts, list(range(1, count)))
    elif rule == "values":
        grey = labels.indices() if labels.kind == "palette" else labels.grey()
        regions = _each(grey, _numbers(grey))
    else:
        void = _void(labels) if rule == "ids-void" else None
        indices = labels.indices()
        regions = _each(indices, [n for n in _numbers(indices) if n != void])
        ignored = None if void is None else labels.values == void
    if not regions:
        raise BadRow(EMPTY, f"it holds the values {shown(labels)}")
    return Found(regions, ignored, text)


def understand(labels: Labels) -> tuple[str, str]:
    """The rule that the values of a mask leave no doubt about, and its description.

    0/1, 0/255 and any other single number: one object. 0/128/255: with 128 ignored. Several numbers, palette entries
    or colours: one object each; VOC's beige beside VOC's other colours is ignored. Soft edges and JPEG noise around
    black and white: cut at 128.

    Raises:
        BadRow: two readings are possible (a 255 beside other numbers), or none is.
    """
    values, counts = np.unique(labels.indices(), return_counts=True)
    if labels.lossy or (labels.kind in ("grey", "alpha") and len(values) > 8):
        return _soft(labels, values, counts)
    numbers = [int(v) for v in values if v]
    if not numbers:
        raise BadRow(EMPTY, "it holds 0 only")
    if len(numbers) > MOST_OBJECTS:
        raise BadRow(NO_NUMBERS, f"{len(numbers)} numbers or colours: a photograph, perhaps")
    if labels.kind in ("grey", "alpha"):
        if numbers == [IGNORE]:
            raise BadRow(UNCLEAR, "128 alone is an object, or a mask with ignored pixels only: say it with --masks")
        if numbers == [IGNORE, VOID]:
            return "trimap", "0/128/255 as one object each, 128 ignored"
        if len(numbers) == 1:
            return "ids", f"0/{numbers[0]} as one object each"
        if VOID in numbers and numbers[-1] == VOID:
            raise BadRow(
                UNCLEAR,
                f"it holds {shown(labels)}: 255 is an object (--masks ids) or to be ignored (--masks ids-void)",
            )
        return "ids", "several numbers, one object each"
    if labels.kind == "colour" and _is_stray(labels, values, counts):
        return "trimap", "0/255 as one object each, with a few pixels of stray colours"
    void = _void(labels)
    if void is not None and void in numbers and len(numbers) > 1:
        return "ids-void", f"{labels.kind} of PASCAL VOC, one object each, beige ignored"
    return "ids", f"{labels.kind}, one object for each {'colour' if labels.kind == 'colour' else 'entry'}"


def _is_stray(labels: Labels, values: np.ndarray, counts: np.ndarray) -> bool:
    """Whether a black and white mask has a few pixels of colours, as one of Berkeley's has: no objects."""
    white = VOID << 32 | VOID << 16 | VOID
    stray = counts[(values != 0) & (values != white)].sum()
    return bool(stray <= min(STRAY_PIXELS, STRAY_SHARE * counts[values == white].sum()))


def _soft(labels: Labels, values: np.ndarray, counts: np.ndarray) -> tuple[str, str]:
    """Black and white with something between, or many numbers."""
    if labels.kind == "colour":
        raise BadRow(NO_NUMBERS, "colours of a JPEG are not exact: save masks as PNG")
    edge = (values > NEAR) & (values < VOID - NEAR) if labels.lossy else (values > 0) & (values < VOID)
    between = counts[edge].sum() / counts.sum()
    if values[-1] <= VOID and values[-1] >= VOID - NEAR and values[0] <= NEAR and between <= SOFT_SHARE:
        return "soft", "black and white with soft edges, from 128 up as one object each"
    if labels.lossy:
        raise BadRow(NO_NUMBERS, "grey values of a JPEG are not exact: save masks as PNG")
    if values[-1] == VOID:
        raise BadRow(UNCLEAR, "255 beside many numbers: an object (--masks ids) or to be ignored (--masks ids-void)")
    if len(values) > MOST_OBJECTS:
        raise BadRow(NO_NUMBERS, f"{len(values)} grey values: a photograph, perhaps")
    return "ids", "several numbers, one object each"


def _void(labels: Labels) -> int | None:
    """The number that stands for undecided pixels; None where it cannot be told."""
    if labels.kind == "colour":
        return VOC_VOID
    if labels.colours is None:
        return VOID
    beige = (labels.colours == [224, 224, 192]).all(axis=1).nonzero()[0]
    return VOID if len(labels.colours) > VOID and VOID in beige else None


def shown(labels: Labels) -> str:
    """The first numbers of a mask, colours as (red, green, blue)."""
    values = np.unique(labels.values)[:8].tolist()
    if labels.kind != "colour":
        return str(values)
    return ", ".join(f"({v >> 32}, {(v >> 16) & 0xFFFF}, {v & 0xFFFF})" for v in values)


def _numbers(values: np.ndarray) -> list[int]:
    numbers = [int(v) for v in np.unique(values) if v]
    if len(numbers) > MOST_OBJECTS:
        raise BadRow(NO_NUMBERS, f"{len(numbers)} numbers: a photograph, perhaps")
    return numbers


def _blue(labels: Labels) -> np.ndarray:
    """(H, W) blue, which is what the published readers look at; some of Berkeley's masks have a few stray colours.

    Raises:
        BadRow: the channels tell of different objects, or there are more than 8 bits.
    """
    rgb = labels.rgb()
    if rgb.max(initial=0) > VOID:
        raise BadRow("mask holds numbers beyond 8 bits", f"up to {rgb.max()}")
    marked = rgb > IGNORE
    if (marked != marked[..., 2:]).any(axis=2).sum() > STRAY_SHARE * max(1, marked.any(axis=2).sum()):
        raise BadRow("mask is not grey", f"its channels differ: {shown(labels)}")
    return rgb[..., 2]


def _one(mask: np.ndarray) -> list[Region]:
    found = region(mask)
    return [] if found is None else [found]


def _each(values: np.ndarray, numbers: list[int]) -> list[Region]:
    return [found for number in numbers if (found := region(values == number)) is not None]
