"""Photographs that EXIF turns: by which of its eight orientations a picture was turned when it was decoded."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.data.images import decode, exif_orientation, orient


def orientation_of(data: bytes, shown: np.ndarray) -> int:
    """EXIF orientation (1 to 8) by which `decode_image` turned the stored pixels; 1 when it did not.

    Args:
        data: the encoded picture.
        shown: (H, W, 3) uint8 RGB, the decoded one.
    """
    claimed = exif_orientation(data, unread=0)  # OpenCV may still read what Pillow cannot
    if claimed == 1:
        return 1
    stored = decode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    for orientation in [claimed] if claimed else range(2, 9):
        if np.array_equal(orient(stored, orientation), shown) and (claimed or not np.array_equal(stored, shown)):
            return orientation
    return 1
