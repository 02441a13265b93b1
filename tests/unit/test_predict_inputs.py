"""Images that `pipeline.Predictor` takes: whatever the kind, the same picture."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from pipeline import Predictor
from pipeline.config import Cfr
from tests.made import SIDE, small_model

MODEL = small_model()


def test_images_of_every_kind_are_the_same_picture(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # shown a quarter turn clockwise
    Image.fromarray(pixels).save(buffer, "PNG", exif=exif)
    (tmp_path / "turned.png").write_bytes(buffer.getvalue())
    turned = np.rot90(pixels, -1)
    for given_image in (
        buffer.getvalue(),
        str(tmp_path / "turned.png"),
        tmp_path / "turned.png",
        f"file://{tmp_path / 'turned.png'}",
        Image.open(tmp_path / "turned.png"),
    ):
        predictor = Predictor(MODEL, Cfr(crop=SIDE))
        predictor.set_image(given_image)
        assert np.array_equal(predictor.overlay(), turned)
    predictor.set_image(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), "BGR")
    assert np.array_equal(predictor.overlay(), pixels)
    assert predictor.click(10, 10).shape == (40, 60)
    assert not np.array_equal(predictor.overlay(), pixels)
