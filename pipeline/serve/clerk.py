"""What all replicas of a server share, in one process: uploaded images, who has what open, and the results."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

from pipeline.serve.holds import Holds
from pipeline.serve.pictures import Kept
from pipeline.serve.results import Results, Saved

UPLOAD_BYTES = 1_000_000_000  # of the image files that are kept for replicas which have not seen them


class Clerk:
    """Threads may share it."""

    def __init__(self, out: str) -> None:
        """`out`: where results go, "" for nowhere."""
        self._out, self._lock = out, threading.Lock()
        self._opened: Results | None = None
        self._holds = Holds()
        self._uploads: Kept[str, bytes] = Kept(UPLOAD_BYTES, len)
        self._news: deque[str] = deque(maxlen=100)

    def ready(self) -> None:
        """Open OUT. (Not in __init__: what it raises there would come as the death of an actor.)

        Raises:
            UserError: it holds something else.
        """
        if self._out:
            _ = self.results

    @property
    def results(self) -> Results:
        assert self._out, "asked for where the server saves"
        with self._lock:
            self._opened = self._opened or Results(self._out)
            return self._opened

    def take(self, sha: str, data: bytes) -> None:
        """Keep an uploaded file."""
        self._uploads.put(sha, data)

    def upload(self, sha: str) -> bytes | None:
        """The bytes of an uploaded file, None where they are not kept any more."""
        return self._uploads.get(sha)

    def hold(self, name: str, client: str, who: str) -> str | None:
        """See `Holds.hold`."""
        return self._holds.hold(name, client, who)

    def overview(self, names: list[str], client: str) -> tuple[int, list[dict[str, Any]]]:
        """How many images are done, and of each named one what a list shows."""
        found = []
        for name in names:
            done, objects = self.results.state(name) if self._out else (False, 0)
            state = "done" if done else "open"
            found.append({"name": name, "state": state, "objects": objects, "holder": self._holds.holder(name, client)})
        return (self.results.done() if self._out else 0), found

    def objects(self, name: str, client: str) -> tuple[list[dict[str, Any]], str | None]:
        """The objects of an image, and who has it open."""
        return self.results.objects(name), self._holds.holder(name, client)

    def image(self, name: str) -> bytes | None:
        """See `Results.image`."""
        return self.results.image(name) if self._out else None

    def save(self, name: str, key: str, saved: Saved, seen: str | None, version: str, image: bytes) -> str:
        """See `Results.save`."""
        return self.results.save(name, key, saved, seen, version, image)

    def delete(self, name: str, key: str, seen: str | None) -> None:
        """See `Results.delete`."""
        self.results.delete(name, key, seen)

    def set_done(self, name: str, done: bool) -> None:
        """See `Results.set_done`."""
        self.results.set_done(name, done)

    def tell(self, line: str) -> None:
        """Have a line printed where the server was started; what replicas print is not seen there."""
        self._news.append("".join(c if c.isprintable() else "?" for c in line[:500]))

    def told(self) -> list[str]:
        """The lines of `tell` since the last call, at most a hundred."""
        return [self._news.popleft() for _ in range(len(self._news))]

    def close(self) -> None:
        """Write what is not written yet."""
        if self._opened:
            self._opened.close()
