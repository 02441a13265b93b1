"""Readers of raw data, one file per family of formats; `open_reader` finds one by the name used on the command line.

A new format is a class with the methods of `base.Reader` and one entry in `SOURCES`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipeline import storage
from pipeline.data.readers.base import Reader, Skipped
from pipeline.data.readers.coco_instances import CocoInstancesReader
from pipeline.data.readers.coco_lvis import CocoLvisReader
from pipeline.data.readers.folder import LAYOUTS, FolderReader
from pipeline.data.readers.merged import MergedReader
from pipeline.data.readers.sbd import SbdReader
from pipeline.data.readers.synthetic import SyntheticReader
from pipeline.data.readers.voc import VocReader
from pipeline.errors import UserError, did_you_mean

__all__ = ["SOURCES", "Reader", "Skipped", "open_reader"]


def _folder(source: str) -> Callable[[str, str, int], Reader]:
    return lambda root, split, seed: FolderReader(root, source=source, split=split)


SOURCES: dict[str, Callable[[str, str, int], Reader]] = {
    "coco-lvis": lambda root, split, seed: CocoLvisReader(root, split or "train"),
    "merged": lambda root, split, seed: MergedReader(root, split or "train"),
    "sbd": lambda root, split, seed: SbdReader(root, split or "train"),
    "voc": lambda root, split, seed: VocReader(root, split or "val"),
    "voc-grey": lambda root, split, seed: VocReader(root, split or "val", source="voc-grey"),
    "coco-instances": lambda root, split, seed: CocoInstancesReader(root, split=split),
    "synthetic": lambda root, split, seed: SyntheticReader(root, split or "train", seed=seed),
    **{name: _folder(name) for name in LAYOUTS},
}


def open_reader(
    source: str,
    root: str,
    split: str = "",
    seed: int = 0,
    scores: str = "",
    *,
    masks: str = "",
    annotations: str = "",
    crowd: str = "",
    exif: str = "",
) -> Reader:
    """Reader of a raw data set.

    Args:
        source: a key of `SOURCES`.
        root: folder or URI in that source's own layout.
        split: "train" or "val" where the source has splits (default: train, of voc val), else "".
        seed: of the pictures that `synthetic` draws.
        masks: of `folder`, what the numbers of mask files mean (`mask_rules.RULES`); "": by their values.
        scores: table that weighs the training images of `sbd`, "" for none.
        annotations, crowd, exif: see `CocoInstancesReader`; "" for its defaults.

    Raises:
        UserError: unknown source, split or option.
    """
    known = source if source in SOURCES else source.lower()
    if known not in SOURCES:
        raise UserError(f"{source!r} is not a known source.{did_you_mean(known, SOURCES)} Known: {', '.join(SOURCES)}.")
    source, root = known, storage.absolute(root)
    coco: dict[str, Any] = {
        name: value for name, value in (("annotations", annotations), ("crowd", crowd), ("exif", exif)) if value
    }
    if coco and source != "coco-instances":
        raise UserError(f"--{' and --'.join(coco)} is for 'coco-instances'; it has no meaning for {source!r}.")
    if coco:
        return CocoInstancesReader(root, split=split, **coco)
    if masks:
        if source not in LAYOUTS:
            raise UserError(f"--masks says what mask files of 'folder' mean; it has no meaning for {source!r}.")
        return FolderReader(root, source=source, split=split, masks=masks)
    if not scores:
        return SOURCES[source](root, split, seed)
    if source != "sbd":
        raise UserError(f"A score table weighs the images of 'sbd'; it has no meaning for {source!r}.")
    return SbdReader(root, split or "train", storage.absolute(scores))
