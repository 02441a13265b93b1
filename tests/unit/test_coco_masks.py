"""COCO polygons and run lengths pixel by pixel against pycocotools; what encloses nothing is said by its kind."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pycocotools.mask
import pytest

from pipeline.data.readers.coco_masks import OTHER_SIZE, STRAY, segmentation_region
from pipeline.errors import BadRow

coco: Any = pycocotools.mask  # its stubs know no floats
SQUARE = [1, 1, 9, 1, 9, 9, 1, 9]


def pixels(segmentation: Any, height: int, width: int, aside: list[BadRow] | None = None) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    found = segmentation_region(segmentation, height, width, aside)
    if found is not None:
        mask[found.window] = found.mask
    return mask


def theirs(rles: Any) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of pycocotools under NumPy 2
        return coco.decode(rles) > 0


def a_polygon(rng: np.random.Generator, height: int, width: int) -> list[float]:
    corners = rng.uniform(-0.6, 1.6, (int(rng.integers(3, 10)), 2)) * (width, height)
    style = rng.integers(5)
    if style == 0:
        corners = corners.round()
    elif style == 1:
        corners = corners.clip(0, (width, height))
    elif style == 2:
        corners = (corners * 2).round() / 2
    elif style == 3:
        corners[rng.integers(len(corners))] = corners[0]
    return corners.reshape(-1).tolist()


def test_an_eight_by_eight_square_has_64_pixels() -> None:
    assert pixels([SQUARE], 20, 20).sum() == 64
    assert pixels(SQUARE, 20, 20).sum() == 64  # VIA writes one polygon without its list


def test_10000_polygons_as_pycocotools_draws_them() -> None:
    rng = np.random.default_rng(13)
    drawn = 0
    for _ in range(7000):
        height, width = (int(n) for n in rng.integers(1, 50, 2))
        polygons = [a_polygon(rng, height, width) for _ in range(int(rng.integers(1, 3)))]
        expected = theirs(coco.merge(coco.frPyObjects(polygons, height, width)))
        try:
            found = pixels(polygons, height, width)
        except BadRow:
            found = np.zeros((height, width), bool)  # what is set aside has no pixel there either
        assert (found == expected).all(), (height, width, polygons)
        drawn += len(polygons)
    assert drawn >= 10_000


def test_10000_run_lengths_as_pycocotools_reads_them() -> None:
    rng = np.random.default_rng(14)
    for _ in range(5000):
        height, width = (int(n) for n in rng.integers(1, 40, 2))
        mask = rng.random((height, width)) < rng.choice([0.02, 0.5, 0.98])
        packed = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        size, text = [height, width], packed["counts"].decode()
        flat = mask.T.reshape(-1)
        lengths = np.diff([0, *(np.flatnonzero(np.diff(flat)) + 1).tolist(), len(flat)]).tolist()
        counts = [0, *lengths] if flat[0] else lengths
        assert (theirs(coco.frPyObjects({"size": size, "counts": counts}, height, width)) == mask).all()
        for form in (text, counts, repr(packed["counts"]), [float(n) for n in counts]):
            assert (pixels({"size": size, "counts": form}, height, width) == mask).all(), (height, width, form)


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ([[1, 2]], "polygon with fewer than three different corners"),
        ([[1, 2, 5, 2]], "polygon with fewer than three different corners"),
        ([[1, 2, 5, 2, 1, 2, 5, 2]], "polygon with fewer than three different corners"),
        ([[3, 3] * 6], "polygon with fewer than three different corners"),
        ([[1, 1, 3, 3, 7, 7, 2, 2]], "polygon without area"),
        ([[0.1, 0.1, 0.2, 0.2, 0.3, 0.3]], "polygon without area"),
        ([[30, 30, 40, 30, 40, 40]], "object outside the picture"),
        ([[-9, 2, -1, 2, -1, 8]], "object outside the picture"),
        ([[1, 1, float("nan"), 1, 9, 9]], "coordinate is no finite number"),
        ([[1, 1, float("-inf"), 1, 9, 9]], "coordinate is no finite number"),
        ([["1", "1", "9", "1", "9", "9"]], "coordinate is no finite number"),
        ([[1, 1, None, 1, 9, 9]], "coordinate is no finite number"),
        ([[True, 1, 9, 1, 9, 9]], "coordinate is no finite number"),
        ([[1, 1, -(10**400), 1, 9, 9]], "coordinate is far outside every picture"),
        ([[1, 1, 1e9, 1, 9, 9]], "coordinate is far outside every picture"),
        ([[0, 0, 1e6, 1e6, 0, 1e6, 1e6, 0] * 9], "annotation is malformed"),
        ([SQUARE, [1, 1, "9", 1, 9, 9]], "coordinate is no finite number"),
        ({"size": [30, 20], "counts": [600]}, OTHER_SIZE),
    ],
)
def test_what_encloses_nothing(segmentation: Any, reason: str) -> None:
    with pytest.raises(BadRow) as caught:
        segmentation_region(segmentation, 20, 30)
    assert caught.value.reason == reason


def test_exchanged_sizes_are_named() -> None:
    with pytest.raises(BadRow, match=r"picture 30 x 20, run lengths of 20 x 30 \(width and height exchanged\)"):
        segmentation_region({"size": [30, 20], "counts": [600]}, 20, 30)


@pytest.mark.parametrize("rest", [[4, 4], [1, 1, 19, 1], [2, 2, 2, 2, 2, 2], [1, 1, 5, 5, 15, 15]])
def test_a_stray_rest_beside_a_polygon(rest: list[int]) -> None:
    for polygons in ([SQUARE, rest], [rest, SQUARE]):  # pycocotools takes a first list of four for a box
        aside: list[BadRow] = []
        assert (pixels(polygons, 20, 20, aside) == pixels([SQUARE], 20, 20)).all()
        assert [bad.reason for bad in aside] == [STRAY]
