"""The trained models that come with the package: a folder for each, a checkpoint of ours and its model card."""

from __future__ import annotations

from pathlib import Path

from pipeline import storage

FOLDER = Path(__file__).parent
NAMES = tuple(sorted(path.parent.name for path in FOLDER.glob("*/state.json")))


def located(checkpoint: str) -> str:
    """The absolute URI of a checkpoint: of a packaged model where its name is given, a path or URI otherwise.

    A folder of the same name is reached as ./NAME.
    """
    return str(FOLDER / checkpoint) if checkpoint in NAMES else storage.absolute(checkpoint)
