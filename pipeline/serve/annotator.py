"""What the annotator does when it is asked: images found by their hash, masks, and objects saved by their clicks."""

from __future__ import annotations

import re
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pipeline.clicks.encode import Click
from pipeline.evaluate.exports import MaskFacts
from pipeline.evaluate.results import encode_mask
from pipeline.serve.clerk import Clerk
from pipeline.serve.clicker import Answer, Clicker
from pipeline.serve.folder import Folder
from pipeline.serve.pictures import Picture, read_picture, sha_of
from pipeline.serve.refusal import Refused
from pipeline.serve.results import Saved

UPLOAD = re.compile(r"upload-[0-9a-f]{16}\.[a-z]{3,4}")
KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")
WAITING = 24  # clicks that may be in work or wait in one process; the next one is refused
READING = 4  # images that may be read or written at a time: each takes up to half a gigabyte


class Gate:
    """Lets so many in at a time, and refuses the next one."""

    def __init__(self, most: int, what: str = "clicks") -> None:
        self._most, self._what, self._inside = most, what, 0
        self._lock = threading.Lock()

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Raises: Refused: too many are inside (429)."""
        with self._lock:
            if self._inside >= self._most:
                raise Refused(429, f"Too many {self._what} are waiting: try again in a second.")
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1


@dataclass(frozen=True)
class Asked:
    """An object that a client has clicked.

    Attributes:
        image: SHA-256 of its file.
        name: in the folder, or of an upload in the results; None of an image without a name.
        steps, adaptive: of CFR; None: as the server was started.
    """

    image: str
    name: str | None
    clicks: Sequence[Click]
    steps: int | None = None
    adaptive: bool | None = None


@dataclass(frozen=True)
class Annotator:
    """What answers requests. Threads may share it.

    Attributes:
        folder: of images to annotate, None without.
        saves: whether objects are saved.
        checkpoint: as people call it, and its SHA-256.
    """

    clicker: Clicker
    clerk: Clerk
    folder: Folder | None
    saves: bool
    checkpoint: tuple[str, str]
    gate: Gate = field(default_factory=lambda: Gate(WAITING))
    uploads: Gate = field(default_factory=lambda: Gate(READING, "images"))

    def upload(self, data: bytes) -> Picture:
        """Take an image file; see `read_picture`. Raises: Refused: too many wait (429)."""
        with self.uploads.entered():
            picture = read_picture(data)
            self.clicker.show(picture)
        self.clerk.take(picture.sha, data)
        return picture

    def image(self, name: str) -> bytes:
        """The file of an image of the folder, or of an upload that has results.

        Raises:
            Refused: there is none, or it may not be read.
        """
        if UPLOAD.fullmatch(name) and (data := self.clerk.image(name)) is not None:
            return data
        return self.images.read(name)

    @property
    def images(self) -> Folder:
        """Raises: Refused: the server has no folder (404)."""
        if self.folder is None:
            raise Refused(404, "This server has no folder of images: start it with --images FOLDER.")
        return self.folder

    def picture(self, sha: str, name: str | None) -> Picture:
        """An image that a client names by its hash.

        Raises:
            Refused: it has to be sent again (404, upload), or the folder has another one of that name (409).
        """
        found = self.clicker.picture(sha)
        if found is not None:
            return found
        data = self.clerk.upload(sha)
        if data is None and name is not None and (self.folder is not None or UPLOAD.fullmatch(name)):
            try:
                data = self.image(name)
            except Refused as refused:
                if not UPLOAD.fullmatch(name):
                    raise
                raise _again() from refused
            if sha_of(data) != sha:
                raise Refused(409, f"{name!r} has changed in the folder: open it again.")
        if data is None:
            raise _again()
        found = read_picture(data)
        self.clicker.show(found)
        return found

    def shown(self, sha: str, name: str | None) -> bytes:
        """An image as PNG; see `picture`. Raises: Refused: too many wait (429)."""
        with self.uploads.entered():
            return self.picture(sha, name).png()

    def answer(self, asked: Asked) -> Answer:
        """The mask of clicks.

        Raises:
            Refused: see `picture` and `Clicker.answer`; too many wait (429).
        """
        with self.gate.entered():
            picture = self.picture(asked.image, asked.name)
            return self.clicker.answer(picture, asked.clicks, asked.steps, asked.adaptive)

    def check_name(self, name: str) -> None:
        """Raises: Refused: neither an image of the folder nor an upload (404)."""
        if not UPLOAD.fullmatch(name) and name not in self.images:
            raise Refused(404, f"The folder has no image {name!r}: reload the list of images.")

    def check_saves(self, name: str, key: str = "-") -> None:
        """Raises: Refused: nothing is saved here, or not under such names (400, 404)."""
        if not self.saves:
            raise Refused(404, "This server saves nothing: start it with --out FOLDER.")
        self.check_name(name)
        if not KEY.fullmatch(key):
            raise Refused(400, "The id of an object is 1 to 64 letters, digits, - and _.")

    def save(self, asked: Asked, key: str, label: str, seen: str | None) -> str:
        """Save an object by its clicks; returns its version.

        Raises:
            Refused: see `answer`, `check_saves` and `Results.save`; an object without clicks or mask (400).
        """
        name = asked.name
        assert name is not None
        self.check_saves(name, key)
        answer = self.answer(asked)
        picture = self.picture(asked.image, name)
        if UPLOAD.fullmatch(name) and name != picture.upload_name:
            raise Refused(400, f"The name of this image is {picture.upload_name}.")
        if not answer.box[2]:
            raise Refused(400, "The object has no pixel: click it first, or delete it.")
        mask = MaskFacts.of(answer.mask)
        fields = {
            "id": key,
            "label": label,
            "clicks": [{"x": float(c.col), "y": float(c.row), "positive": c.positive} for c in asked.clicks],
            "steps": answer.steps,
            "adaptive": answer.adaptive,
            "box": list(answer.box),
            "png": answer.png,
            "width": picture.size[1],
            "height": picture.size[0],
            "image_sha256": picture.sha,
            "checkpoint": self.checkpoint[0],
            "checkpoint_sha256": self.checkpoint[1],
            "saved": datetime.now(UTC).isoformat(timespec="seconds"),
            "score": round(answer.score, 4),
            "area": mask.area,
            "segmentation": mask.segmentation,
        }
        version = uuid.uuid4().hex
        return self.clerk.save(name, key, Saved(fields, encode_mask(answer.mask)), seen, version, picture.data)


def _again() -> Refused:
    return Refused(404, "The image is not known here (any more): send it again.", {"upload": True})
