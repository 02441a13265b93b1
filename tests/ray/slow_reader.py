"""A reader that takes its time, so that a test can kill its conversion half way."""

from __future__ import annotations

import time

from pipeline.data.readers.coco_lvis import CocoLvisReader, Item
from pipeline.data.schema import Row
from pipeline.errors import BadRow


class Slow(CocoLvisReader):
    """The train split, `seconds` per image."""

    def __init__(self, root: str, seconds: float) -> None:
        super().__init__(root, "train")
        self.seconds = seconds

    def read(self, item: Item, aside: list[BadRow] | None = None) -> Row:
        time.sleep(self.seconds)
        return super().read(item, aside)
