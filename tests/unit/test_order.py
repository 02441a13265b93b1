"""The chunk plan and positions in it: nothing lost, nothing doubled, every continuation exact."""

from __future__ import annotations

import itertools
import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.stream.order import Plan, Position, Slice, advance, chunk_rows, deal, generator, rank_slices

SIZE = 7
WORLDS = st.integers(1, 5)
AMOUNTS = st.integers(0, 40)


def take(position: Position, rank: int, world: int, count: int, size: int = SIZE) -> list[tuple[int, int]]:
    """The first `count` samples (chunk, row) of a rank."""
    samples = ((s.chunk, row) for s in rank_slices(position, rank, world, size) for row in range(s.start, s.stop))
    return list(itertools.islice(samples, count))


def round_of(position: Position, world: int, count: int) -> list[list[tuple[int, int]]]:
    return [take(position, rank, world, count) for rank in range(world)]


@given(WORLDS, st.integers(1, 6))
def test_ranks_share_every_chunk_exactly_once(world: int, rounds: int) -> None:
    seen = [s for rank in round_of(Position(0, 0, world), world, rounds * SIZE) for s in rank]
    assert sorted(seen) == [(c, r) for c in range(world * rounds) for r in range(SIZE)]


@given(WORLDS, AMOUNTS, AMOUNTS)
def test_continuing_with_the_same_world_gives_the_rest(world: int, first: int, more: int) -> None:
    start = Position(0, 0, world)
    middle = advance(start, world, first, SIZE)
    whole = round_of(start, world, first + more)
    assert round_of(middle, world, more) == [samples[first:] for samples in whole]
    assert advance(middle, world, more, SIZE) == advance(start, world, first + more, SIZE)


@given(st.lists(st.tuples(WORLDS, AMOUNTS), min_size=1, max_size=5))
def test_changes_of_world_lose_less_than_world_and_double_nothing(legs: list[tuple[int, int]]) -> None:
    position, seen, may_lose = Position(), Counter(), 0
    for world, count in legs:
        may_lose += world - 1 if world != position.world else 0
        for samples in round_of(position, world, count):
            seen.update(samples)
        position = advance(position, world, count, SIZE)
    queued = [s for queue in position.rest for s in queue]
    begun = range(position.chunk, position.chunk + (position.world if position.row else 0))
    left = {(s.chunk, r) for s in queued for r in range(s.start, s.stop)}
    left |= {(c, r) for c in begun for r in range(position.row, SIZE)}
    assert max(seen.values(), default=1) == 1
    assert not left & set(seen)
    expected = {(c, r) for c in range(position.chunk + len(begun)) for r in range(SIZE)}
    assert set(seen) | left <= expected
    assert len(expected) - len(seen) - len(left) <= may_lose


@given(WORLDS, AMOUNTS, WORLDS, AMOUNTS, AMOUNTS)
def test_continuing_inside_a_dealt_out_remainder_is_exact(a: int, x: int, b: int, first: int, more: int) -> None:
    changed = advance(Position(0, 0, a), a, x, SIZE)
    middle = Position.from_dict(json.loads(json.dumps(advance(changed, b, first, SIZE).to_dict())))
    assert round_of(middle, b, more) == [s[first:] for s in round_of(changed, b, first + more)]


def test_remainder_is_dealt_evenly_and_in_order() -> None:
    dealt = deal(Position(chunk=4, row=3, world=2), 3, 8)
    assert dealt == Position(6, 0, 3, ((Slice(4, 3, 6),), (Slice(4, 6, 8), Slice(5, 3, 4)), (Slice(5, 4, 7),)))


def test_plan_with_equal_weights_passes_over_all_groups() -> None:
    plan = Plan([[3, 3], [2]], [[3.0, 3.0], [2.0]], seed=5)
    turns = [[(plan[i].shard, plan[i].group) for i in range(3 * t, 3 * t + 3)] for t in range(20)]
    assert all(sorted(turn) == [(0, 0), (0, 1), (1, 0)] for turn in turns)
    assert len({tuple(turn) for turn in turns}) > 1
    assert plan[7].index == 7 and plan[7].turn == 2
    assert plan[7] == Plan([[3, 3], [2]], [[3.0, 3.0], [2.0]], seed=5)[7]


def test_plan_with_weights_draws_groups_in_proportion() -> None:
    plan = Plan([[10], [10, 10]], [[1.0], [3.0, 0.0]], seed=0)
    counts = Counter((plan[i].shard, plan[i].group) for i in range(4000))
    assert (1, 1) not in counts
    assert counts[1, 0] / 4000 == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize(("rows", "weights"), [([[]], [[]]), ([[2]], [[0.0]]), ([[2], [2]], [[1.0], [-1.0]])])
def test_plan_refuses_nothing_to_draw(rows: list, weights: list) -> None:
    with pytest.raises(ValueError):
        Plan(rows, weights, seed=0)


@given(st.integers(1, 12), st.integers(1, 40), st.integers(0, 5))
def test_rows_of_a_chunk_are_whole_permutations(rows: int, size: int, seed: int) -> None:
    drawn = chunk_rows([2.0] * rows, size, generator(seed, 0, 0, 1)).tolist()
    assert len(drawn) == size
    for start in range(0, size, rows):
        part = drawn[start : start + rows]
        assert len(set(part)) == len(part)


def test_rows_of_a_chunk_follow_their_weights() -> None:
    drawn = chunk_rows([0.0, 1.0, 3.0], 8000, np.random.default_rng(0))
    assert np.bincount(drawn, minlength=3) / 8000 == pytest.approx([0, 0.25, 0.75], abs=0.03)
