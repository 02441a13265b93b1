"""A request that is not carried out: the HTTP status, and one sentence that says what to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Refused(Exception):
    """Answered with `status` and {"error": text, ...}.

    Attributes:
        more: further entries of the answer, such as {"upload": true}.
    """

    def __init__(self, status: int, text: str, more: Mapping[str, Any] | None = None) -> None:
        super().__init__(status, text, more)
        self.status, self.text, self.more = status, text, more or {}

    @property
    def content(self) -> dict[str, Any]:
        return {"error": self.text, **self.more}
