"""Decoding: what OpenCV gives for good files of every kind, and a BadRow for bad ones."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.data.images import MAX_PIXELS, checked_size, decode_image, decode_sample, header_size
from pipeline.data.schema import ObjectInfo, Row, encode_map
from pipeline.errors import BadRow

RGB = np.random.default_rng(0).integers(0, 256, (48, 70, 3), np.uint8)
SMOOTH = cv2.resize(RGB, (700, 480), interpolation=cv2.INTER_CUBIC)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(**options: object) -> bytes:
    return saved(Image.fromarray(SMOOTH), "JPEG", quality=90, **options)


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


KINDS = {
    "jpeg": jpeg(),
    "progressive": jpeg(progressive=True),
    "restart markers": jpeg(restart_marker_blocks=4),
    "rotated": jpeg(exif=exif(6)),
    "mirrored": jpeg(exif=exif(2)),
    "grey jpeg": saved(Image.fromarray(SMOOTH[..., 0]), "JPEG"),
    "cmyk": saved(Image.fromarray(SMOOTH).convert("CMYK"), "JPEG"),
    "png": saved(Image.fromarray(RGB), "PNG"),
    "alpha": saved(Image.fromarray(RGB).convert("RGBA"), "PNG"),
    "palette": saved(Image.fromarray(RGB).convert("P"), "PNG"),
    "16 bit": cv2.imencode(".png", RGB.astype(np.uint16) * 257)[1].tobytes(),
    "16 bit grey": cv2.imencode(".png", RGB[..., 0].astype(np.uint16) * 257)[1].tobytes(),
    "bmp": saved(Image.fromarray(RGB), "BMP"),
    "tiff": saved(Image.fromarray(RGB), "TIFF"),
    "webp": saved(Image.fromarray(RGB), "WEBP", lossless=True),
}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_good_files_as_opencv_reads_them(kind: str, strict: bool) -> None:
    data = KINDS[kind]
    image = decode_image(data, strict)
    assert image.dtype == np.uint8 and image.shape[2] == 3
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert expected is not None
    np.testing.assert_array_equal(image, expected[..., ::-1])


def test_orientation_is_applied() -> None:
    assert header_size(KINDS["rotated"]) == (480, 700)
    assert decode_image(KINDS["rotated"]).shape == (700, 480, 3)


def verdict(size: Callable[[bytes], tuple[int, ...]], data: bytes) -> tuple[int, ...] | str:
    try:
        return size(data)
    except BadRow as bad:
        return str(bad)


@given(
    st.sampled_from(sorted(KINDS)), st.integers(0, 8), st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1)
)
@settings(max_examples=40, deadline=None)
@pytest.mark.filterwarnings("ignore")
def test_the_checked_size_is_that_of_the_strictly_decoded_image(
    kind: str, turn: int, height: int, width: int, seed: int
) -> None:
    """Of whole files, of files cut and closed again, and of files with other bytes somewhere."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(RGB[:height, :width] if seed % 2 else np.full((height, width, 3), 9, np.uint8))
    for data in (KINDS[kind], saved(small, "JPEG", exif=exif(turn)), saved(small, "JPEG", progressive=True)):
        cut = data[: int(rng.integers(2, len(data)))]
        other = bytearray(data)
        other[int(rng.integers(len(data)))] = int(rng.integers(256))
        for case in (data, cut, cut + b"\xff\xd9", bytes(other)):
            expected = verdict(lambda data: decode_image(data, strict=True).shape[:2], case)
            assert verdict(checked_size, case) == expected


def test_16_bits_become_8() -> None:
    np.testing.assert_array_equal(decode_image(KINDS["16 bit"]), RGB[..., ::-1])


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep", [0.0, 0.01, 0.3, 0.6, 0.9, 0.995])
def test_cut_files_are_refused(kind: str, keep: float) -> None:
    data = KINDS[kind]
    with pytest.raises(BadRow, match="image does not decode"):
        decode_image(data[: int(len(data) * keep)], strict=True)


@pytest.mark.parametrize("kind", [k for k in KINDS if KINDS[k].startswith(b"\xff\xd8")])
@pytest.mark.parametrize("keep", [0.3, 0.6, 0.95])
def test_cut_jpeg_closed_with_an_end_marker_is_refused(kind: str, keep: float) -> None:
    data = KINDS[kind]
    closed = data[: int(len(data) * keep)].rstrip(b"\xff") + b"\xff\xd9"
    with pytest.raises(BadRow, match="image does not decode"):
        decode_image(closed, strict=True)


def test_bytes_after_the_end_marker_do_no_harm() -> None:
    data = KINDS["jpeg"] + b"trailer" * 10
    np.testing.assert_array_equal(decode_image(data, strict=True), decode_image(KINDS["jpeg"]))


def test_photographs_are_whole(sample: Path) -> None:
    for path in sorted((sample / "train2017").iterdir()):
        decode_image(path.read_bytes(), strict=True)


def claiming_png(height: int, width: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")


def claiming_jpeg(height: int, width: int) -> bytes:
    data = bytearray(KINDS["jpeg"])
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    "data",
    [
        claiming_png(40_000, 40_000),
        claiming_jpeg(60_000, 60_000),
        b"P6 50000 50000 255\n" + bytes(100),
        b"BM" + bytes(12) + struct.pack("<Iii", 40, 30_000, 30_000) + struct.pack("<HH", 1, 24) + bytes(60),
    ],
    ids=["png", "jpeg", "ppm", "bmp"],
)
def test_claims_of_many_pixels_are_refused_before_decoding(data: bytes, strict: bool) -> None:
    assert header_size(claiming_png(40_000, 40_000)) == (40_000, 40_000)
    with pytest.raises(BadRow, match="claims too many pixels"):
        decode_image(data, strict)
    assert 640 * 480 < MAX_PIXELS < 40_000**2


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8\xff", b"GIF89a", b"not an image", b"\x89PNG\r\n\x1a\n"])
def test_other_bytes_are_refused(data: bytes) -> None:
    for strict in (False, True):
        with pytest.raises(BadRow, match="image does not decode"):
            decode_image(data, strict)


def test_decode_sample() -> None:
    layer = np.zeros((48, 70), np.uint8)
    layer[5:9, 10:30] = 1
    layer[20:30, 3:8] = 2
    ignore = np.zeros((48, 70), np.uint8)
    ignore[0, :] = 7
    objects = [ObjectInfo(0, 1, -1, 80), ObjectInfo(0, 2, -1, 50)]
    row = Row("a", KINDS["png"], 48, 70, [encode_map(layer)], objects, encode_map(ignore))
    decoded = decode_sample(row)
    np.testing.assert_array_equal(decoded.image, RGB)
    np.testing.assert_array_equal(decoded.layers, layer[None])
    assert decoded.ignore is not None and decoded.ignore.sum() == 70 and decoded.image_id == "a"
    assert decoded.target(1)[0, 0] == -1 and (decoded.target(1) == 1).sum() == 50


def test_decode_sample_without_objects() -> None:
    decoded = decode_sample(Row("a", KINDS["png"], 48, 70, [], []))
    assert decoded.layers.shape == (0, 48, 70) and decoded.ignore is None


def test_decode_sample_refuses_masks_that_do_not_fit() -> None:
    with pytest.raises(BadRow, match="another size"):
        decode_sample(Row("a", KINDS["png"], 48, 70, [encode_map(np.zeros((48, 71), np.uint8))], []))
    with pytest.raises(BadRow, match="mask does not decode"):
        decode_sample(Row("a", KINDS["png"], 48, 70, [b"junk"], []))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_give_an_image_or_a_bad_row(kind: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(25):
        data = bytearray(KINDS[kind])
        for at in rng.integers(24, min(len(data), 400), 6):  # behind the size that a PNG claims
            data[at] = rng.integers(256)
        with contextlib.suppress(BadRow):
            assert decode_image(bytes(data), strict=True).ndim == 3
