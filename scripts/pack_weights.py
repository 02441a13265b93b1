"""A checkpoint of a run as a model that comes with the package: float16 weights, its config without paths.

    python scripts/pack_weights.py RUN_OR_CHECKPOINT NAME

Writes pipeline/weights/NAME/model.safetensors and state.json; the model card beside them is written by hand.
"""

from __future__ import annotations

import sys

from pipeline import storage
from pipeline.model.checkpoints import load_model, write_weights
from pipeline.weights import FOLDER


def main() -> None:
    source, name = sys.argv[1:]
    model, info = load_model(storage.absolute(source))
    size = write_weights(model, info, str(FOLDER / name), half=True)
    print(f"{FOLDER / name}: step {info.step}, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
