"""What is evaluated: settings, and the objects of prepared data sets cut into plan items.

A plan item is a few objects of one row group at one setting. It is the unit of work, of resuming and of loss: its
results are one small file whose name depends on the item alone, so the same command finds what it has finished.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from pipeline import storage
from pipeline.data.fingerprint import Marks, of_shards
from pipeline.data.manifest import load_manifest, read_table
from pipeline.data.schema import ObjectInfo
from pipeline.evaluate.left_out import Held, held_by

CHUNK = 8
"""Objects of a plan item with batch size 1; a larger batch takes more, or its slots would stand empty at the end."""


@dataclass(frozen=True)
class Setting:
    """How often a click is refined: CFR-n, for which clicks, adaptive or not."""

    steps: int
    clicks: int
    adaptive: bool

    @property
    def label(self) -> str:
        """'cfr0', 'cfr4', 'acfr4'; with the number of clicks where it is not the published 1: 'cfr2x20'."""
        return f"{'a' if self.adaptive else ''}cfr{self.steps}" + (f"x{self.clicks}" if self.clicks != 1 else "")


@dataclass(frozen=True)
class Place:
    """One object: row `row` of a row group, and its index there.

    Attributes:
        row: position in the row group.
        object_id: index in the row's object list.
    """

    row: int
    image_id: str
    object_id: int


@dataclass(frozen=True)
class DataSet:
    """A prepared data set to evaluate on.

    Attributes:
        name: as the user calls it.
        uri: of the shards.
        source: what it was made from.
        crop: side of the network's input.
        groups: (shard path, row group, objects in it) in file order.
        marks: of the shards (`data.fingerprint`).
        held: what they hold, evaluated or not.
    """

    name: str
    uri: str
    source: str
    crop: int
    groups: list[tuple[str, int, list[Place]]]
    marks: Marks
    held: Held = field(default_factory=Held)

    @property
    def objects(self) -> int:
        return sum(len(places) for _, _, places in self.groups)

    @property
    def images(self) -> int:
        return sum(len({place.row for place in places}) for _, _, places in self.groups)


@dataclass(frozen=True)
class Chunk:
    """A few objects of one row group.

    Attributes:
        name: file name of its part, without suffix; unique in the plan.
        crop: side of the network's input, of the data set.
    """

    name: str
    dataset: str
    uri: str
    shard: str
    group: int
    places: list[Place]
    crop: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values; `from_dict` is the inverse."""
        return {**self.__dict__, "places": [[p.row, p.image_id, p.object_id] for p in self.places]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        return cls(**{**values, "places": [Place(*p) for p in values["places"]]})


@dataclass(frozen=True)
class Item(Chunk):
    """A unit of work of an evaluation: a chunk at one setting."""

    setting: Setting

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "setting": self.setting.__dict__}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        return super().from_dict({**values, "setting": Setting(**values["setting"])})


def is_evaluated(info: ObjectInfo) -> bool:
    """Things are; stuff regions of a training set are no objects that a user would click."""
    return info.kind == "thing"


def open_dataset(name: str, uri: str, crop: int, limit: int = 0) -> DataSet:
    """List the objects of prepared shards, the first `limit` of them (0: all).

    Raises:
        UserError: unfinished, damaged or empty data set (`data.manifest`).
    """
    manifest = load_manifest(uri)
    wanted = [(shard.path, group) for shard in manifest.shards for group in range(len(shard.row_groups))]
    groups: list[tuple[str, int, list[Place]]] = []
    stuff = 0
    left = limit if limit > 0 else manifest.objects
    with contextlib.closing(storage.map_parallel(lambda at: _places(uri, *at), wanted)) as found:
        for (shard, group), (places, others) in zip(wanted, found, strict=False):
            stuff += others
            places = places[:left]
            left -= len(places)
            if places:
                groups.append((shard, group, places))
            if left <= 0:
                break
    evaluated = sum(len(places) for _, _, places in groups)
    held = held_by(manifest, evaluated, None if limit and left <= 0 else stuff)
    return DataSet(name, uri, manifest.source, crop, groups, of_shards(manifest), held)


def _places(uri: str, shard: str, group: int) -> tuple[list[Place], int]:
    """The objects of a row group, and how many others it has; reads their columns only."""
    rows = read_table(storage.join(uri, shard), group, columns=["image_id", "objects"]).to_pylist()
    places = [
        Place(index, row["image_id"], object_id)
        for index, row in enumerate(rows)
        for object_id, info in enumerate(row["objects"])
        if is_evaluated(ObjectInfo(**info))
    ]
    return places, sum(len(row["objects"]) for row in rows) - len(places)


def plan(datasets: Sequence[DataSet], settings: Sequence[Setting], batch_size: int) -> Iterator[Item]:
    """Cut every row group's objects into even chunks; settings of a chunk follow one another (its rows stay cached)."""
    for chunk in chunks(datasets, max(CHUNK, 4 * batch_size)):
        for setting in settings:
            name = f"{chunk.dataset}-{setting.label}-{chunk.name.rsplit('-', 1)[1]}"
            yield Item(**{**chunk.__dict__, "name": name}, setting=setting)


def chunks(datasets: Sequence[DataSet], most: int) -> Iterator[Chunk]:
    """Cut every row group's objects into even chunks of at most `most`; a chunk's name ends in its number."""
    for data in datasets:
        index = 0
        for shard, group, places in data.groups:
            for part in _even(places, most):
                yield Chunk(f"{data.name}-{index:06d}", data.name, data.uri, shard, group, part, data.crop)
                index += 1


def _even(places: list[Place], most: int) -> Iterator[list[Place]]:
    parts = -(-len(places) // most)
    for k in range(parts):
        yield places[k * len(places) // parts : (k + 1) * len(places) // parts]
