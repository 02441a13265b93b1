"""Object masks as (box, crop) regions: boxes, overlaps, packing into label layers, the object tree, rows.

Boxes are (row_min, row_max, col_min, col_max), all inclusive, in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from pipeline.data.schema import ObjectInfo, Row, encode_map

LABELS_PER_LAYER = 255
CHILD_BOX_SHARE = 0.7  # of the child's box inside the parent's box, at least
CHILD_MASK_SHARE = 0.8  # of the child's pixels inside the parent's, more than


@dataclass(frozen=True)
class Region:
    """One object's pixels: all work on it touches its bounding box only.

    Attributes:
        box: (row_min, row_max, col_min, col_max) of its pixels, inclusive.
        mask: (rows, cols) bool of that box; every side touches a pixel.
    """

    box: tuple[int, int, int, int]
    mask: np.ndarray

    @cached_property
    def area(self) -> int:
        return int(np.count_nonzero(self.mask))

    @property
    def window(self) -> tuple[slice, slice]:
        """Index of the box in an image-sized array."""
        return slice(self.box[0], self.box[1] + 1), slice(self.box[2], self.box[3] + 1)


def region(mask: np.ndarray, row: int = 0, col: int = 0) -> Region | None:
    """Region of a 2-d bool array whose corner lies at (row, col) of the image; None when it holds no pixel."""
    rows = np.flatnonzero(mask.any(axis=1))
    if len(rows) == 0:
        return None
    band = mask[rows[0] : rows[-1] + 1]
    cols = np.flatnonzero(band.any(axis=0))
    crop = np.ascontiguousarray(band[:, cols[0] : cols[-1] + 1])
    return Region((row + int(rows[0]), row + int(rows[-1]), col + int(cols[0]), col + int(cols[-1])), crop)


def boxes(regions: Sequence[Region]) -> np.ndarray:
    """(N, 4) int64 boxes."""
    return np.array([r.box for r in regions], np.int64).reshape(-1, 4)


def _spans(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(2, N, M) lengths along rows and columns: common to each pair of boxes, and covered by it."""
    (low_a, high_a), (low_b, high_b) = (x.reshape(-1, 2, 2).transpose(2, 1, 0) for x in (a, b))  # (2, N), (2, M) each
    low_a, high_a, low_b, high_b = low_a[:, :, None], high_a[:, :, None], low_b[:, None], high_b[:, None]
    common = np.maximum(0, np.minimum(high_a, high_b) - np.maximum(low_a, low_b) + 1)
    return common, np.maximum(high_a, high_b) - np.minimum(low_a, low_b) + 1


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, M) float64: IoU of the row ranges times IoU of the column ranges, of (N, 4) and (M, 4) boxes."""
    common, covered = _spans(a, b)
    return (common / covered).prod(axis=0)


def box_share(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, M) float64: the part of box b[j] that lies in box a[i]."""
    common, _ = _spans(a, b)
    return common.prod(axis=0) / ((b[:, 1] - b[:, 0] + 1) * (b[:, 3] - b[:, 2] + 1))[None]


def overlap(a: Region, b: Region) -> int:
    """Pixels that two regions share."""
    r0, r1 = max(a.box[0], b.box[0]), min(a.box[1], b.box[1]) + 1
    c0, c1 = max(a.box[2], b.box[2]), min(a.box[3], b.box[3]) + 1
    if r0 >= r1 or c0 >= c1:
        return 0
    part_a = a.mask[r0 - a.box[0] : r1 - a.box[0], c0 - a.box[2] : c1 - a.box[2]]
    part_b = b.mask[r0 - b.box[0] : r1 - b.box[0], c0 - b.box[2] : c1 - b.box[2]]
    return int(np.count_nonzero(part_a & part_b))


def mask_iou(a: Region, b: Region) -> float:
    common = overlap(a, b)
    return common / (a.area + b.area - common)


def parents(regions: Sequence[Region]) -> list[int]:
    """The object tree: index of each region's parent, -1 for a root (docs/method.md, section 7).

    Region j may be a child of a larger i when at least 0.7 of its box and more than 0.8 of its pixels lie in i. The
    largest such i takes it into its tree; there the search is depth first, children before parent, and the first match
    wins.
    """
    areas = [r.area for r in regions]
    # Equal areas: the later one counts as the larger, as an ascending stable sort read backwards gives.
    order = np.argsort(areas, kind="stable")[::-1]
    all_boxes = boxes(regions)
    near = box_share(all_boxes, all_boxes) >= CHILD_BOX_SHARE
    result = [-1] * len(regions)
    children: list[list[int]] = [[] for _ in regions]

    @cache
    def holds(i: int, j: int) -> bool:
        return bool(near[i, j]) and overlap(regions[i], regions[j]) / areas[j] > CHILD_MASK_SHARE

    def find(node: int, j: int) -> int:
        for child in children[node]:
            found = find(child, j) if areas[child] >= areas[j] else -1
            if found >= 0:
                return found
        return node if holds(node, j) else -1

    # Region by region from the largest, each collecting its own: the order in which children arrive decides between
    # matches, so the loops cannot be exchanged.
    pairs = order[np.argwhere(np.triu(near[np.ix_(order, order)], 1))]
    for i, j in pairs.tolist():
        if result[j] < 0 and holds(i, j):
            result[j] = find(i, j)
            children[result[j]].append(j)
    return result


def pack(regions: Sequence[Region], height: int, width: int) -> tuple[list[np.ndarray], list[tuple[int, int]]]:
    """Greedy first fit, largest first: as few label maps as this finds without overlap inside a map.

    Returns:
        A list of (height, width) uint8 layers, 0 = nothing, and (layer, label) of every region, labels from 1.
    """
    layers: list[np.ndarray] = []
    used: list[int] = []
    places = [(0, 0)] * len(regions)
    for index in sorted(range(len(regions)), key=lambda i: -regions[i].area):
        item, pixels = regions[index], regions[index].mask.view(np.uint8)
        for number, layer in enumerate(layers):
            if used[number] < LABELS_PER_LAYER and not np.logical_and(layer[item.window], pixels).any():
                break
        else:
            number = len(layers)
            layers.append(np.zeros((height, width), np.uint8))
            used.append(0)
        used[number] += 1
        layers[number][item.window] |= pixels * np.uint8(used[number])
        places[index] = (number, used[number])
    return layers, places


def build_row(
    image_id: str,
    image: bytes,
    shape: tuple[int, int],
    things: Sequence[Region],
    stuff: Sequence[Region] = (),
    tree: Sequence[int] | None = None,
    ignore: np.ndarray | None = None,
    source: str = "",
) -> Row:
    """Row of an encoded image and its regions: things first, then stuff.

    Args:
        shape: (height, width) of the decoded image.
        tree: parent of each thing, -1 a root; default: all roots. Stuff has no parent.
        ignore: (height, width) bool, True = ignore, or None.
    """
    regions = [*things, *stuff]
    layers, places = pack(regions, *shape)
    ups = [*(tree if tree is not None else [-1] * len(things)), *[-1] * len(stuff)]
    objects = [
        ObjectInfo(layer, label, parent=up, area=item.area, kind="thing" if index < len(things) else "stuff")
        for index, ((layer, label), up, item) in enumerate(zip(places, ups, regions, strict=True))
    ]
    return Row(
        image_id=image_id,
        image=image,
        height=shape[0],
        width=shape[1],
        layers=[encode_map(layer) for layer in layers],
        objects=objects,
        ignore=None if ignore is None or not ignore.any() else encode_map(ignore.astype(np.uint8)),
        source=source,
    )
