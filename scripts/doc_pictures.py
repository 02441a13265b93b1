"""Draw docs/pictures/clicks.png: a photograph, clicks on it and the masks that the packaged model gives for them.

    python -m scripts.doc_pictures

The six lines of the README are in it, with the clicks that `tests/docs` repeats.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline import Predictor, storage
from pipeline.report.overlay import strip

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"
PHOTOGRAPH = PICTURES / "vase.jpg"
POINTS = [[324, 245], [318, 321], [284, 197], [359, 325], [392, 176], [323, 192], [276, 330]]
LABELS = [1, 1, 0, 1, 1, 0, 1]
COLOURS = 256  # of the palette: a third of the bytes


def drawn() -> np.ndarray:
    """(H, W, 3) uint8: the mask after the first two clicks, and after all of them."""
    predictor = Predictor.load("small", cfr_steps=1, device="cpu")
    predictor.set_image(str(PHOTOGRAPH))
    panels = []
    for count in (2, len(POINTS)):
        predictor.predict(point_coords=POINTS[:count], point_labels=LABELS[:count])
        panels.append(predictor.overlay())
    return strip(panels, [f"{count} clicks" for count in (2, len(POINTS))], height=360)


def main() -> None:
    buffer = io.BytesIO()
    picture = Image.fromarray(drawn()).quantize(COLOURS, dither=Image.Dither.FLOYDSTEINBERG)
    picture.save(buffer, "PNG", optimize=True)
    storage.write_bytes(str(PICTURES / "clicks.png"), buffer.getvalue())
    print(f"{PICTURES / 'clicks.png'}: {len(buffer.getvalue()) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
