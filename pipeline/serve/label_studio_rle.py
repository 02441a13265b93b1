"""Label Studio's run lengths of brush masks: a stream of bits, the format "rle-pack" that its browser part reads.

The stream begins with the number of values (32 bits), the bits of a value less 1 (5) and four sizes less 1 (4 each).
Then come blocks: 1 bit whether a value is repeated, 2 bits which of the sizes, so many bits with the length less 1, and
the value, or as many values as the length says. The values of a mask are the bytes of its RGBA picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.errors import BadRow

SIZES = (3, 4, 8, 16)
LONGEST = 2 ** SIZES[-1]
CHANNELS = 4
DAMAGED = "run lengths that end too early or do not fit the image"


def encode(mask: np.ndarray) -> list[int]:
    """The bytes of a mask, (H, W) bool: all four channels 255 inside, 0 outside."""
    flat = np.ascontiguousarray(mask, bool).ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1]) if flat.size else np.zeros(0, np.int64)
    lengths = np.diff(np.append(starts, flat.size)) * CHANNELS
    parts = -(-lengths // LONGEST)  # blocks of each run
    ends = np.cumsum(parts)
    block = np.full(int(parts.sum()), LONGEST, np.int64)
    block[ends - 1] = lengths - (parts - 1) * LONGEST
    value = np.repeat(flat[starts], parts)

    which = np.searchsorted([2**size for size in SIZES], block)
    size = np.array(SIZES)[which]
    longest = SIZES[-1]
    bits = np.ones((len(block), 1 + 2 + longest + 8), np.uint8)  # 1: repeated
    bits[:, 1:3] = which[:, None] >> np.array([1, 0]) & 1
    places = np.arange(longest)
    bits[:, 3 : 3 + longest] = (block - 1)[:, None] >> places[::-1] & 1
    bits[:, 3 + longest :] = value[:, None]
    used = np.ones(bits.shape, bool)
    used[:, 3 : 3 + longest] = places >= (longest - size)[:, None]

    head = f"{flat.size * CHANNELS:032b}{8 - 1:05b}" + "".join(f"{size - 1:04b}" for size in SIZES)
    packed = np.packbits(np.concatenate([np.array([int(bit) for bit in head], np.uint8), bits[used]]))
    return packed.tolist()


def decode(rle: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool of the bytes of a mask: where the picture is not transparent.

    Raises:
        BadRow: damaged bytes, or another number of pixels.
    """
    height, width = size
    try:
        data = bytes(rle)
    except (TypeError, ValueError) as error:
        raise BadRow(DAMAGED, "not a list of bytes") from error
    at = 0

    def read(count: int) -> int:
        nonlocal at
        begin, at = at, at + count
        if at > 8 * len(data):
            raise BadRow(DAMAGED, f"{len(data)} bytes")
        chunk = data[begin // 8 : -(-at // 8)]
        return int.from_bytes(chunk, "big") >> -at % 8 & (1 << count) - 1

    number = read(32)
    if number != height * width * CHANNELS:
        raise BadRow(DAMAGED, f"{number} values for {width} x {height} pixels")
    word = read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values = np.zeros(number, np.uint8 if word <= 8 else np.uint32)
    done = 0
    while done < number:
        repeated = read(1)
        end = done + read(sizes[read(2)]) + 1
        if end > number:
            raise BadRow(DAMAGED, f"{end} values or more, not {number}")
        values[done:end] = read(word) if repeated else [read(word) for _ in range(done, end)]
        done = end
    return values.reshape(height, width, CHANNELS)[..., CHANNELS - 1] > 0
