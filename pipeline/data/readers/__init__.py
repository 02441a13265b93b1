"""Readers of raw data, one file per family of formats; `open_reader` finds one by the name used on the command line.

A new format is a class with the methods of `base.Reader` and one entry in `SOURCES`.
"""

from __future__ import annotations

from collections.abc import Callable

from pipeline import storage
from pipeline.data.readers.base import Reader, Skipped
from pipeline.data.readers.coco_lvis import CocoLvisReader
from pipeline.data.readers.folder import LAYOUTS, FolderReader
from pipeline.data.readers.synthetic import SyntheticReader
from pipeline.errors import UserError, did_you_mean

__all__ = ["SOURCES", "Reader", "Skipped", "open_reader"]


def _folder(source: str) -> Callable[[str, str, int], Reader]:
    return lambda root, split, seed: FolderReader(root, source=source, split=split)


SOURCES: dict[str, Callable[[str, str, int], Reader]] = {
    "coco-lvis": lambda root, split, seed: CocoLvisReader(root, split or "train"),
    "synthetic": lambda root, split, seed: SyntheticReader(root, split or "train", seed=seed),
    **{name: _folder(name) for name in LAYOUTS},
}


def open_reader(source: str, root: str, split: str = "", seed: int = 0) -> Reader:
    """Reader of a raw data set.

    Args:
        source: a key of `SOURCES`.
        root: folder or URI in that source's own layout.
        split: "train" or "val" where the source has splits (default train), else "".
        seed: of the pictures that `synthetic` draws.

    Raises:
        UserError: unknown source or split.
    """
    if source not in SOURCES:
        raise UserError(
            f"{source!r} is not a known source.{did_you_mean(source, SOURCES)} Known: {', '.join(SOURCES)}."
        )
    return SOURCES[source](storage.absolute(root), split, seed)
