"""The kinds of failure that are not bugs: a user's mistake, storage or machines that are away, a bad row of data."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import TypeVar

E = TypeVar("E", bound=Exception)


class UserError(Exception):
    """A mistake that the user can mend: one message saying what is wrong and what to do.

    Jobs print the message without a traceback and exit with code 2 (`pipeline.engine.main`).
    """


class Unavailable(Exception):
    """Something outside that the job needs is away, however long it was waited for; later it may be back.

    Not a user's mistake: what can be repeated is (as after the loss of a training worker); in the end it is one message
    and exit code 1, and the same command continues.
    """


class StorageUnavailable(Unavailable):
    """Storage that does not answer, or breaks off, however often it is asked."""


class BadRow(Exception):
    """One image (or one object of it) that cannot be used; it is set aside, counted by `reason` and listed.

    Attributes:
        reason: short fixed phrase used for counting, e.g. "image does not decode".
        detail: what exactly was seen; free text.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ' Did you mean X?' for the nearest of `known`, or an empty string when nothing is near.

    Among words that are equally near by their letters, the one whose number is nearest (noc90 for noc91).
    """
    names = list(known)
    near = difflib.get_close_matches(word, names, n=max(1, len(names)))

    def distance(name: str) -> tuple[float, int]:
        letters = difflib.SequenceMatcher(None, name, word).ratio()
        numbers = [re.findall(r"\d+", text) for text in (word, name)]
        apart = sum(abs(int(a) - int(b)) for a, b in zip(*numbers, strict=False))
        return -letters, apart

    return f" Did you mean {min(near, key=distance)!r}?" if near else ""


def describe(error: BaseException, most: int = 300) -> str:
    """An error in one line of at most so many characters, without the addresses of objects in memory."""
    text = re.sub(r"<([\w.]+) object at 0x[0-9a-f]+>", r"<\1>", " ".join(str(error).split()))
    return f"{type(error).__name__}: {text}"[:most]


def user_error_in(error: BaseException | None) -> UserError | None:
    """The UserError inside an exception that crossed a Ray task, or None."""
    return error_in(error, UserError)


def error_in(error: BaseException | None, kind: type[E]) -> E | None:
    """The error of a kind inside an exception that crossed a Ray task or a thread, or None."""
    seen: set[int] = set()
    stack = [error]
    while stack:
        e = stack.pop()
        if e is None or id(e) in seen:
            continue
        seen.add(id(e))
        if isinstance(e, kind):
            return kind(*getattr(getattr(e, "cause", e), "args", e.args))
        stack += [e.__cause__, e.__context__]
        stack += [getattr(e, name, None) for name in ("cause", "_base_exc")]  # of Ray's wrappers
        stack += list(getattr(e, "worker_failures", {}).values())
    return None
