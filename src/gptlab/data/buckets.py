"""Which pairs go together in a batch: those of like length, so that little of it is filling.

    cells    rows whose sources are about as long, and whose targets are
    order    a snake through the cells: targets longer and longer, then shorter and shorter
             source 1-8    |> |> |> |
             source 9-10   <| <| <| v
             source 11-12  |> |> |> |
    batches  the order, cut where the next rows would not fit

Where the cuts are depends on the cells alone. So the rows of a cell may change their places in each
epoch, and there are as many batches as before, none larger than it may be.
"""

import sys
from dataclasses import dataclass
from itertools import product

import numpy as np

from gptlab.data.permutation import random_words
from gptlab.data.shards import Int64Array
from gptlab.errors import ConfigError
from gptlab.numbers import UInt64Array, mix

# By how much lengths may differ within a cell: large cells leave more to chance, small ones fill
# less. With few rows, large ones fill less, too, as batches span cells.
_GROWTHS = (1.08, 1.15)
# Where more of a batch than this would be filling, it is ended before it is full,
_FILLINGS = (1.0, 0.2, 0.15, 0.12, 0.1, 0.08)
# but not with less than this share of its limit: each is a step, in which few tokens would count
# as much as many.
_LEAST = 1 / 10
# Smaller batches are not worth while where the filling of all is below this.
_ENOUGH = 0.09


@dataclass(frozen=True)
class BatchPlan:
    """The batches of an epoch."""

    cells: Int64Array
    """The number of each row's cell along the snake, (rows,)."""
    starts: Int64Array
    """The place in the order at which each batch begins, (batches,)."""
    padded: int
    """Tokens of all batches, filling included, at most."""

    def __len__(self) -> int:
        return len(self.starts)

    def order(self, *key: int) -> Int64Array:
        """The numbers of all rows, those of a cell shuffled by `key`, or in order without one."""
        if not key:
            return np.argsort(self.cells, kind="stable")
        return np.lexsort((_random(len(self.cells), *key), self.cells))

    def batch(self, order: Int64Array, place: int) -> Int64Array:
        """The rows of the batch at `place`."""
        end = self.starts[place + 1] if place + 1 < len(self) else len(order)
        return order[self.starts[place] : end]

    def filling(self, order: Int64Array, *lengths: Int64Array) -> float:
        """The share of the tokens of all batches that is filling, of texts of such `lengths`."""
        rows = np.diff(self.starts, append=len(order))
        padded = sum(rows @ np.maximum.reduceat(side[order], self.starts) for side in lengths)
        return float(1 - sum(side.sum() for side in lengths) / padded)


def plan_batches(
    sources: Int64Array,
    targets: Int64Array,
    *,
    batch_size: int | None = None,
    batch_tokens: int | None = None,
) -> BatchPlan:
    """Put rows of like length together.

    The fewest batches of which less than 9% is filling, or else those with the least of it. For
    that, batches are ended early, but none below a tenth of its limit.

    Args:
        sources: Tokens of each source, (rows,), at least one.
        targets: Tokens of each target, (rows,).
        batch_size: The most rows of a batch; all batches but the last have as many if there is no
            `batch_tokens`.
        batch_tokens: The most tokens of a batch, filling included: its rows times the sum of its
            longest source and its longest target.

    Raises:
        ConfigError: A pair alone has more tokens than `batch_tokens`, neither limit is given, or
            `batch_size` is not positive.
    """
    if batch_size is None and batch_tokens is None:
        raise ConfigError("batch_size and batch_tokens are both missing; give one of them")
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}; give 1 or more")
    longest = int((sources + targets).max())
    if batch_tokens is not None and longest > batch_tokens:
        raise ConfigError(
            f"batch_tokens is {batch_tokens}, but the longest pair alone has {longest} tokens; "
            f"write --batch_tokens {longest} or more, or a smaller --seq_len to leave it out"
        )
    limits = _Limits(batch_size or sys.maxsize, batch_tokens or sys.maxsize)
    fillings = _FILLINGS if batch_tokens else _FILLINGS[:1]
    snakes = [_snake(sources, targets, growth, limits.tokens) for growth in _GROWTHS]
    tokens = int(sources.sum() + targets.sum())
    plans = [_cut(snake, limits, filling) for snake, filling in product(snakes, fillings)]

    def worth(plan: BatchPlan) -> tuple[int, float]:
        filling = 1 - tokens / plan.padded
        return (len(plan), filling) if filling < _ENOUGH else (len(sources) + 1, filling)

    return min(plans, key=worth)


@dataclass(frozen=True)
class _Limits:
    """The most that a batch may have."""

    rows: int
    tokens: int


@dataclass(frozen=True)
class _Snake:
    """Cells in the order in which they are read, each with what its rows have at most."""

    cells: Int64Array
    """The number of each row's cell, (rows,)."""
    counts: Int64Array
    """Rows of each cell, (cells,)."""
    sources: Int64Array
    targets: Int64Array
    tokens: Int64Array
    """What the rows of each cell have together, without filling, (cells,)."""


def _snake(sources: Int64Array, targets: Int64Array, growth: float, most: int) -> _Snake:
    rows, columns = _levels(sources, growth), _levels(targets, growth)
    back = columns.max() - columns
    keys = rows * (columns.max() + 1) + np.where(rows % 2, back, columns)
    order = np.argsort(keys, kind="stable")
    begins = np.diff(keys[order], prepend=-1) > 0
    starts = np.flatnonzero(begins)
    # A cell of a long source and another row's long target may be too large for a batch.
    wide = np.maximum.reduceat(sources[order], starts) + np.maximum.reduceat(targets[order], starts)
    begins |= np.repeat(wide > most, np.diff(starts, append=len(order)))
    starts = np.flatnonzero(begins)
    cells = np.empty(len(order), dtype=np.int64)
    cells[order] = np.cumsum(begins) - 1
    return _Snake(
        cells,
        np.diff(starts, append=len(order)),
        np.maximum.reduceat(sources[order], starts),
        np.maximum.reduceat(targets[order], starts),
        np.add.reduceat((sources + targets)[order], starts),
    )


def _levels(lengths: Int64Array, growth: float) -> Int64Array:
    """Which of ever wider ranges each length is in; of a single length each at first."""
    ends, longest = [1], int(lengths.max())
    while ends[-1] < longest:
        ends.append(max(ends[-1] + 1, int(ends[-1] * growth)))
    return np.searchsorted(np.array(ends), lengths)


def _cut(snake: _Snake, limits: _Limits, filling: float) -> BatchPlan:
    """Cut the snake into batches, each as large as the limits and `filling` allow."""
    starts, padded = [0], 0
    rows, source, target, own = 0, 0, 0, 0.0
    for left, *longest, tokens in zip(
        snake.counts.tolist(),
        snake.sources.tolist(),
        snake.targets.tolist(),
        (snake.tokens / snake.counts).tolist(),
        strict=True,
    ):
        while left:
            width = max(source, longest[0]) + max(target, longest[1])
            more = min(left, limits.rows - rows, limits.tokens // width - rows)
            is_loose = (rows + more) * width * (1 - filling) > own + more * tokens
            is_worth_a_step = (
                rows >= limits.rows * _LEAST or rows * (source + target) >= limits.tokens * _LEAST
            )
            if more <= 0 or (is_loose and is_worth_a_step):
                starts.append(starts[-1] + rows)
                padded += rows * (source + target)
                rows, source, target, own = 0, 0, 0, 0.0
                continue
            source, target = max(source, longest[0]), max(target, longest[1])
            rows, left, own = rows + more, left - more, own + more * tokens
    return BatchPlan(snake.cells, np.array(starts), padded + rows * (source + target))


def _random(count: int, *key: int) -> UInt64Array:
    """A number for each of `count` rows, a pure function of `key`."""
    return mix(np.arange(count, dtype=np.uint64) + random_words(*key, count=1))
