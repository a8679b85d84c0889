"""Tokens to batches, as a pure function of the seed, the step and the rank.

    windows  w0 w1 w2                                  how they lie in the tokens: `windows`
    order    w2 w0 w1    | w1 w2 w0    | ...           a permutation an epoch, end to end
    batches  w2 w0 | w1 w1 | w2 w0 | ...               cut from that endless order
    ranks    w2    | w1    | w2    | ...               rank 0 of 2 reads every second row

Letters: B batch, T window length.
"""

import math
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import groupby
from operator import itemgetter

import numpy as np

from gptlab.data.batches import AnyBatch, Batch, read_batch
from gptlab.data.permutation import permuted
from gptlab.data.shards import TokenDataset
from gptlab.data.windows import PackedWindows, Spans, StreamWindows, make_windows
from gptlab.errors import ConfigError


class Sampler(ABC):
    """An endless row of batches, each a pure function of its step and of who asks.

    Args:
        steps_per_epoch: How many batches hold everything once; a fraction where one may hold the
            end of an epoch and the start of the next.
    """

    def __init__(self, *, steps_per_epoch: Fraction | int) -> None:
        self.steps_per_epoch = Fraction(steps_per_epoch)

    @property
    @abstractmethod
    def most_rows(self) -> int:
        """The most rows of a batch, over all processes."""

    @abstractmethod
    def batch(self, step: int, *, rank: int = 0, world_size: int = 1) -> AnyBatch:
        """What `rank` of `world_size` processes reads at step `step`, counted from 0.

        All processes together read the same rows whatever their number, rank `r` the rows r,
        r + world_size, r + 2 * world_size, ...
        """

    def epoch(self, step: int) -> float:
        """Epochs read before step `step`."""
        return float(step / self.steps_per_epoch)

    def step_at(self, epoch: float) -> int:
        """The first step before which `epoch` epochs have been read."""
        enough = math.ceil(Fraction(epoch) * self.steps_per_epoch)
        # An earlier step will do where its epochs, a rounded number, come out the same.
        return bisect_left(range(enough), epoch, key=self.epoch)


class RowSampler(Sampler):
    """An endless row of windows, or of texts with labels, cut into batches of one size."""

    def __init__(self, *, num_windows: int, batch_size: int) -> None:
        super().__init__(steps_per_epoch=Fraction(num_windows, batch_size))
        self.num_windows, self.batch_size = num_windows, batch_size

    @property
    def most_rows(self) -> int:
        """Those of every batch."""
        return self.batch_size

    @abstractmethod
    def rows(self, places: Sequence[int]) -> AnyBatch:
        """The windows at `places` of the endless row, at least one, as rows in that order."""

    def batch(self, step: int, *, rank: int = 0, world_size: int = 1) -> AnyBatch:
        """What `rank` of `world_size` processes reads at step `step`: `batch_size` rows in all.

        Raises:
            ConfigError: There are more processes than rows.
        """
        require_rows(self.batch_size, world_size)
        first = step * self.batch_size
        return self.rows(range(first + rank, first + self.batch_size, world_size))


def require_rows(batch_size: int, world_size: int) -> None:
    """Make sure that each process has a row of every batch.

    Raises:
        ConfigError: There are more processes than rows.
    """
    if world_size > batch_size:
        raise ConfigError(
            f"batch_size is {batch_size}, too few for {world_size} processes; "
            f"write --batch_size {world_size} or more"
        )


class WindowSampler(RowSampler):
    """Every window of a dataset once an epoch, shuffled anew each epoch or in order.

    Args:
        dataset: Its preparation says how windows are cut.
        seq_len: What the model reads, and so the length of a window unless the dataset has one.
        batch_size: Rows of a step, over all processes.
        seed: Of the order.
        shuffle: Whether the order is random; the borders of mode stream move then, too.
        document_mask: Whether batches have `documents`; those of conversations if None.
        reset_positions: Whether batches have `positions`; those of conversations if None.

    Raises:
        DataError: The dataset has not one window.
        ConfigError: Its windows are longer than `seq_len`.
    """

    def __init__(
        self,
        dataset: TokenDataset,
        *,
        seq_len: int,
        batch_size: int,
        seed: int,
        shuffle: bool,
        document_mask: bool | None = None,
        reset_positions: bool | None = None,
    ) -> None:
        self._windows = make_windows(dataset, seq_len=seq_len, seed=seed, shuffle=shuffle)
        super().__init__(num_windows=self._windows.count, batch_size=batch_size)
        self.dataset, self.length = dataset, self._windows.length
        is_packed = isinstance(self._windows, PackedWindows)
        self.document_mask = is_packed if document_mask is None else document_mask
        self.reset_positions = is_packed if reset_positions is None else reset_positions
        self._seed, self._shuffle = seed, shuffle
        self._has_fixed_width = is_packed or dataset.windows.short == "pad"

    def rows(self, places: Sequence[int]) -> Batch:
        """The windows at `places` of the endless row, at least one, as rows in that order."""
        spans = self.spans(places)
        return self.read(spans, width=self.width(spans))

    def spans(self, places: Sequence[int]) -> Spans:
        """Where the windows at `places` lie in the dataset."""
        turns = (divmod(place, self.num_windows) for place in places)
        pieces = []
        for epoch, group in groupby(turns, key=itemgetter(0)):
            numbers = np.array([number for _, number in group], dtype=np.int64)
            if self._shuffle:
                numbers = permuted(numbers, self.num_windows, seed=self._seed, epoch=epoch)
            pieces.append(self._windows.spans(numbers, epoch=epoch))
        starts, lengths = zip(*pieces, strict=True)
        return Spans(np.concatenate(starts), np.concatenate(lengths))

    def width(self, spans: Spans) -> int:
        """The width of a batch of these windows."""
        return self.length if self._has_fixed_width else int(spans.lengths.max())

    def read(self, spans: Spans, *, width: int) -> Batch:
        """The windows `spans`, filled up to `width` where they are shorter."""
        windows = self._windows
        return read_batch(
            windows.tokens if isinstance(windows, PackedWindows) else self.dataset,
            spans,
            fill=self.dataset.manifest.get("pad_id") or 0,
            width=width,
            document_mask=self.document_mask,
            reset_positions=self.reset_positions,
        )


def has_own_windows(dataset: TokenDataset) -> bool:
    """Whether reading it in order means its windows: of documents, or with a part held out.

    The windows of mode segment overlap, so without a held-out part its tokens are a plain stream.
    """
    return dataset.windows.mode in ("chunk", "conversations") or dataset.held_out is not None


def sequential_batches(
    dataset: TokenDataset,
    *,
    seq_len: int,
    batch_size: int,
    document_mask: bool | None = None,
    reset_positions: bool | None = None,
) -> Iterator[Batch]:
    """The whole dataset in order, every token but the first a target exactly once.

    The last window may be shorter; it comes in a batch of its own. A dataset that has windows of
    its own gives each of them once instead.

    Raises:
        DataError: There is no such window.
        ConfigError: Its windows are longer than `seq_len`.
    """
    if has_own_windows(dataset):
        sampler = WindowSampler(
            dataset,
            seq_len=seq_len,
            batch_size=batch_size,
            seed=0,
            shuffle=False,
            document_mask=document_mask,
            reset_positions=reset_positions,
        )
        for first in range(0, sampler.num_windows, batch_size):
            yield sampler.rows(range(first, min(first + batch_size, sampler.num_windows)))
        return
    flags = {"document_mask": bool(document_mask), "reset_positions": bool(reset_positions)}
    windows = StreamWindows(len(dataset), length=seq_len)
    for first in range(0, windows.count, batch_size):
        numbers = np.arange(first, min(first + batch_size, windows.count))
        yield read_batch(dataset, windows.spans(numbers, epoch=0), width=seq_len, **flags)
    read = windows.count * seq_len
    if len(dataset) - 1 > read:
        rest = Spans(np.array([read]), np.array([len(dataset) - 1 - read]))
        yield read_batch(dataset, rest, width=len(dataset) - 1 - read, **flags)
