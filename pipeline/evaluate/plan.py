"""What is evaluated: the objects of prepared data sets, cut into units of work.

A unit is a few objects of one row group, under all settings. It is the unit of resuming and of loss: its results are
one small file whose name depends on the unit alone, so the same command finds what it has finished.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pipeline import storage
from pipeline.clicks.encode import Click
from pipeline.data.fingerprint import Marks, of_shards
from pipeline.data.manifest import load_manifest, read_table
from pipeline.data.schema import ObjectInfo
from pipeline.evaluate.left_out import Held, held_by

OBJECTS = 4  # of a unit at the most


@dataclass(frozen=True)
class Place:
    """One object: row `row` of a row group, and its index there.

    Attributes:
        row: position in the row group.
        object_id: index in the row's object list; of clicks that are given any number.
        clicks: that are given; none where the evaluation places them.
    """

    row: int
    image_id: str
    object_id: int
    clicks: tuple[Click, ...] = ()


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
class WorkUnit:
    """A few objects of one row group, to be evaluated under all settings.

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


def plan(datasets: Sequence[DataSet]) -> Iterator[WorkUnit]:
    """Cut every row group's objects into even units; a unit's name ends in its number."""
    for data in datasets:
        index = 0
        for shard, group, places in data.groups:
            for part in _even(places, OBJECTS):
                yield WorkUnit(f"{data.name}-{index:06d}", data.name, data.uri, shard, group, part, data.crop)
                index += 1


def _even(places: list[Place], most: int) -> Iterator[list[Place]]:
    parts = -(-len(places) // most)
    for k in range(parts):
        yield places[k * len(places) // parts : (k + 1) * len(places) // parts]
