"""Mask files to numbers in full: whatever a decoder would throw away is kept, or the file is set aside.

A mask may be a grey picture of 1 to 32 bits, a palette, colours, floats that are whole numbers, or the alpha channel of
a picture without content. `read_labels` gives every pixel one number; what the numbers mean is the reader's to say.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from PIL import Image

from pipeline.data.images import check_whole, decode, exif_orientation, orient
from pipeline.errors import BadRow, describe

ALPHA = "mask has a transparency that its colours contradict"
PAGES = "mask has several pages"
FRACTIONS = "mask holds numbers that are not whole"
PALETTE = "mask palette is ambiguous"


@dataclass(frozen=True)
class Labels:
    """The numbers of a mask.

    Attributes:
        values: (H, W) int64. Colours are red << 32 | green << 16 | blue.
        kind: grey (the numbers of the file), palette (indices), colour, or alpha.
        colours: palette only: (N, 3) uint8 RGB of the indices.
        lossy: a JPEG, whose numbers are not exact.
    """

    values: np.ndarray
    kind: Literal["grey", "palette", "colour", "alpha"]
    colours: np.ndarray | None = None
    lossy: bool = False

    def grey(self) -> np.ndarray:
        """(H, W) int64 grey numbers; of a palette, those of its colours.

        Raises:
            BadRow: there are colours.
        """
        if self.kind in ("grey", "alpha"):
            return self.values
        rgb = self.rgb()
        if (rgb != rgb[..., :1]).any():
            raise BadRow("mask is not grey", "its colours are no number of an object")
        return rgb[..., 0].astype(np.int64)

    def rgb(self) -> np.ndarray:
        """(H, W, 3) int64 colours; grey numbers three times."""
        if self.colours is not None:
            return self.colours.astype(np.int64)[self.values]
        if self.kind == "colour":
            return np.stack([self.values >> 32, (self.values >> 16) & 0xFFFF, self.values & 0xFFFF], axis=-1)
        return np.repeat(self.values[..., None], 3, axis=2)

    def indices(self) -> np.ndarray:
        """(H, W) int64 numbers of objects, 0 for the background.

        Raises:
            BadRow: a palette whose entry 0 and whose black are two entries: either may be the background.
        """
        if self.colours is not None:
            used = np.unique(self.values)
            black = [int(i) for i in used if not self.colours[i].any()]
            if len(black) > 1 or (black and black[0] != 0 and 0 in used):
                raise BadRow(PALETTE, f"entry 0 is {self.colours[0].tolist()}, and the entries {black} are black")
            if black and black[0] != 0:
                return np.where(self.values == black[0], 0, self.values)
        return self.values

    def nonzero(self) -> np.ndarray:
        """(H, W) bool: any channel is not 0."""
        return self.values != 0 if self.colours is None else (self.rgb() != 0).any(axis=2)


def read_labels(data: bytes) -> Labels:
    """Decode a mask file without loss.

    Raises:
        BadRow: it does not decode, has several pages, holds fractions, or says two things at once.
    """
    array = decode(data, cv2.IMREAD_UNCHANGED, strict=True, what="mask")
    mode, frames, palette, clear = _header(data)
    if frames > 1:
        raise BadRow(PAGES, f"{frames} pages or pictures in one file: nobody can tell which is meant")
    lossy = data.startswith(b"\xff\xd8")
    turn = exif_orientation(data)
    if mode == "P" and palette is not None:
        return _palette(orient(_indices(data), turn), palette, clear)
    array = orient(_whole_numbers(array), turn)
    if array.ndim == 3 and array.shape[2] in (2, 4):
        colours, alpha = array[..., :-1], array[..., -1]
        return _with_alpha(_colours(colours, lossy), alpha)
    return _colours(array, lossy)


def _header(data: bytes) -> tuple[str, int, np.ndarray | None, np.ndarray]:
    """Pillow's mode, number of pictures, RGB of the palette's entries, and which entries are transparent."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            frames = getattr(image, "n_frames", 1) if image.format != "MPO" else 1
            if image.mode != "P":
                return image.mode, frames, None, np.zeros(0, bool)
            entries = image.getpalette("RGB") or []
            palette = np.array(entries, np.uint8).reshape(-1, 3)
            clear = np.zeros(max(256, len(palette)), bool)
            transparency = image.info.get("transparency")
            if isinstance(transparency, int):
                clear[transparency] = True
            elif isinstance(transparency, bytes):
                clear[: len(transparency)] = np.frombuffer(transparency, np.uint8) < 255
            return image.mode, frames, palette, clear
    except (OSError, ValueError, SyntaxError):  # a form that only OpenCV reads
        return "", 1, None, np.zeros(0, bool)


def _indices(data: bytes) -> np.ndarray:
    try:
        check_whole(data)
        with Image.open(io.BytesIO(data)) as image:
            return np.array(image)
    except (OSError, ValueError, SyntaxError) as error:
        raise BadRow("mask does not decode", describe(error)) from error


def _palette(indices: np.ndarray, palette: np.ndarray, clear: np.ndarray) -> Labels:
    used = np.unique(indices)
    if used[-1] >= len(palette):
        raise BadRow(PALETTE, f"index {used[-1]} has no colour among {len(palette)}")
    gone = [int(i) for i in used if clear[i]]
    if gone and gone != [0] and (palette[gone] != 0).any():
        raise BadRow(ALPHA, f"the palette's entries {gone[:8]} are transparent")
    return Labels(indices.astype(np.int64), "palette", palette)


def _whole_numbers(array: np.ndarray) -> np.ndarray:
    """Integers as int64.

    Raises:
        BadRow: floats that are fractions, NaN or infinite.
    """
    whole = np.isfinite(array) & (array == np.round(array)) & (np.abs(array) < 2**31)
    if not whole.all():
        raise BadRow(FRACTIONS, f"floats such as {array[~whole][0]:g}")
    numbers = array.astype(np.int64)
    if (numbers < 0).any():
        raise BadRow(FRACTIONS, f"numbers below 0, such as {numbers.min()}")
    return numbers


def _colours(array: np.ndarray, lossy: bool) -> Labels:
    """Labels of (H, W), (H, W, 1) or (H, W, 3) BGR numbers."""
    if array.ndim == 2 or array.shape[2] == 1:
        return Labels(array.reshape(array.shape[:2]), "grey", lossy=lossy)
    if (array == array[..., :1]).all():
        return Labels(array[..., 0], "grey", lossy=lossy)
    blue, green, red = (array[..., i] for i in range(3))
    return Labels(red << 32 | green << 16 | blue, "colour", lossy=lossy)


def _with_alpha(labels: Labels, alpha: np.ndarray) -> Labels:
    """The colours, where alpha adds nothing to them; alpha, where the colours hold nothing.

    Raises:
        BadRow: both say something, and not the same.
    """
    if (alpha == alpha.max()).all() or np.array_equal(alpha > 0, labels.values != 0):
        return labels
    if (labels.values == labels.values.flat[0]).all():
        return Labels(alpha, "alpha")
    raise BadRow(ALPHA, f"{np.count_nonzero(alpha == 0)} transparent pixels, some of which have a colour")
