"""Number the chunks of a text, so that each different one has to be looked at only once."""

from itertools import islice

import numpy as np
import numpy.typing as npt

from gptlab.tokenizer.chunks.splitting import Chunks, Flags, Ints

Words = npt.NDArray[np.uint64]

_SLOTS_LOG2 = 16
_LONGEST = 15
_NO_CHUNK = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
# How many low bytes of the first and the second word belong to a chunk of each length.
_BYTE_MASKS = np.array([(1 << 8 * count) - 1 for count in range(9)], np.uint64)
_FIRST_MASK = _BYTE_MASKS[[min(length, 8) for length in range(_LONGEST + 1)]]
_SECOND_MASK = _BYTE_MASKS[[max(length - 8, 0) for length in range(_LONGEST + 1)]]
_LENGTH_BYTE = np.arange(_LONGEST + 1, dtype=np.uint64) << np.uint64(56)
# Odd numbers without a pattern in their bits: multiplying by them spreads keys over the slots.
_FIRST_FACTOR, _SECOND_FACTOR = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)


class ChunkTable:
    """Gives equal chunks equal numbers, and each new one the next number, from 0 on.

    A dictionary would do, one look-up a chunk. But most chunks are short and seen before, so they
    are looked up all at once: up to 15 bytes and their length are two 64-bit words, a hash of the
    words names a slot, and the slot remembers the words and the number of the chunk that was put
    in it last. Chunks that are longer, or not in their slot, take the way through the dictionary.
    """

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._first, self._second = np.zeros((2, 1 << _SLOTS_LOG2), np.uint64)
        self._number = np.zeros(1 << _SLOTS_LOG2, np.int64)

    def __len__(self) -> int:
        return len(self._numbers)

    def chunks(self, start: int = 0) -> list[bytes]:
        """The chunks that have the numbers from `start` on."""
        newest_first = islice(reversed(self._numbers), len(self) - start)
        return [*newest_first][::-1]

    def number(self, chunks: Chunks) -> Ints:
        """The number of each chunk."""
        first, second = _words(chunks)
        slots = _slots(first, second)

        def absent() -> Flags:
            """Which of the chunks are not in their slots."""
            flags: Flags = (self._first[slots] != first) | (self._second[slots] != second)
            return flags

        numbers = self._number[slots]
        unknown = np.flatnonzero(absent())
        # One chunk for each slot is put there, after which most of the others are in theirs.
        short = unknown[chunks.lengths[unknown] <= _LONGEST]
        filled, one_each = np.unique(slots[short], return_index=True)
        put = short[one_each]
        self._first[filled], self._second[filled] = first[put], second[put]
        self._number[filled] = self._look_up(chunks, put)
        numbers[unknown] = self._number[slots[unknown]]
        rest = unknown[absent()[unknown]]
        numbers[rest] = self._look_up(chunks, rest)
        return numbers

    def _look_up(self, chunks: Chunks, which: Ints) -> Ints:
        data, numbers = chunks.data, self._numbers
        starts = chunks.starts[which]
        spans = zip(starts.tolist(), (starts + chunks.lengths[which]).tolist(), strict=True)
        found = [numbers.setdefault(data[start:stop], len(numbers)) for start, stop in spans]
        return np.array(found, np.int64)


def _words(chunks: Chunks) -> tuple[Words, Words]:
    """Each chunk's first 8 bytes; its next 7 and its length. If it is longer, words of no chunk."""
    padded = chunks.data + bytes(16)
    at_each_byte: Words = np.ndarray((len(padded) - 7,), "<u8", buffer=padded, strides=(1,))
    lengths = np.minimum(chunks.lengths, _LONGEST)
    first = at_each_byte.take(chunks.starts) & _FIRST_MASK[lengths]
    second = at_each_byte.take(chunks.starts + 8) & _SECOND_MASK[lengths] | _LENGTH_BYTE[lengths]
    first[chunks.lengths > _LONGEST] = _NO_CHUNK
    return first, second


def _slots(first: Words, second: Words) -> Ints:
    mixed = (first * _FIRST_FACTOR) ^ (second * _SECOND_FACTOR)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * _FIRST_FACTOR
    slots: Ints = (mixed >> np.uint64(64 - _SLOTS_LOG2)).astype(np.int64)
    return slots
