"""The folder of images to annotate: its names, and their bytes and thumbnails; nothing outside of it."""

from __future__ import annotations

import os
import threading
import time

import cv2

from pipeline import storage
from pipeline.data.images import decode
from pipeline.errors import BadRow, UserError
from pipeline.serve.pictures import MAX_BYTES, Kept, refusal_of
from pipeline.serve.refusal import Refused
from pipeline.storage import local_files

TYPES = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".bmp": "image/bmp",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".webp": "image/webp",
}
FRESH_SECONDS = 10.0  # after which the folder is listed again
THUMBNAIL = 160  # longest side, pixels
THUMBNAIL_BYTES = 64 * 1024 * 1024  # of all that are kept


class Folder:
    """Images below a folder or prefix, by their paths there.

    Attributes:
        uri: of the folder.
    """

    def __init__(self, uri: str) -> None:
        self.uri = storage.absolute(uri)
        self._lock = threading.Lock()
        self._names: dict[str, None] = {}
        self._listed = -FRESH_SECONDS
        self._thumbnails: Kept[str, bytes] = Kept(THUMBNAIL_BYTES, len)

    def names(self) -> list[str]:
        """Names of all images, sorted."""
        with self._lock:
            if time.monotonic() - self._listed > FRESH_SECONDS:
                found = storage.list_files(self.uri, recursive=True)
                base = len(storage.join(self.uri, "x")) - 1
                names = (uri[base:] for uri in found if _is_image(uri))
                self._names = dict.fromkeys(sorted(name for name in names if name == local_files.printable(name)))
                self._listed = time.monotonic()
            return list(self._names)

    def __contains__(self, name: str) -> bool:
        return name in self._names or name in self.names()

    def read(self, name: str) -> bytes:
        """The bytes of an image.

        Raises:
            Refused: no such image in the folder (404), a link that leads out of it (403), a file too large (413).
        """
        if name not in self:
            raise Refused(404, f"The folder has no image {name!r}: reload the list of images.")
        uri = storage.join(self.uri, name)
        if not storage.is_remote(uri):
            root, path = os.path.realpath(local_files.path_of(self.uri)), os.path.realpath(local_files.path_of(uri))
            if os.path.commonpath([root, path]) != root:
                raise Refused(403, f"{name!r} is a link that leads out of the folder: copy the image there.")
        try:
            if storage.size_of(uri) > MAX_BYTES:
                raise Refused(413, f"{name!r} has more than {MAX_BYTES // 2**20} MiB: shrink it.")
            return storage.read_bytes(uri)
        except UserError as error:
            raise Refused(404, f"The image {name!r} is gone: reload the list of images.") from error

    def thumbnail(self, name: str) -> bytes:
        """JPEG of at most `THUMBNAIL` pixels a side.

        Raises:
            Refused: as of `read`; no image (415), or a broken one (422).
        """
        kept = self._thumbnails.get(name)
        if kept is None:
            kept = thumbnail(self.read(name))
            self._thumbnails.put(name, kept)
        return kept


def _is_image(uri: str) -> bool:
    name = uri.rsplit("/", 1)[-1]
    return not name.startswith(".") and name.lower().endswith(tuple(TYPES))


def type_of(name: str) -> str:
    """Media type of an image by its name."""
    return TYPES[os.path.splitext(name)[1].lower()]


def thumbnail(data: bytes) -> bytes:
    """See `Folder.thumbnail`."""
    try:
        small = decode(data, cv2.IMREAD_REDUCED_COLOR_4)
    except BadRow as bad:
        raise refusal_of(bad) from bad
    height, width = small.shape[:2]
    scale = min(1.0, THUMBNAIL / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    ok, jpeg = cv2.imencode(".jpg", cv2.resize(small, size, interpolation=cv2.INTER_AREA))
    assert ok, "OpenCV encodes every small colour image"
    return jpeg.tobytes()
