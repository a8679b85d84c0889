"""Whole documents in windows: which go together, and the tokens in that order.

    documents   d0 d0 d0 d0 | d1 d1 | d2 d2 d2 | d3 d3
    windows     |d0 d0 d0 d0 .. ..|  |d1 d1 d3 d3 .. ..|  |d2 ...

Documents are packed by best fit in decreasing order of length: each goes where the least room is
left that it fits into, which wastes little (Johnson 1973, "Near-optimal bin packing algorithms",
https://dspace.mit.edu/handle/1721.1/57819). That is done block by block of documents, so that those
of a window are near each other in the data, and which go together is a function of their lengths.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gptlab.data.shards import Int64Array, TokenDataset

BoolArray = npt.NDArray[np.bool_]

_BLOCK = 1 << 12
# Windows whose marks are read at a time.
_WINDOWS = 1 << 8


@dataclass(frozen=True)
class Packing:
    """How well documents fill windows."""

    windows: int
    targets: int
    """Tokens in the windows that count as targets: the assistant's."""
    filled: float
    """Share of the windows' places that hold a token."""
    num_cut: int
    """Documents that are longer than a window, and lose their end."""


def pack(lengths: Int64Array, *, capacity: int) -> Iterator[list[int]]:
    """The numbers of the documents of each bin, ascending; bins in order of their first ones.

    Args:
        lengths: Of each document, (n,), from 1 to `capacity`.
        capacity: Of a bin.
    """
    for first in range(0, lengths.size, _BLOCK):
        yield from _packed_block(lengths[first : first + _BLOCK].tolist(), first, capacity)


def _packed_block(lengths: list[int], first: int, capacity: int) -> list[list[int]]:
    bins: list[list[int]] = []
    # Room and number of each bin, least room first.
    open_bins: list[tuple[int, int]] = []
    for number in sorted(range(len(lengths)), key=lambda number: (-lengths[number], number)):
        place = bisect_left(open_bins, (lengths[number], 0))
        if place == len(open_bins):
            room, chosen = capacity, len(bins)
            bins.append([])
        else:
            room, chosen = open_bins.pop(place)
        bins[chosen].append(first + number)
        if room > lengths[number]:
            insort(open_bins, (room - lengths[number], chosen))
    return sorted(sorted(one) for one in bins)


class PackedTokens:
    """The documents of a dataset in the order of their windows, each no longer than a window.

    What a document has beyond a window's tokens, at its end, is left out, and so is a document in
    which nothing is to be predicted then. Keeps 32 bytes a document in memory.

    Args:
        dataset: Whose documents.
        length: Inputs of a window; it has one more token, the last target.
    """

    def __init__(self, dataset: TokenDataset, *, length: int) -> None:
        self.dataset = dataset
        ends = dataset.document_ends.astype(np.int64)
        sizes = np.diff(ends, prepend=0)
        self.num_cut = int((sizes > length + 1).sum())
        """Documents that are longer than a window."""
        begins = ends - sizes
        sizes = np.minimum(sizes, length + 1)
        kept = np.flatnonzero(self._have_targets(begins, sizes, cut=ends - begins > sizes))
        bins = list(pack(sizes[kept], capacity=length + 1))
        order = kept[np.array([number for one in bins for number in one], np.int64)]
        self._begins = begins[order]
        self._ends = np.cumsum(sizes[order])
        counts = np.array([len(one) for one in bins], np.int64)
        self.window_ends: Int64Array = self._ends[np.cumsum(counts) - 1]
        """(windows,) tokens up to and with the end of each window."""
        self.document_ends: npt.NDArray[np.uint64] = self._ends.astype(np.uint64)
        """(documents,) tokens up to and with the end of each document."""

    def __len__(self) -> int:
        """Number of tokens in the windows."""
        return int(self._ends[-1]) if self._ends.size else 0

    def read_many(self, starts: npt.ArrayLike, length: int) -> Int64Array:
        """As of a dataset, (n, length) tokens, in the order of the windows."""
        out = np.empty((np.size(starts), length), np.int64)
        for piece, place in self._pieces(starts, out):
            piece[:] = self.dataset.read(place, piece.size)
        return out

    @property
    def is_masked(self) -> bool:
        """Whether some tokens do not count as targets."""
        return self.dataset.is_masked

    def read_marks(self, starts: npt.ArrayLike, length: int) -> Int64Array:
        """As of a dataset, in the order of the windows."""
        out = np.empty((np.size(starts), length), np.int64)
        for piece, place in self._pieces(starts, out):
            piece[:] = self.dataset.read_marks([place], piece.size)[0]
        return out

    def _have_targets(self, begins: Int64Array, sizes: Int64Array, *, cut: BoolArray) -> BoolArray:
        """Which documents have a token to predict; of whole ones it is known."""
        have = sizes >= 2
        for number in np.flatnonzero(cut & have & self.is_masked).tolist():
            marks = self.dataset.read_marks([begins[number]], int(sizes[number]))
            have[number] = marks.any()
        return have

    def _pieces(self, starts: npt.ArrayLike, out: Int64Array) -> Iterator[tuple[Int64Array, int]]:
        """Each part of `out` that is of one document, and where in the dataset it is from."""
        for row, start in zip(out, np.asarray(starts, np.int64).tolist(), strict=True):
            document = int(np.searchsorted(self._ends, start, side="right"))
            done = 0
            while done < row.size:
                first = int(self._ends[document - 1]) if document else 0
                end, offset = int(self._ends[document]), start + done - first
                piece = row[done : done + end - first - offset]
                yield piece, int(self._begins[document]) + offset
                done, document = done + piece.size, document + 1


def packing_of(dataset: TokenDataset) -> Packing:
    """How the documents of a masked dataset fill its own windows."""
    length = dataset.windows.seq_len
    tokens = PackedTokens(dataset, length=length)
    targets, size = 0, len(tokens)
    for start in range(0, size, _WINDOWS * length):
        count = min(_WINDOWS * length, size - start)
        targets += int(tokens.read_marks([start], count).sum())
    windows = tokens.window_ends.size
    filled = size / (windows * (length + 1)) if windows else 0.0
    return Packing(windows, targets, filled, tokens.num_cut)
