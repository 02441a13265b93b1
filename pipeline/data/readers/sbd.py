"""SBD, the Semantic Boundaries Dataset: benchmark (val) and training set (train).

    ROOT/img/NAME.jpg  inst/NAME.mat  train.txt  val.txt

GTinst.Segmentation of the .mat holds 0 and an id per object. In train, objects whose area is under 8 % of their box
are dropped, as RITM drops them ("buggy" masks); val keeps all. A score table, rows of (row of train.txt from 0, name,
score), gives an image the weight (1 - score)^1.25; an image that it does not list is never drawn. RITM's pickle of such
rows and CSV are read.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from pipeline import storage
from pipeline.data.images import decode_image
from pipeline.data.masks import Region, build_row, region
from pipeline.data.matfiles import read_field
from pipeline.data.pickles import read_pickle
from pipeline.data.readers.base import Skipped, fetch, name_list, need_folders, sizes, stem
from pipeline.data.schema import Row
from pipeline.errors import BadRow, UserError, did_you_mean

SPLITS = ("train", "val")
MIN_BOX_SHARE = 0.08
SCORE_POWER = 1.25


@dataclass(frozen=True)
class Item:
    name: str
    weight: float = 1.0


@dataclass
class SbdReader:
    """Reader of one split.

    Attributes:
        scores: URI of the score table of the train split, or "".
    """

    root: str
    split: str = "train"
    scores: str = ""
    source: str = "sbd"
    left_out: dict[str, int] = field(default_factory=dict)
    understood: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise UserError(f"sbd has no split {self.split!r}: train or val.{did_you_mean(self.split, SPLITS)}")
        if self.scores and self.split != "train":
            raise UserError("A score table weighs training images; it has no meaning for --split val.")

    def items(self) -> list[Item]:
        self.root = need_folders(self.root, ["img", "inst"], self.source)
        names = name_list(storage.join(self.root, f"{self.split}.txt"))
        if not self.scores:
            return [Item(name) for name in names]
        weights = load_weights(self.scores, names)
        if not weights.any():
            raise UserError(f"{self.scores} gives no image a weight above 0.")
        return [Item(name, float(weight)) for name, weight in zip(names, weights, strict=True)]

    def name_of(self, item: Item) -> str:
        return item.name

    def path_of(self, item: Item) -> str:
        return storage.join(self.root, "img", f"{item.name}.jpg")

    def read(self, item: Item, aside: list[BadRow] | None = None) -> Row:
        data = fetch(storage.join(self.root, "img"), f"{item.name}.jpg")
        shape = decode_image(data, strict=True).shape[:2]
        ids = segmentation(fetch(storage.join(self.root, "inst"), f"{item.name}.mat", "mask"))
        if ids.shape != shape:
            detail = f"image {sizes(shape)}, {item.name}.mat {sizes(ids.shape)}"
            raise BadRow("mask has another size", detail)
        objects = [r for number in np.unique(ids) if number > 0 and (r := region(ids == number)) is not None]
        if not objects:
            raise BadRow("object with no pixels", f"{item.name}.mat holds no object")
        if self.split == "train":
            objects = [r for r in objects if not _thin(r)]
            if not objects:
                raise Skipped("image without objects", "each fills less than 8 % of its box")
        row = build_row(item.name, data, shape, objects, source=self.source)
        return Row(**{**row.__dict__, "weight": item.weight})


def _thin(item: Region) -> bool:
    return item.area / item.mask.size < MIN_BOX_SHARE


def segmentation(data: bytes) -> np.ndarray:
    """(H, W) integer ids of a .mat file's GTinst.Segmentation.

    Raises:
        BadRow: it does not decode, or holds something else.
    """
    try:
        return read_field(data, "GTinst", "Segmentation")
    except KeyError as error:
        raise BadRow("mask has no GTinst.Segmentation", str(error.args[0])) from error
    except ValueError as error:
        raise BadRow("mask does not decode", str(error)) from error


def load_weights(uri: str, names: list[str]) -> np.ndarray:
    """(N,) float64 weights (1 - score)^1.25 of the images of train.txt; 0 where the table has no row.

    Raises:
        UserError: not such a table, or one of another train.txt.
    """
    data = storage.read_bytes(uri)
    rows = _csv(data, uri) if uri.lower().endswith((".csv", ".txt")) else read_pickle(data, uri)
    if not isinstance(rows, list | tuple):
        raise UserError(f"{uri} is no table of (row index, name, score): it holds a {type(rows).__name__}.")
    weights = np.zeros(len(names))
    for number, row in enumerate(rows):
        try:
            index, name, score = row
            index, score = int(index), float(score)
        except (TypeError, ValueError) as error:
            raise UserError(f"{uri}: row {number} is not (row index, name, score): {str(row)[:80]}.") from error
        if not 0 <= index < len(names) or not 0 <= score <= 1:
            raise UserError(f"{uri}: row {number} has the index {index} of {len(names)} images, score {score:g}.")
        # The index rules, as in RITM; a name that belongs to another image shows that the table is of another list.
        if stem(str(name)) != names[index] and stem(str(name)) in names:
            raise UserError(f"{uri} is of another train.txt: its row {index} is {name}, here it is {names[index]}.")
        weights[index] = (1 - score) ** SCORE_POWER
    return weights


def _csv(data: bytes, uri: str) -> list[list[str]]:
    try:
        return [row for row in csv.reader(io.StringIO(data.decode())) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{uri} is no CSV table: {error}.") from error
