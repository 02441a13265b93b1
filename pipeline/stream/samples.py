"""The sample function of the stream, without Ray: rows of a row group -> the samples of a chunk.

Every random number comes from a generator keyed by (seed, chunk, row of the chunk, stage), so a sample is the same
whichever rank, worker, retry or restart makes it, and a slice of a chunk equals that part of the whole chunk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from pipeline.augment.suem import suem
from pipeline.augment.transforms import augment
from pipeline.clicks.sampling import sample_clicks
from pipeline.config import TrainConfig
from pipeline.data.images import decode_sample
from pipeline.data.schema import Row, Sample
from pipeline.errors import BadRow, UserError
from pipeline.stream import order

Batch = dict[str, np.ndarray]


class _Maker:
    """Makes the samples of one chunk; decodes and augments each at most once."""

    def __init__(self, rows: Sequence[Row], config: TrainConfig, chunk: int) -> None:
        self._rows, self._config, self._chunk = rows, config, chunk
        rng = order.generator(config.seed, chunk, 0, order.ROWS)
        weights = [row.weight for row in rows]
        size = config.data.chunk
        self._primary = order.chunk_rows(weights, size, rng)
        self._pool = range(size)  # Positions of the donors: the chunk's own samples
        if min(weights) < max(weights):  # Donors go by no weight: further positions, reached by SUEM alone
            self._pool = range(size, 2 * size)
            self._primary = np.concatenate([self._primary, order.chunk_rows([1.0] * len(rows), size, rng)])
        self._uses = Counter(self._primary.tolist())  # Times that a row is still to be augmented
        self._decoded: dict[int, Sample | None] = {}
        self._augmented: dict[int, Sample] = {}
        self.bad: dict[int, str] = {}

    def _rng(self, position: int, stage: int) -> np.random.Generator:
        return order.generator(self._config.seed, self._chunk, position, stage)

    def _decode(self, row: int) -> Sample | None:
        if row not in self._decoded:
            try:
                self._decoded[row] = decode_sample(self._rows[row])
            except BadRow:
                self._decoded[row] = None
        return self._decoded[row]

    def _source(self, position: int) -> Sample:
        """The decoded row of a position; where it does not decode, another row of the group, drawn for the position."""
        row = int(self._primary[position])
        sample = self._decode(row)
        self._uses[row] -= 1
        if sample is not None:
            if self._uses[row] == 0:
                del self._decoded[row]  # A chunk of decoded photographs is 100 MB: only the crops are kept
            return sample
        self.bad[position] = self._rows[row].image_id
        for other in self._rng(position, order.REPLACE).permutation(len(self._rows)):
            sample = self._decode(int(other))
            if sample is not None:
                return sample
        names = ", ".join(r.image_id for r in self._rows[:5])
        raise UserError(f"No image of a whole row group can be decoded ({names}, ...): prepare the data set again.")

    def augmented(self, position: int) -> Sample:
        if position not in self._augmented:
            rng = self._rng(position, order.AUGMENT)
            self._augmented[position] = augment(self._source(position), self._config.data, rng)
        return self._augmented[position]

    def _donor(self, position: int, rng: np.random.Generator) -> Sample:
        """A sample of another image of the row group, uniformly; of the same image when there is no other."""
        others = [p for p in self._pool if self._primary[p] != self._primary[position]]
        others = others or [p for p in self._pool if p != position]
        return self.augmented(others[rng.integers(len(others))])

    def sample(self, position: int) -> tuple[Sample, np.ndarray, np.ndarray]:
        """The finished sample of a position, its target and its clicks."""
        config, sample = self._config, self.augmented(position)
        if not config.suem.off:
            rng = self._rng(position, order.SUEM)
            sample = suem(sample, lambda r: self._donor(position, r), config.suem, config.clicks, rng)
        return sample, *sample_clicks(sample, config.clicks, self._rng(position, order.CLICKS))


def make_chunk(rows: Sequence[Row], config: TrainConfig, chunk: int, start: int = 0, stop: int | None = None) -> Batch:
    """Samples start..stop-1 of a chunk (default: all `data.chunk`).

    Args:
        rows: the rows of the chunk's row group.
        config: seed, data, suem and clicks are used.
        chunk: index of the chunk in the plan; keys the randomness.

    Returns:
        image (N, C, C, 3) uint8 RGB; target (N, C, C) int8, 1 object, 0 background, -1 ignore;
        points (N, 2 * max_points, 3) float32 (`clicks.encode`); image_id (N,) str;
        bad (N,) str, the image that could not be decoded and was replaced by another one, or "";
        chunk (N,) int64 and row (N,) int32, where the sample stands in the plan.

    Raises:
        UserError: no row decodes, or SUEM without a second sample to draw donors from.
    """
    if config.data.chunk < 2 and not config.suem.off:
        raise UserError("SUEM needs donors: data.chunk must be at least 2 (or switch all suem.*_prob to 0).")
    maker = _Maker(rows, config, chunk)
    positions = range(config.data.chunk)[start:stop]
    count, side = len(positions), config.data.crop
    images = np.empty((count, side, side, 3), np.uint8)
    targets = np.empty((count, side, side), np.int8)
    points = np.empty((count, 2 * config.clicks.max_points, 3), np.float32)
    names = []
    for i, position in enumerate(positions):
        sample, targets[i], points[i] = maker.sample(position)
        images[i] = sample.image
        names.append(sample.image_id)
    return {
        "image": images,
        "target": targets,
        "points": points,
        "image_id": np.array(names, object),
        "bad": np.array([maker.bad.get(p, "") for p in positions], object),
        "chunk": np.full(count, chunk, np.int64),
        "row": np.array(positions, np.int32),
    }
