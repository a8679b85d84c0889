"""Runs of n tokens within documents: where those of one dataset stand in another.

    tokens   a b c d | a b c ...        documents end at |
    runs     abc bcd   abc ...          n = 3; none crosses the end of a document

Runs are compared by their hashes, which are polynomials of the tokens as in Karp and Rabin 1987
(https://doi.org/10.1147/rd.312.0249), and then token by token, so that what is found is exact.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gptlab.data.shards import Int64Array, TokenDataset
from gptlab.data.windows import is_held_out

# What a block needs stays in a processor's cache.
_BLOCK = 1 << 16
_MIX = np.uint64(0xBF58476D1CE4E5B9)
_HALF = np.uint64(32)
_MAX_TABLE_BITS = 28
"""Of a table with a byte for each."""

UInt64Array = npt.NDArray[np.uint64]
BoolArray = npt.NDArray[np.bool_]


class NGrams(NamedTuple):
    """The runs of n tokens in a dataset, and which of them are the same."""

    dataset: TokenDataset
    n: int
    places: Int64Array
    """Where each run begins, ascending, (runs,)."""
    groups: Int64Array
    """The number of each run's content, (runs,)."""
    hashes: UInt64Array
    """The hash of each content, ascending, (contents,); no two have the same."""
    samples: Int64Array
    """A place where each content stands, (contents,)."""
    multiplier: int
    """Of the hashes."""


def collect_ngrams(dataset: TokenDataset, n: int) -> NGrams:
    """All runs of `n` tokens in `dataset`, some 50 bytes each."""
    attempt = 0
    while True:
        ngrams = _collect(dataset, n, _multiplier(attempt))
        others = np.flatnonzero(ngrams.places != ngrams.samples[ngrams.groups])
        if all(
            np.array_equal(
                dataset.read_many(ngrams.places[part], n),
                dataset.read_many(ngrams.samples[ngrams.groups[part]], n),
            )
            for part in np.array_split(others, 1 + others.size // _BLOCK)
        ):
            return ngrams
        attempt += 1


def first_places(ngrams: NGrams, dataset: TokenDataset) -> Int64Array:
    """Where in `dataset` each content of `ngrams` stands first, (contents,); -1 for nowhere.

    Reads `dataset` through once, block by block.
    """
    places = np.full(ngrams.hashes.size, -1, np.int64)
    if not ngrams.hashes.size:
        return places
    # Most runs are not among those wanted, and a look at a table is enough to say so.
    bits = min((16 * ngrams.hashes.size).bit_length(), _MAX_TABLE_BITS)
    shift = np.uint64(64 - bits)
    table = np.zeros(1 << bits, np.bool_)
    table[ngrams.hashes >> shift] = True
    for start, stop in _blocks(dataset):
        tokens = _tokens(dataset, start, stop, ngrams.n)
        hashes = _hashes(tokens, ngrams.n, ngrams.multiplier)
        found = np.flatnonzero(table[hashes >> shift])
        groups = np.searchsorted(ngrams.hashes, hashes[found])
        groups[groups == ngrams.hashes.size] = 0
        is_new = (ngrams.hashes[groups] == hashes[found]) & (places[groups] < 0)
        if is_new.any():
            is_new &= run_starts(dataset, start, stop, ngrams.n)[found]
            found, groups = found[is_new], groups[is_new]
            contents = ngrams.dataset.read_many(ngrams.samples[groups], ngrams.n)
            is_equal = (_windows(tokens, ngrams.n)[found] == contents).all(axis=1)
            new, first = np.unique(groups[is_equal], return_index=True)
            places[new] = start + found[is_equal][first]
    return places


def run_starts(dataset: TokenDataset, start: int, stop: int, n: int) -> BoolArray:
    """Whether a run of `n` tokens begins at each place from `start` to `stop`, (stop - start,).

    It has to end in the document in which it begins, and where the dataset shares its tokens with
    another part, to lie in one of its own windows.
    """
    mask = np.arange(start, stop) <= len(dataset) - n
    ends = dataset.document_ends
    # Only ends behind the first token of a run, and before its last, are in its way.
    first, last = np.searchsorted(ends, np.array([start + 1, stop + n - 1], ends.dtype))
    inner = ends[first:last].astype(np.int64) - start
    for back in range(1, n):
        cut = inner - back
        mask[cut[(cut >= 0) & (cut < mask.size)]] = False
    if dataset.held_out is not None:
        mask &= _in_own_windows(dataset, start, stop, n)
    return mask


def count_tokens(dataset: TokenDataset) -> int:
    """Tokens of a dataset; where it shares them with another part, those in its own windows."""
    return sum(int(run_starts(dataset, start, stop, 1).sum()) for start, stop in _blocks(dataset))


def _collect(dataset: TokenDataset, n: int, multiplier: int) -> NGrams:
    places, hashes = [np.empty(0, np.int64)], [np.empty(0, np.uint64)]
    for start, stop in _blocks(dataset):
        found = np.flatnonzero(run_starts(dataset, start, stop, n))
        places.append(start + found)
        hashes.append(_hashes(_tokens(dataset, start, stop, n), n, multiplier)[found])
    all_places = np.concatenate(places)
    contents, first, groups = np.unique(
        np.concatenate(hashes), return_index=True, return_inverse=True
    )
    return NGrams(dataset, n, all_places, groups, contents, all_places[first], multiplier)


def _multiplier(attempt: int) -> int:
    """An odd number, another for each attempt."""
    return 0x9E3779B97F4A7C15 * (2 * attempt + 1) % 2**64


def _blocks(dataset: TokenDataset) -> Iterator[tuple[int, int]]:
    for start in range(0, len(dataset), _BLOCK):
        yield start, min(start + _BLOCK, len(dataset))


def _tokens(dataset: TokenDataset, start: int, stop: int, n: int) -> Int64Array:
    """The tokens of all runs that begin from `start` to `stop`, zeros behind the last token."""
    tokens = dataset.read(start, min(stop + n - 1, len(dataset)) - start)
    return np.pad(tokens, (0, stop + n - 1 - start - tokens.size))


def _windows(tokens: Int64Array, n: int) -> Int64Array:
    return np.lib.stride_tricks.sliding_window_view(tokens, n)


def _hashes(tokens: Int64Array, n: int, multiplier: int) -> UInt64Array:
    """The hash of each run of `n` of `tokens`, (tokens - n + 1,)."""
    single = tokens.astype(np.uint64) * _MIX
    single ^= single >> _HALF
    hashes, width = single, 1
    # The bits of n below the highest: a run is doubled at each, and one longer where it is 1.
    for bit in f"{n:b}"[1:]:
        power = np.uint64(pow(multiplier, width, 2**64))
        hashes = hashes[:-width] * power + hashes[width:]
        width *= 2
        if bit == "1":
            hashes = hashes[:-1] * np.uint64(multiplier) + single[width:]
            width += 1
    hashes ^= hashes >> _HALF
    return hashes * _MIX


def _in_own_windows(dataset: TokenDataset, start: int, stop: int, n: int) -> BoolArray:
    held_out, config = dataset.held_out, dataset.windows
    assert held_out is not None
    # A window's last token is a target only.
    length = config.segment_len + 1
    count = max(0, (len(dataset) - length) // config.stride + 1)
    first = max(0, (start - length) // config.stride)
    numbers = np.arange(first, min(stop // config.stride + 1, count))
    is_dev = is_held_out(numbers, share=held_out["share"], seed=held_out["seed"])
    begins = numbers[is_dev == (held_out["part"] == "dev")] * config.stride
    room = length - n + 1
    if room < 1:
        return np.zeros(stop - start, np.bool_)
    begun = np.bincount(np.clip(begins - start, 0, stop - start), minlength=stop - start + 1)
    ended = np.bincount(np.clip(begins + room - start, 0, stop - start), minlength=stop - start + 1)
    return np.cumsum(begun - ended)[: stop - start] > 0
