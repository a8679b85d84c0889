"""Tokens to batches, as a pure function of the seed and the step.

    tokens   t0 t1 t2 t3 | t4 t5 t6 t7 | t8 ...        windows of seq_len, each once an epoch
    order    w2 w0 w1    | w1 w2 w0    | ...           a permutation an epoch, end to end
    batches  w2 w0 | w1 w1 | w2 w0 | ...               cut from that endless order

Letters: B batch, T window length.
"""

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from gptlab.data.shards import Int64Array, TokenDataset
from gptlab.errors import DataError


class Batch(NamedTuple):
    """Windows and the token that follows each of their tokens, (B, T) int64 each."""

    inputs: Int64Array
    targets: Int64Array


class WindowSampler:
    """Every window of `seq_len` tokens once an epoch, shuffled anew each epoch or in order.

    Raises:
        DataError: The dataset is shorter than one window and the token after it.
    """

    def __init__(
        self, dataset: TokenDataset, *, seq_len: int, batch_size: int, seed: int, shuffle: bool
    ) -> None:
        self.num_windows = (len(dataset) - 1) // seq_len
        if self.num_windows < 1:
            raise DataError(
                f"the training text has {len(dataset):,} tokens, but one window takes "
                f"{seq_len + 1:,}; write a smaller --seq_len, or give more text"
            )
        self._dataset = dataset
        self._seq_len, self._batch_size = seq_len, batch_size
        self._seed, self._shuffle = seed, shuffle
        # A batch reads one epoch's order, or two where it crosses their border.
        self._order = lru_cache(maxsize=2)(self._make_order)

    def batch(self, step: int) -> Batch:
        """What step `step`, counted from 0, reads."""
        places = range(step * self._batch_size, (step + 1) * self._batch_size)
        return _stack(self._dataset, [self._window(place) for place in places], self._seq_len)

    def epoch(self, step: int) -> float:
        """Epochs read before step `step`."""
        return step * self._batch_size / self.num_windows

    def step_at(self, epoch: float) -> int:
        """The first step before which `epoch` epochs have been read."""
        guess = math.ceil(epoch * self.num_windows / self._batch_size)
        # The product may be rounded across an integer, either way.
        return next(step for step in (guess - 1, guess, guess + 1) if self.epoch(step) >= epoch)

    def _window(self, place: int) -> int:
        epoch, index = divmod(place, self.num_windows)
        return int(self._order(epoch)[index]) if self._shuffle else index

    def _make_order(self, epoch: int) -> Int64Array:
        return np.random.default_rng((self._seed, epoch)).permutation(self.num_windows)


def sequential_batches(dataset: TokenDataset, *, seq_len: int, batch_size: int) -> Iterator[Batch]:
    """The whole dataset in order, every token but the first a target exactly once.

    The last window may be shorter; it comes in a batch of its own.
    """
    windows, rest = divmod(max(len(dataset) - 1, 0), seq_len)
    for first in range(0, windows, batch_size):
        indices = list(range(first, min(first + batch_size, windows)))
        yield _stack(dataset, indices, seq_len)
    if rest > 0:
        tokens = dataset.read(windows * seq_len, rest + 1)[np.newaxis]
        yield Batch(tokens[:, :-1], tokens[:, 1:])


def _stack(dataset: TokenDataset, windows: list[int], seq_len: int) -> Batch:
    tokens = np.stack([dataset.read(window * seq_len, seq_len + 1) for window in windows])
    return Batch(tokens[:, :-1], tokens[:, 1:])
