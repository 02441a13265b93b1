"""Annotations in OUT: a JSON file of each object is the truth; masks, images and annotations.json are made beside it.

    objects/IMAGE/ID.json   label, clicks, settings, version, run lengths of the mask
    masks/IMAGE/ID.png      the mask, as `jobs.predict` writes it
    images/IMAGE            the image, so that OUT is a data set: `jobs.prepare coco-instances --root OUT`
    done/IMAGE.json         there for an image that somebody has called done
    annotations.json        COCO, written anew soon after a change

Every file is written whole. There is one `Results` of a folder at a time (`engine.lease`, `app`).
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline import storage
from pipeline.errors import Unavailable, UserError, describe
from pipeline.evaluate.exports import ANNOTATIONS, CocoFile, MaskFacts
from pipeline.serve.refusal import Refused
from pipeline.storage.json_files import write_json

SOON = 0.5  # seconds from a change to the next annotations.json
SHARE = 10  # times the seconds that writing it takes, which then pass at least before it is written again
DEFAULT_LABEL = "object"


@dataclass(frozen=True)
class Saved:
    """An object as a client saves it.

    Attributes:
        fields: what its JSON file holds, without number and version.
        png: the whole mask as a PNG.
    """

    fields: Mapping[str, Any]
    png: bytes


class Results:
    """The annotations of a folder. Threads may share it."""

    def __init__(self, out: str) -> None:
        """Go on with what is there.

        Raises:
            UserError: a file below objects/ that is none of ours.
        """
        self.out = storage.absolute(out)
        self._lock = threading.RLock()
        self._objects: dict[str, dict[str, dict[str, Any]]] = {}  # by image and id
        base = len(self._uri("objects", "x")) - 1
        files = storage.list_files(self._uri("objects"), ".json")
        for uri, found in zip(files, storage.map_parallel(_read, files), strict=True):
            name, _, last = uri[base:].rpartition("/")
            self._objects.setdefault(name, {})[last.removesuffix(".json")] = found
        base = len(self._uri("done", "x")) - 1
        self._done = {uri[base:].removesuffix(".json") for uri in storage.list_files(self._uri("done"), ".json")}
        self._changed, self._closed, self._unwritten = threading.Event(), threading.Event(), False
        if self._objects:  # whoever wrote them may have been stopped before the rest
            self._changes()
        self._writer = threading.Thread(target=self._write_soon, name="annotations", daemon=True)
        self._writer.start()

    def _uri(self, *parts: str) -> str:
        return storage.join(self.out, *parts)

    def state(self, name: str) -> tuple[bool, int]:
        """Whether an image is done, and how many objects it has."""
        with self._lock:
            return name in self._done, len(self._objects.get(name, {}))

    def done(self) -> int:
        """Images that are done."""
        with self._lock:
            return len(self._done)

    def objects(self, name: str) -> list[dict[str, Any]]:
        """The objects of an image in the order of their first saving."""
        with self._lock:
            return sorted(self._objects.get(name, {}).values(), key=lambda one: one["number"])

    def image(self, name: str) -> bytes | None:
        """The image of that name in OUT, None where it holds no object of it."""
        with self._lock:
            if name not in self._objects:
                return None
        return storage.read_bytes(self._uri("images", name))

    def save(self, name: str, key: str, saved: Saved, seen: str | None, version: str, image: bytes) -> str:
        """Write an object; returns its version.

        Args:
            seen: version of the object that the client knows, None of a new one.
            version: of what is saved, made by the caller: the same call again is the same saving.
            image: the image's file.

        Raises:
            Refused: somebody else has saved or deleted it meanwhile, or the objects are of another image (409).
        """
        with self._lock:
            before = self._objects.get(name, {}).get(key)
            if before is not None and before["version"] == version:
                return version
            _check_version(before, seen)
            others = {one["image_sha256"] for one in self._objects.get(name, {}).values()}
            if others - {saved.fields["image_sha256"]}:
                raise Refused(409, f"The objects of {name!r} are of another file of that name: rename this one.")
            self._keep_image(name, image, known=bool(others))
            number = before["number"] if before else 1 + max((one["number"] for one in self._all()), default=0)
            record = {"number": number, **saved.fields, "version": version, "mask": f"masks/{name}/{key}.png"}
            storage.write_bytes(self._uri(record["mask"]), saved.png)
            write_json(self._uri("objects", name, f"{key}.json"), record)
            self._objects.setdefault(name, {})[key] = record
        self._changes()
        return version

    def delete(self, name: str, key: str, seen: str | None) -> None:
        """Delete an object; one that is gone already stays gone.

        Raises:
            Refused: somebody else has saved it meanwhile (409).
        """
        with self._lock:
            before = self._objects.get(name, {}).get(key)
            if before is None:
                return
            _check_version(before, seen)
            storage.remove(self._uri("objects", name, f"{key}.json"))
            storage.remove(self._uri(before["mask"]))
            del self._objects[name][key]
            if not self._objects[name]:
                del self._objects[name]
        self._changes()

    def set_done(self, name: str, done: bool) -> None:
        """Call an image done, or open again."""
        uri = self._uri("done", f"{name}.json")
        with self._lock:
            if done:
                write_json(uri, {"done": True})
                self._done.add(name)
            else:
                storage.remove(uri)
                self._done.discard(name)

    def _keep_image(self, name: str, data: bytes, known: bool) -> None:
        """`known`: there are objects of this very file."""
        uri = self._uri("images", name)
        if not storage.exists(uri):
            storage.write_bytes(uri, data)
        elif storage.size_of(uri) != len(data) or (not known and storage.read_bytes(uri) != data):
            raise Refused(409, f"OUT/images holds another file {name!r}: rename this one.")

    def _all(self) -> Iterator[dict[str, Any]]:
        for objects in self._objects.values():
            yield from objects.values()

    def coco(self) -> CocoFile:
        """Everything as COCO, ids in the order of the first saving."""
        with self._lock:
            records = [(name, one) for name, objects in self._objects.items() for one in objects.values()]
        records.sort(key=lambda pair: pair[1]["number"])
        coco = CocoFile(sorted({_label(one) for _, one in records}))
        for name, one in records:
            mask = MaskFacts(one["area"], one["box"], one["segmentation"])
            coco.add(one["number"], name, mask, _label(one), object=one["id"], clicks=one["clicks"])
        return coco

    def close(self) -> None:
        """Write what is not written yet."""
        self._closed.set()
        self._changed.set()
        self._writer.join()

    def _changes(self) -> None:
        self._unwritten = True
        self._changed.set()

    def _write_soon(self) -> None:
        took, closed = 0.0, False
        while not closed:
            self._changed.wait()
            closed = self._closed.wait(max(SOON, SHARE * took))
            self._changed.clear()
            if not self._unwritten:
                continue
            self._unwritten, start = False, time.monotonic()
            try:
                self.coco().write(self._uri(ANNOTATIONS))
            except (UserError, Unavailable) as error:  # a full disk, a store that is away: the objects are kept
                print(f"{ANNOTATIONS} is not written: {describe(error)}", flush=True)
                self._changes()
            took = time.monotonic() - start


def _label(one: Mapping[str, Any]) -> str:
    return one["label"] or DEFAULT_LABEL


def _check_version(before: Mapping[str, Any] | None, seen: str | None) -> None:
    now = before["version"] if before else None
    if now != seen:
        what = "has changed it" if before else "has deleted it"
        text = f"Somebody else {what} meanwhile: load it again, or save yours as a new object."
        raise Refused(409, text, {"version": now})


def _read(uri: str) -> dict[str, Any]:
    try:
        found = json.loads(storage.read_bytes(uri))
        assert {"number", "id", "version", "mask", "image_sha256", "segmentation"} <= found.keys()
    except (ValueError, AssertionError, AttributeError) as error:
        raise UserError(f"{uri} is no object of an annotator: move it away, or choose another --out.") from error
    return found
