"""The order of the training samples: a seeded, infinite plan of chunks, and positions in it.

A chunk is `data.chunk` samples made from one row group of the shards. Chunk i is the same for every number of ranks,
worker and restart: everything is a pure function of (seed, i). A training run walks through the chunks in rounds: in a
round rank r of W makes the samples of chunk "first of the round + r". A `Position` says how much is consumed, and is
all that a checkpoint has to keep.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

PLAN, ROWS, REPLACE, AUGMENT, SUEM, CLICKS = range(6)
"""Stages of randomness: the last number of every generator's key, so that no two stages share a stream."""


def generator(seed: int, chunk: int, row: int, stage: int) -> np.random.Generator:
    """Generator of one stage of one sample (`row` counts inside the chunk; 0 where a stage concerns the chunk)."""
    return np.random.default_rng((seed, chunk, row, stage))


@dataclass(frozen=True)
class Chunk:
    """Where the samples of chunk `index` come from: row group `group` of shard `shard`, in pass `turn`."""

    index: int
    turn: int
    shard: int
    group: int


class Plan:
    """The infinite sequence of chunks of a data set; `plan[i]` costs O(row groups) once per pass, then O(1)."""

    def __init__(self, rows: Sequence[Sequence[int]], weights: Sequence[Sequence[float]], seed: int) -> None:
        """Args: rows and summed row weights per row group, per shard; seed >= 0.

        When the mean row weight is the same in all row groups, a pass is a seeded permutation of them; otherwise
        groups are drawn with replacement in proportion to their summed weights.

        Raises:
            ValueError: no rows, or weights that are negative or all zero.
        """
        self._groups = [(s, g) for s, shard in enumerate(rows) for g, n in enumerate(shard) if n > 0]
        sums = np.array([weights[s][g] for s, g in self._groups], np.float64)
        if not self._groups or sums.min() < 0 or sums.sum() <= 0:
            raise ValueError("a chunk plan needs at least one row and weights >= 0 that are not all 0")
        means = sums / np.array([rows[s][g] for s, g in self._groups])
        self._edges = None if np.allclose(means, means[0], rtol=1e-5) else np.cumsum(sums / sums.sum())
        self._seed = seed
        self._turn = lru_cache(maxsize=2)(self._permutation)

    def _permutation(self, turn: int) -> np.ndarray:
        return generator(self._seed, turn, 0, PLAN).permutation(len(self._groups))

    def __getitem__(self, index: int) -> Chunk:
        turn, place = divmod(index, len(self._groups))
        if self._edges is None:
            drawn = int(self._turn(turn)[place])
        else:
            u = generator(self._seed, index, 0, PLAN).random()
            drawn = min(int(np.searchsorted(self._edges, u, side="right")), len(self._groups) - 1)
        return Chunk(index, turn, *self._groups[drawn])


def chunk_rows(weights: Sequence[float], size: int, rng: np.random.Generator) -> np.ndarray:
    """(size,) int64 indices of the rows of a group that the samples of a chunk are made from.

    With equal weights whole permutations of the rows follow one another, so no row is used twice before all were
    used once; otherwise rows are drawn with replacement in proportion to their weights.
    """
    p = np.asarray(weights, np.float64)
    if np.all(p == p[0]):
        turns = -(-size // len(p))
        return np.concatenate([rng.permutation(len(p)) for _ in range(turns)])[:size]
    return rng.choice(len(p), size=size, p=p / p.sum())


@dataclass(frozen=True)
class Slice:
    """Samples start..stop-1 of a chunk."""

    chunk: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Position:
    """What is consumed: all chunks below `chunk`, and `row` samples of each of the `world` chunks from there on.

    `rest` is empty except after a change of the number of ranks inside a round: then it holds, per rank, slices of
    chunks below `chunk` that are still to be consumed first (all ranks equally many samples; `row` is 0).
    """

    chunk: int = 0
    row: int = 0
    world: int = 1
    rest: tuple[tuple[Slice, ...], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        rest = [[[s.chunk, s.start, s.stop] for s in queue] for queue in self.rest]
        return {"chunk": self.chunk, "row": self.row, "world": self.world, "rest": rest}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Position:
        rest = tuple(tuple(Slice(*s) for s in queue) for queue in values["rest"])
        return Position(values["chunk"], values["row"], values["world"], rest)


def _cut(slices: Sequence[Slice], skip: int, count: int) -> tuple[Slice, ...]:
    """The samples skip..skip+count-1 of a row of slices, as slices."""
    found: list[Slice] = []
    for s in slices:
        start, stop = min(s.start + skip, s.stop), min(s.start + skip + count, s.stop)
        if start < stop:
            found.append(Slice(s.chunk, start, stop))
            count -= stop - start
        skip -= start - s.start
    return tuple(found)


def deal(position: Position, world: int, chunk_size: int) -> Position:
    """The same position for `world` ranks.

    With another number of ranks than before the unconsumed samples of the open round are dealt out evenly, in order;
    nothing is doubled, and the last (samples mod world) of them, fewer than `world`, are dropped.
    """
    if world == position.world:
        return position
    after = position.chunk
    if position.rest:
        left = [s for queue in position.rest for s in queue]
    elif position.row:
        left = [Slice(position.chunk + r, position.row, chunk_size) for r in range(position.world)]
        after += position.world
    else:
        left = []
    share = sum(map(len, left)) // world
    rest = tuple(_cut(left, rank * share, share) for rank in range(world)) if share else ()
    return Position(after, 0, world, rest)


def rank_slices(position: Position, rank: int, world: int, chunk_size: int) -> Iterator[Slice]:
    """The samples that rank `rank` of `world` makes from `position` on, without end."""
    position = deal(position, world, chunk_size)
    if position.rest:
        yield from position.rest[rank]
    chunk, row = position.chunk + rank, position.row
    while True:
        yield Slice(chunk, row, chunk_size)
        chunk, row = chunk + world, 0


def advance(position: Position, world: int, samples: int, chunk_size: int) -> Position:
    """The position after each of `world` ranks consumed `samples` more samples of its `rank_slices`."""
    position = deal(position, world, chunk_size)
    if position.rest:
        share = sum(map(len, position.rest[0]))
        if samples < share:
            return replace(position, rest=tuple(_cut(queue, samples, share) for queue in position.rest))
        samples -= share
    rounds, row = divmod(position.row + samples, chunk_size)
    return Position(position.chunk + rounds * world, row, world)
