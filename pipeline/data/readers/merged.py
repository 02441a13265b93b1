"""The shared COCO+LVIS annotation of RITM, SimpleClick and CFR-ICL: merged masks in pickles, read without running them.

    ROOT/{train,val}/images/NAME.jpg
    ROOT/{train,val}/masks/NAME.pickle       (list of PNG label layers, list of (layer, label) per object)
    ROOT/{train,val}/hannotation.pickle      NAME -> {"num_instance_masks": n, "hierarchy": {object: node or None}}

A node is {"parent": object or None, "children": [...], "node_level": depth}; None or no node is a root. The first n
objects are things, the rest stuff. (Layout as RITM's `isegm/data/datasets/coco_lvis.py` reads it.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from pipeline import storage
from pipeline.data.images import decode, decode_image
from pipeline.data.masks import Region, build_row, region
from pipeline.data.pickles import PickledArray, read_pickle
from pipeline.data.readers.base import Skipped, fetch, need_folders, sizes
from pipeline.data.schema import Row
from pipeline.errors import BadRow, UserError, did_you_mean

SPLITS = ("train", "val")
MAX_MASKS_BYTES = 64 << 20
MALFORMED = "annotation is malformed"


@dataclass(frozen=True)
class Item:
    """What hannotation.pickle says about one image.

    Attributes:
        name: of the image and of its masks, without an ending.
        things: number of objects that are things, the first ones.
        tree: parent of each of these, -1: a root.
        problem: what is wrong with the entry, or "".
    """

    name: str
    things: int
    tree: tuple[int, ...]
    problem: str = ""


@dataclass
class MergedReader:
    """Reader of one split of the shared annotation."""

    root: str
    split: str = "train"
    source: str = "merged"
    left_out: dict[str, int] = field(default_factory=dict)
    understood: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise UserError(f"merged has no split {self.split!r}: train or val.{did_you_mean(self.split, SPLITS)}")

    def items(self) -> list[Item]:
        self.root = need_folders(self.root, [f"{self.split}/images", f"{self.split}/masks"], self.source)
        uri = storage.join(self.root, self.split, "hannotation.pickle")
        content = read_pickle(storage.read_bytes(uri), uri)
        if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
            raise UserError(f"{uri} is not the shared annotation: it holds no dictionary of image names.")
        return [_item(name, entry) for name, entry in sorted(content.items())]

    def name_of(self, item: Item) -> str:
        return item.name

    def path_of(self, item: Item) -> str:
        return storage.join(self.root, self.split, "images", f"{item.name}.jpg")

    def read(self, item: Item, aside: list[BadRow] | None = None) -> Row:
        if item.problem:
            raise BadRow(MALFORMED, item.problem)
        folder = storage.join(self.root, self.split)
        data = fetch(storage.join(folder, "images"), f"{item.name}.jpg")
        shape = decode_image(data, strict=True).shape[:2]
        layers, places = _masks(fetch(storage.join(folder, "masks"), f"{item.name}.pickle", "mask"), item.name)
        if len(places) < item.things:
            raise BadRow(MALFORMED, f"{item.things} things, but masks of {len(places)} objects")
        for layer in layers:
            if layer.shape != shape:
                raise BadRow("mask has another size", f"image {sizes(shape)}, layer {sizes(layer.shape)}")
        found = [region(layers[layer] == label) for layer, label in places]
        for index, mask in enumerate(found):
            if mask is None and aside is not None:
                aside.append(BadRow("object with no pixels", f"object {index} of {len(places)}"))
        things, tree = _kept(found[: item.things], item.tree)
        if not things:
            raise Skipped("image without objects", f"{len(places) - item.things} regions of stuff")
        stuff = [mask for mask in found[item.things :] if mask is not None]
        return build_row(item.name, data, shape, things, stuff, tree=tree, source=self.source)


def _item(name: str, entry: Any) -> Item:
    try:
        count, nodes = entry["num_instance_masks"], entry["hierarchy"]
        if type(count) is not int or not 0 <= count <= 1 << 20 or not isinstance(nodes, dict):
            raise ValueError(f"num_instance_masks {count!r:.40}")
        tree = [-1] * count
        for index, node in nodes.items():
            parent = None if node is None else node["parent"]
            if parent is None:
                continue
            if type(parent) is not int or not 0 <= parent < count or type(index) is not int or not 0 <= index < count:
                raise ValueError(f"object {index!r:.40} has the parent {parent!r:.40}")
            tree[index] = parent
        _check_tree(tree)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        lack = f"no {error}" if isinstance(error, KeyError) else str(error)
        return Item(name, 0, (), f"its entry in hannotation.pickle: {lack}")
    return Item(name, count, tuple(tree))


def _check_tree(tree: Sequence[int]) -> None:
    sound = {-1}
    for index in range(len(tree)):
        way, at = set[int](), index
        while at not in sound:
            if at in way:
                raise ValueError(f"object {index} is its own ancestor")
            way.add(at)
            at = tree[at]
        sound |= way


def _kept(found: Sequence[Region | None], tree: Sequence[int]) -> tuple[list[Region], list[int]]:
    """Things that have pixels and their tree; children of one without pixels go to its parent."""
    place = {-1: -1}
    things: list[Region] = []
    for index, mask in enumerate(found):
        if mask is not None:
            place[index] = len(things)
            things.append(mask)
    ups = []
    for index, up in enumerate(tree):
        while up not in place:
            up = tree[up]
        if index in place:
            ups.append(place[up])
    return things, ups


def _masks(data: bytes, name: str) -> tuple[list[np.ndarray], list[tuple[int, int]]]:
    """Label layers, (H, W) uint8 each, and (layer, label) of every object.

    Raises:
        BadRow: a damaged or hostile pickle, or one of something else.
    """
    if len(data) > MAX_MASKS_BYTES:
        raise BadRow("mask claims too many pixels", f"masks/{name}.pickle has {len(data)} bytes")
    try:
        content = read_pickle(data, f"masks/{name}.pickle")
    except UserError as error:
        raise BadRow("mask does not decode", str(error)) from error
    match content:
        case (list() | tuple() as encoded, list() | tuple() as places):
            layers = [_layer(layer) for layer in encoded]
        case _:
            raise BadRow(MALFORMED, "masks are not a pair of layers and objects")
    for place in places:
        match place:
            case (int(layer), int(label)) if 0 <= layer < len(layers) and 0 < label < 256:
                continue
        raise BadRow(MALFORMED, f"an object lies in {str(place)[:60]} of {len(layers)} layers")
    return layers, [(int(layer), int(label)) for layer, label in places]


def _layer(encoded: Any) -> np.ndarray:
    match encoded:
        case PickledArray(value=np.ndarray() as values) if values.dtype == np.uint8:
            data = values.tobytes()
        case bytes():
            data = encoded
        case _:
            raise BadRow(MALFORMED, f"a layer is a {type(encoded).__name__}, not an encoded picture")
    layer = decode(data, cv2.IMREAD_UNCHANGED, strict=True, what="mask")
    if layer.ndim != 2 or layer.dtype != np.uint8:
        raise BadRow("mask does not decode", f"a layer is {layer.dtype} of shape {layer.shape}, not a label map")
    return layer
