"""Images without masks, by their names: what somebody has clicked."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from pipeline import storage
from pipeline.data.images import checked_size
from pipeline.data.readers.base import fetch
from pipeline.data.schema import Row
from pipeline.errors import BadRow


@dataclass
class PictureReader:
    """Reader of some images of a folder, as rows without objects.

    Attributes:
        names: of the images, below `root`.
    """

    root: str
    names: list[str]
    source: str = "pictures"
    split: str = ""
    left_out: dict[str, int] = field(default_factory=dict)
    understood: Counter[str] = field(default_factory=Counter)

    def items(self) -> list[str]:
        return self.names

    def name_of(self, item: str) -> str:
        return item

    def path_of(self, item: str) -> str:
        return storage.join(self.root, item)

    def read(self, item: str, aside: list[BadRow] | None = None) -> Row:
        data = fetch(self.root, item)
        height, width = checked_size(data)
        return Row(item, data, height, width, [], [], source=self.source)
