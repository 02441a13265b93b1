"""Encoded images to arrays, without trusting the file: size checked first, truncation detected on request."""

from __future__ import annotations

import contextlib
import io
import struct

import cv2
import numpy as np
from PIL import Image

from pipeline.data.schema import Row, Sample, decode_map
from pipeline.errors import BadRow, describe

MAX_PIXELS = 100_000_000
"""Images that claim more are refused before decoding: a file of some kilobytes can ask for gigabytes of memory."""

_JPEG_START, _PNG_START, _JPEG_END = b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"\xff\xd9"
_NOT_FRAMES = {0xC4, 0xC8, 0xCC}  # markers among C0..CF that are no frame header: tables, reserved, arithmetic coding
_ORIENTATION = 0x0112  # EXIF tag
# Orientation to (rows and columns exchanged, step along rows, step along columns) of what is displayed.
_TURNS = {
    1: (False, 1, 1),
    2: (False, 1, -1),
    3: (False, -1, -1),
    4: (False, -1, 1),
    5: (True, 1, 1),
    6: (True, 1, -1),
    7: (True, -1, -1),
    8: (True, -1, 1),
}
_JUNK = bytes(range(1, 97))  # no 0xFF inside: cannot be taken for a marker


def header_size(data: bytes) -> tuple[int, int]:
    """(height, width) that the file's header claims, before any rotation; nothing is decoded.

    Raises:
        ValueError, OSError: the header is not that of an image.
    """
    if data.startswith(_JPEG_START):
        return _jpeg_size(data)
    if data.startswith(_PNG_START) and len(data) >= 24:
        width, height = struct.unpack(">II", data[16:24])
        return height, width
    with Image.open(io.BytesIO(data)) as image:
        return image.height, image.width


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Size in the first frame header; stray bytes before a marker are passed over, as libjpeg does."""
    at, end = 2, len(data) - 9
    while at < end:
        if data[at] != 0xFF:
            at += 1
            continue
        marker = data[at + 1]
        if marker in (0xFF, 0x00):  # fill byte; a stray FF 00
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in _NOT_FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return height, width
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a body
            at += 2
        else:
            at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    raise ValueError("no JPEG frame header")


def check_whole(data: bytes) -> None:
    """Check that the compressed data holds every pixel; OpenCV may fill what is missing with grey and say nothing.

    (Not for PNG: there OpenCV itself reads on to the end and refuses a cut file.) A JPEG cut and closed again with an
    end marker is found too: bytes put before that marker change nothing in a whole picture, but are read as picture
    data in a cut one. A JPEG that only lacks its end marker is whole.

    Raises:
        OSError, SyntaxError, ValueError: it does not (Pillow's errors, or ours).
    """
    if data.startswith(_PNG_START):
        return
    if not data.startswith(_JPEG_START):
        _probe(data)
        return
    if not data.endswith(_JPEG_END):
        try:
            _probe(data)
        except OSError:  # "truncated", also where only the end marker is missing
            data += _JPEG_END
        if _JPEG_END not in data:
            data += _JPEG_END
    end = data.rfind(_JPEG_END)
    before = data[:end].rstrip(b"\xff")  # fill bytes, or half a marker that was cut through
    if _probe(before + _JUNK + data[end:]) != _probe(before + data[end:]):
        raise ValueError("the JPEG ends before its last pixel")


def _probe(data: bytes) -> bytes:
    """Pixels as Pillow reads them; a sequential JPEG at an eighth of the size, which still reads all of the file."""
    with Image.open(io.BytesIO(data)) as image:
        if image.format == "JPEG" and not image.info.get("progressive"):
            image.draft("L", (max(1, image.width // 8), max(1, image.height // 8)))
        image.load()
        return image.tobytes() if image.format == "JPEG" else b""


def decode(data: bytes, flags: int, strict: bool = False, what: str = "image") -> np.ndarray:
    """`cv2.imdecode` with its silent failures turned into BadRow.

    Args:
        data: the encoded file.
        flags: cv2.IMREAD_*.
        strict: also refuse a file that ends before its last pixel (costs about as much again).
        what: 'image' or 'mask', for the reason.

    Raises:
        BadRow: "<what> claims too many pixels" or "<what> does not decode".
    """
    try:
        height, width = header_size(data)
        if height * width > MAX_PIXELS:
            raise BadRow(f"{what} claims too many pixels", f"{width} x {height} in a file of {len(data)} bytes")
        if strict:
            check_whole(data)
        array = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        if array is None and data.startswith(_JPEG_START):  # OpenCV refuses a whole JPEG without its end marker
            check_whole(data)
            array = cv2.imdecode(np.frombuffer(data + _JPEG_END, np.uint8), flags)
    except (BadRow, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise BadRow(f"{what} claims too many pixels", str(error)) from error
    except Exception as error:  # a damaged file makes Pillow's readers raise nearly anything
        raise BadRow(f"{what} does not decode", describe(error)) from error
    if array is None:
        raise BadRow(f"{what} does not decode", f"OpenCV cannot read these {len(data)} bytes")
    return array


def decode_image(data: bytes, strict: bool = False) -> np.ndarray:
    """(H, W, 3) uint8 RGB with the EXIF orientation applied, whatever the file holds (grey, CMYK, alpha, 16 bit).

    Raises:
        BadRow: see `decode`.
    """
    return decode(data, cv2.IMREAD_COLOR_RGB, strict)


def checked_size(data: bytes) -> tuple[int, int]:
    """(height, width) of `decode_image(data, strict=True)`, and as strict, for half of the work on a common JPEG.

    Raises:
        BadRow: see `decode`.
    """
    # OpenCV's pixels at an eighth are compared with Pillow's of the file with junk before its end (see `check_whole`).
    # Equal ones say at once that OpenCV reads the file, that it is whole, and that EXIF does not turn it.
    with contextlib.suppress(Exception):  # whatever is wrong: the long way finds words for it
        height, width = header_size(data)
        eighths = (height + 7) // 8, (width + 7) // 8
        told_apart = height == width or eighths[0] != eighths[1]  # from a turned picture, by its shape
        if told_apart and data.startswith(_JPEG_START) and data.endswith(_JPEG_END):
            small = decode(data, cv2.IMREAD_REDUCED_GRAYSCALE_8)
            junk = data[:-2].rstrip(b"\xff") + _JUNK + _JPEG_END
            if small.shape == eighths and small.tobytes() == _probe(junk):
                return height, width
    height, width = decode_image(data, strict=True).shape[:2]
    return height, width


def exif_orientation(data: bytes, unread: int = 1) -> int:
    """How the file says that its pixels are to be turned (EXIF, 1 to 8); 1 where it says nothing.

    Args:
        unread: what to return when its EXIF block cannot be read.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF makes Pillow raise nearly anything, and OpenCV ignore it
        return unread
    return value if value in _TURNS else 1


def orient(array: np.ndarray, orientation: int) -> np.ndarray:
    """An array of pixels as stored (H, W, ...) turned as `exif_orientation` says, as it is displayed."""
    transposed, rows, columns = _TURNS[orientation]
    turned = array.swapaxes(0, 1) if transposed else array
    return np.ascontiguousarray(turned[::rows, ::columns])


def decode_sample(row: Row) -> Sample:
    """Decode a row's image and masks.

    Raises:
        BadRow: the image does not decode, or a mask is of another size.
    """
    image = decode_image(row.image)
    maps = [*row.layers] if row.ignore is None else [*row.layers, row.ignore]
    try:
        decoded = [decode_map(data) for data in maps]
    except ValueError as error:
        raise BadRow("mask does not decode", str(error)) from error
    shape = image.shape[:2]
    if any(m.shape != shape for m in decoded):
        raise BadRow("mask has another size", f"image {shape}, masks {[m.shape for m in decoded]}")
    layers = decoded[: len(row.layers)]
    return Sample(
        image=image,
        layers=np.stack(layers) if layers else np.zeros((0, *shape), np.uint8),
        objects=row.objects,
        ignore=None if row.ignore is None else decoded[-1] > 0,
        image_id=row.image_id,
    )
