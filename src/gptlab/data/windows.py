"""How windows lie in a dataset: from a window's number to its stretch of tokens.

    stream    |--0--|--1--|--2--|            end to end, across documents
    chunk     |--0--|-1|  |--2--|  |3|       each document by itself
    segment   |--0--|                        one every `stride` tokens, overlapping
                |--1--|
                  |--2--|
    conversations  |--0--|  |--1--|          whole documents, packed: `packing`

A window (start, length) reads tokens[start : start + length], and its targets are the tokens one
further on. Nothing is copied or listed: a number becomes a stretch by arithmetic when it is read.
"""

from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from gptlab.data.packing import PackedTokens
from gptlab.data.permutation import random_words
from gptlab.data.shards import Int64Array, TokenDataset
from gptlab.errors import ConfigError, DataError
from gptlab.numbers import mix

BoolArray = npt.NDArray[np.bool_]

# Windows that are hashed to find one of them, and at a time when all are counted.
_BLOCK = 1 << 8
_PASS = 1 << 20


class Spans(NamedTuple):
    """Where windows begin and how many inputs each has, (n,) int64 each."""

    starts: Int64Array
    lengths: Int64Array


class Windows(Protocol):
    """The windows of a dataset, numbered from 0; as many in every epoch."""

    @property
    def count(self) -> int:
        """Number of windows."""

    @property
    def length(self) -> int:
        """Inputs of the longest window that there may be."""

    def spans(self, numbers: Int64Array, *, epoch: int) -> Spans:
        """Where the windows `numbers`, (n,) int64 from 0 to count - 1, lie in `epoch`."""


def make_windows(
    dataset: TokenDataset, *, seq_len: int, seed: int = 0, shuffle: bool = False
) -> Windows:
    """The windows of `dataset` as it was prepared, for a model that reads `seq_len` tokens.

    Args:
        dataset: Whose `windows` say the mode, and whose manifest may hold out a part of them.
        seq_len: Length of the windows in mode stream; the most that is allowed in others.
        seed: Of the borders in mode stream.
        shuffle: Whether these borders move from epoch to epoch.

    Raises:
        DataError: There is no window.
        ConfigError: The windows are longer than `seq_len`.
    """
    config = dataset.windows
    if config.length is None:
        _require(dataset, seq_len, remedy="write a smaller --seq_len, or give more text")
        return StreamWindows(len(dataset), length=seq_len, seed=seed, shuffle=shuffle)
    flag = "segment_len" if config.mode == "segment" else "seq_len"
    if config.length > seq_len:
        raise ConfigError(
            f"the windows of {dataset.folder} have {config.length} tokens, but seq_len is "
            f"{seq_len}; prepare the data again with --{flag} {seq_len}, or train with --seq_len "
            f"{config.length}"
        )
    if config.mode == "conversations":
        return _packed(dataset, config.length)
    if config.mode == "chunk":
        return _chunks(dataset, config.length, keep_short=config.short != "drop")
    _require(dataset, config.length, remedy="prepare it again with a smaller --segment_len")
    segments = SegmentWindows(len(dataset), length=config.length, stride=config.stride)
    held_out = dataset.held_out
    if held_out is None:
        return segments
    part = PartOfWindows(segments, **held_out)
    if part.count == 0:
        raise DataError(
            f"{dataset.folder} has {segments.count:,} windows, but none of them is in its part "
            f"'{held_out['part']}'; prepare it again with another --dev_size, or give more text"
        )
    return part


class StreamWindows:
    """Windows of `length` tokens, end to end over the whole dataset.

    In order, they begin at the first token. Shuffled, they begin at an offset that is drawn for
    each epoch, so that borders move and each token comes to stand at each place of a window.
    """

    def __init__(self, tokens: int, *, length: int, seed: int = 0, shuffle: bool = False) -> None:
        self.length = length
        self._seed = seed
        if shuffle:
            # One window less than there could be leaves room for an offset of any size below one.
            self.count = max(1, (tokens - length) // length)
            self._room = tokens - 1 - self.count * length
        else:
            self.count = max(tokens - 1, 0) // length
            self._room = 0

    def spans(self, numbers: Int64Array, *, epoch: int) -> Spans:
        """Where the windows `numbers` lie in `epoch`."""
        starts = self._offset(epoch) + numbers * self.length
        return Spans(starts, np.full_like(starts, self.length))

    def _offset(self, epoch: int) -> int:
        if self._room == 0:
            return 0
        # The third word keeps this apart from the order of the same epoch.
        drawn = random_words(self._seed, epoch, 1, count=1)
        return int(drawn[0]) % (self._room + 1)


class ChunkWindows:
    """Windows of `length` tokens from the start of each document, never beyond its end.

    Keeps 8 bytes a document in memory, and takes some 40 while it is made.

    Args:
        document_ends: (documents,) integers, the tokens up to and with each document's end.
        length: Inputs of a full window.
        keep_short: Whether a document's last window may be shorter, or is left out then.
    """

    def __init__(self, document_ends: npt.NDArray[Any], *, length: int, keep_short: bool) -> None:
        self.length = length
        self._ends = document_ends
        ends = document_ends.astype(np.int64)
        # The last token of a document is a target only.
        targets = np.maximum(np.diff(ends, prepend=0) - 1, 0)
        counts = -(-targets // length) if keep_short else targets // length
        self._up_to = np.cumsum(counts)
        self.count = int(self._up_to[-1]) if self._up_to.size else 0

    def spans(self, numbers: Int64Array, *, epoch: int) -> Spans:  # noqa: ARG002 (a stream needs it)
        """Where the windows `numbers` lie, in any epoch."""
        documents = np.searchsorted(self._up_to, numbers, side="right")
        pieces = numbers - _before(self._up_to, documents)
        starts = _before(self._ends, documents) + pieces * self.length
        targets = self._ends[documents].astype(np.int64) - 1 - starts
        return Spans(starts, np.minimum(targets, self.length))


class SegmentWindows:
    """Windows of `length` tokens that start every `stride` tokens, across documents."""

    def __init__(self, tokens: int, *, length: int, stride: int) -> None:
        self.length, self._stride = length, stride
        self.count = max(0, (tokens - 1 - length) // stride + 1)

    def spans(self, numbers: Int64Array, *, epoch: int) -> Spans:  # noqa: ARG002 (a stream needs it)
        """Where the windows `numbers` lie, in any epoch."""
        starts = numbers * self._stride
        return Spans(starts, np.full_like(starts, self.length))


class PackedWindows:
    """Windows of whole documents, in the order of `PackedTokens`."""

    def __init__(self, tokens: PackedTokens, *, length: int) -> None:
        self.tokens, self.length = tokens, length
        self.count = tokens.window_ends.size

    def spans(self, numbers: Int64Array, *, epoch: int) -> Spans:  # noqa: ARG002 (a stream needs it)
        """Where the windows `numbers` lie among the packed tokens, in any epoch."""
        starts = _before(self.tokens.window_ends, numbers)
        return Spans(starts, self.tokens.window_ends[numbers] - starts - 1)


class PartOfWindows:
    """Those of `windows` that were held out, or the others, numbered anew.

    Keeps one count for each 256 windows, 3 MB for a hundred million, and hashes 256 windows to
    find one; all are hashed once when it is made.

    Args:
        windows: All of them.
        share: Of the windows that are held out, at least 0 and below 1.
        seed: Of the choice.
        part: "dev" for those that are held out, "train" for the others.
    """

    def __init__(self, windows: Windows, *, share: float, seed: int, part: str) -> None:
        self.length = windows.length
        self._windows, self._share, self._seed = windows, share, seed
        self._held_out = part == "dev"
        counts = [np.zeros(0, dtype=np.int64)]
        for first in range(0, windows.count, _PASS):
            own = self._own(np.arange(first, min(first + _PASS, windows.count)))
            blocks = np.arange(0, own.size, _BLOCK)
            counts.append(np.add.reduceat(own.astype(np.int64), blocks))
        self._up_to = np.cumsum(np.concatenate(counts))
        self.count = int(self._up_to[-1]) if self._up_to.size else 0

    def spans(self, numbers: Int64Array, *, epoch: int) -> Spans:
        """Where the windows `numbers` lie in `epoch`."""
        blocks = np.searchsorted(self._up_to, numbers, side="right")
        candidates = blocks[:, np.newaxis] * _BLOCK + np.arange(_BLOCK)
        ranks = np.cumsum(self._own(candidates), axis=1)
        wanted = numbers - _before(self._up_to, blocks) + 1
        found = np.argmax(ranks == wanted[:, np.newaxis], axis=1)
        return self._windows.spans(blocks * _BLOCK + found, epoch=epoch)

    def _own(self, numbers: Int64Array) -> BoolArray:
        held_out = is_held_out(numbers, share=self._share, seed=self._seed)
        return held_out if self._held_out else ~held_out


def is_held_out(numbers: Int64Array, *, share: float, seed: int) -> BoolArray:
    """Whether each of the windows `numbers` is held out, bool of the same shape.

    A window's fate is a number of SplitMix64's sequence at its place, so it depends on the seed
    and its number alone.
    """
    drawn = mix(
        random_words(seed, count=1) + numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    )
    return drawn < np.uint64(int(share * 2**64))


def _before(up_to: npt.NDArray[Any], index: npt.NDArray[np.intp]) -> Int64Array:
    """The sum up to the entry before `index` of sums `up_to` each entry."""
    return np.where(index > 0, up_to[np.maximum(index - 1, 0)].astype(np.int64), 0)


def _chunks(dataset: TokenDataset, length: int, *, keep_short: bool) -> ChunkWindows:
    windows = ChunkWindows(dataset.document_ends, length=length, keep_short=keep_short)
    if windows.count == 0:
        need = 2 if keep_short else length + 1
        remedy = "from" if keep_short else "with --short keep, a smaller --seq_len, or"
        raise DataError(
            f"no document of {dataset.folder} has the {need} tokens that a window takes; "
            f"prepare it again {remedy} longer documents"
        )
    return windows


def _packed(dataset: TokenDataset, length: int) -> PackedWindows:
    windows = PackedWindows(PackedTokens(dataset, length=length), length=length)
    if windows.count == 0:
        raise DataError(
            f"no conversation of {dataset.folder} has the 2 tokens that a window takes; prepare it "
            "again from longer ones"
        )
    return windows


def _require(dataset: TokenDataset, length: int, *, remedy: str) -> None:
    if len(dataset) <= length:
        raise DataError(
            f"the training text has {len(dataset):,} tokens, but one window takes "
            f"{length + 1:,}; {remedy}"
        )
