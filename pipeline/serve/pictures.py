"""Images by the hash of their bytes: read without trusting them, and the last ones kept decoded."""

from __future__ import annotations

import hashlib
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import cv2
import numpy as np

from pipeline.data.images import MAX_PIXELS, decode_image
from pipeline.errors import BadRow
from pipeline.serve.refusal import Refused

K = TypeVar("K")
V = TypeVar("V")

MAX_BYTES = 64 * 1024 * 1024  # of an image file
KINDS = {"jpg": rb"\xff\xd8\xff", "png": rb"\x89PNG", "webp": rb"RIFF....WEBP", "bmp": rb"BM", "tif": rb"II\*\0|MM\0\*"}


@dataclass(frozen=True)
class Picture:
    """A decoded image.

    Attributes:
        sha: SHA-256 of the file, hexadecimal.
        data: the file.
        pixels: (H, W, 3) uint8 RGB, turned as EXIF says.
    """

    sha: str
    data: bytes
    pixels: np.ndarray

    @property
    def upload_name(self) -> str:
        """What results call it where it is of no folder."""
        return f"upload-{self.sha[:16]}.{kind_of(self.data)}"

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def png(self) -> bytes:
        """The pixels as a PNG file, quickly rather than small."""
        bgr = cv2.cvtColor(self.pixels, cv2.COLOR_RGB2BGR)
        ok, data = cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        assert ok, "OpenCV encodes every colour image"
        return data.tobytes()


def kind_of(data: bytes) -> str:
    """One of `KINDS`, by the file's first bytes; "" for others."""
    return next((kind for kind, start in KINDS.items() if re.match(start, data, re.DOTALL)), "")


def sha_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read_picture(data: bytes) -> Picture:
    """The image of a file's bytes.

    Raises:
        Refused: too large (413), no image (415), or a broken one (422).
    """
    if len(data) > MAX_BYTES:
        raise Refused(413, f"The file has {len(data) / 2**20:.0f} MiB; at most {MAX_BYTES // 2**20} are taken.")
    if not kind_of(data):
        raise Refused(415, "This is no image that can be read: choose a JPEG, PNG, WebP, BMP or TIFF file.")
    try:
        return Picture(sha_of(data), data, decode_image(data, strict=True))
    except BadRow as bad:
        raise refusal_of(bad) from bad


def refusal_of(bad: BadRow) -> Refused:
    """What a client is told of an image that does not decode."""
    if "too many pixels" in bad.reason:
        return Refused(413, f"The image has more than {MAX_PIXELS // 10**6} megapixels ({bad.detail}): shrink it.")
    return Refused(422, f"The image is damaged ({bad.reason}): open it elsewhere and save it again.")


class Kept(Generic[K, V]):
    """The values used last, up to so many bytes; at least one. Threads may share it."""

    def __init__(self, most: int, size: Callable[[V], int]) -> None:
        self.most, self._size = most, size
        self._values: OrderedDict[K, V] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: K, value: V) -> None:
        with self._lock:
            if key in self._values:
                self._bytes -= self._size(self._values.pop(key))
            self._values[key] = value
            self._bytes += self._size(value)
            while self._bytes > self.most and len(self._values) > 1:
                self._bytes -= self._size(self._values.popitem(last=False)[1])
