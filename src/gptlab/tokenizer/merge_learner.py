"""Learn the merges of a byte-level BPE tokenizer from text (Sennrich et al. 2016).

Byte-pair encoding starts with the bytes of the text, and again and again puts a new token in place
of the pair of neighbours that is the most frequent. Done literally, each of the thousands of merges
would read the whole text. Four observations make it a matter of seconds.

1. Text repeats itself. Chunks are counted first; merging then works on each different chunk
   once, with its count as a weight.
2. A merge changes only the places where its pair stands. So the places of each pair are kept.
3. A pair is never more frequent than when it is new. Pairs of known tokens can only be broken up by
   merges; new ones contain the new token. So counts need no upkeep: what was counted last is an
   upper bound, the pair with the highest bound is counted again, and if that is still its count,
   no other pair can be more frequent.
4. For the same reason a pair that counts less than the last merge that will be made is never of
   any use. That count, the floor, is guessed, rarer pairs are not kept at all, and should the
   guess turn out too high, all pairs are collected anew with a lower one.

A pair with many places is merged in all of them by one handful of array operations. In "aaa" the
pair (a, a) stands at two places and counts twice, though only one of them can be merged.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from heapq import heapify, heappop, heappush
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.integer[Any]]
Pair = tuple[int, int]
Places = list[int] | Ints
Candidate = tuple[int, int, int, Places]
"""Minus a bound of a pair's count, its two ids, and the places where its first id may stand.

As tuples compare, the lowest candidate is the most frequent pair and, among equals, the one with
the lowest ids. No two candidates have the same ids, so places are never compared.
"""

BYTES = 256
_BOUNDARY, _GONE = -1, -2
# The first floor is the bytes of text for each merge, divided by the share; a floor that proves too
# high is divided by the step.
_FLOOR_SHARE = 16
_FLOOR_STEP = 8
# Bytes of different chunks above which memory matters more than the last of the speed.
_LARGE = 1 << 21
# Up to this many places are faster one by one than with arrays.
_FEW = 20


class MergeLearner:
    """The different chunks of a corpus, end to end, as one linked list of ids with their counts.

    A place is an index into `_ids`; the place of a pair is that of its first id. `_next` and
    `_previous` lead from an id to its neighbours. A merge writes the new id at the first of the two
    places and `_GONE` at the second, so whether a pair still stands at a place can be looked up.

    Args:
        chunks: How often each chunk occurs.
        byte_order: The 256 bytes in the order of their ids.
    """

    def __init__(self, chunks: Mapping[bytes, int], byte_order: bytes) -> None:
        lengths = np.fromiter(map(len, chunks), np.int64, len(chunks))
        counts = np.fromiter(chunks.values(), np.int64, len(chunks))
        laid_out = b" ".join([b"", *chunks, b""]).translate(_inverse(byte_order))
        self._ids = np.frombuffer(laid_out, np.uint8).astype(np.int32)
        self._ids[np.cumsum(np.append(0, lengths + 1))] = _BOUNDARY
        size = len(self._ids)
        # Places of the processor's own width are the fastest, those of half of it save memory.
        width = np.int32 if _LARGE <= size < 1 << 31 else np.intp
        self._next: Ints = np.arange(1, size + 1, dtype=width)
        self._previous: Ints = np.arange(-1, size - 1, dtype=width)
        self._counts = np.append(0, np.repeat(counts, lengths + 1))

    def learn(self, num_merges: int) -> Iterator[Pair]:
        """Merge the most frequent pair, and yield it, `num_merges` times or until none is left.

        To be called once.
        """
        num_ids, last_id = BYTES, BYTES + num_merges - 1
        floor = max(1, int(self._counts.sum()) // (_FLOOR_SHARE * max(1, num_merges)))
        while True:
            heap = self._candidates(num_ids, floor)
            while heap and num_ids <= last_id:
                negative_bound, first, second, places = heappop(heap)
                places, count = self._standing(first, second, places)
                if count == -negative_bound:
                    # The bound was exact, and no other is higher: this is the most frequent pair.
                    yield first, second
                    for born in self._merge(first, second, places, num_ids, floor):
                        heappush(heap, born)
                    num_ids += 1
                elif count >= floor:
                    heappush(heap, (-count, first, second, places))
            if num_ids > last_id or floor == 1:
                return
            floor = max(1, floor // _FLOOR_STEP)

    def _candidates(self, num_ids: int, floor: int) -> list[Candidate]:
        """All pairs that count `floor` or more, as a heap."""
        heap = [
            (-count, *divmod(key, num_ids), group)
            for key, count, group in self._grouped(*self._pairs(num_ids), floor)
        ]
        heapify(heap)
        return heap

    def _pairs(self, num_ids: int) -> tuple[Ints, Ints]:
        """Each pair of neighbours as one number, first * num_ids + second; and its place."""
        places = np.flatnonzero(self._ids >= 0).astype(self._next.dtype)
        places = places[self._ids[self._next[places]] >= 0]
        # The narrowest type saves memory, and pairs of bytes, in 16 bits, are sorted much faster.
        kind = np.min_scalar_type(num_ids**2 - 1)
        keys = self._ids[places].astype(kind) * num_ids + self._ids[self._next[places]].astype(kind)
        return keys, places

    def _standing(self, first: int, second: int, places: Places) -> tuple[Places, int]:
        """Those of the places where the pair still stands, and the pair's count."""
        if isinstance(places, list):
            ids, following, counts = self._ids.data, self._next.data, self._counts.data
            places = [p for p in places if ids[p] == first and ids[following[p]] == second]
            return places, sum([counts[p] for p in places])
        places = places[(self._ids[places] == first) & (self._ids[self._next[places]] == second)]
        return places, int(self._counts[places].sum())

    def _merge(
        self, first: int, second: int, places: Places, new_id: int, floor: int
    ) -> list[Candidate]:
        """Put `new_id` in the places, and return those of the pairs it is in that are frequent."""
        if len(places) <= _FEW:
            few = places if isinstance(places, list) else places.tolist()
            return self._merge_few(few, first, second, new_id, floor)
        return self._merge_many(np.asarray(places), first, second, new_id, floor)

    def _merge_few(
        self, places: list[int], first: int, second: int, new_id: int, floor: int
    ) -> list[Candidate]:
        ids, following, previous = self._ids.data, self._next.data, self._previous.data
        merged = []
        for place in places:
            consumed = following[place]
            # In a run such as "aaa", the merge before this one may have taken one of the two.
            if ids[place] == first and ids[consumed] == second:
                after = following[consumed]
                following[place], previous[after] = after, place
                ids[place], ids[consumed] = new_id, _GONE
                merged.append(place)
        groups: defaultdict[Pair, list[int]] = defaultdict(list)
        for place in merged:
            left, right = ids[previous[place]], ids[following[place]]
            if left != _BOUNDARY:
                groups[left, new_id].append(previous[place])
            # Two new ids side by side are one pair, which the right one of them finds on its left.
            if right not in (_BOUNDARY, new_id):
                groups[new_id, right].append(place)
        counts = self._counts.data
        counted = [
            (-sum([counts[p] for p in group]), pair, group) for pair, group in groups.items()
        ]
        return [(bound, *pair, group) for bound, pair, group in counted if -bound >= floor]

    def _merge_many(
        self, places: Ints, first: int, second: int, new_id: int, floor: int
    ) -> list[Candidate]:
        """The same as `_merge_few`, in all places at once."""
        consumed = self._next[places]
        if first == second:
            kept = _every_other(places, consumed)
            places, consumed = places[kept], consumed[kept]
        after = self._next[consumed]
        self._next[places], self._previous[after] = after, places
        self._ids[places], self._ids[consumed] = new_id, _GONE
        before = self._previous[places]
        left, right = self._ids[before], self._ids[after]
        right[right == new_id] = _BOUNDARY
        # Neighbours on the left become even keys, those on the right odd ones.
        keys = np.concatenate((2 * left, 2 * right + 1))
        born = []
        for key, count, group in self._grouped(keys, np.concatenate((before, places)), floor):
            neighbour, on_the_right = divmod(key, 2)
            if neighbour != _BOUNDARY:
                pair = (new_id, neighbour) if on_the_right else (neighbour, new_id)
                born.append((-count, *pair, group))
        return born

    def _grouped(self, keys: Ints, places: Ints, floor: int) -> Iterator[tuple[int, int, Places]]:
        """Each key that counts `floor` or more, its count, and its places in their order."""
        order = keys.argsort(kind="stable")
        keys, places = keys[order], places[order]
        del order  # It is the largest array of all.
        begins = np.ones(len(keys), np.bool_)
        np.not_equal(keys[1:], keys[:-1], out=begins[1:])
        starts = begins.nonzero()[0]
        counts = np.add.reduceat(self._counts[places], starts)
        stops = np.append(starts[1:], len(keys))
        for group in (counts >= floor).nonzero()[0].tolist():
            start, stop = int(starts[group]), int(stops[group])
            members = places[start:stop]
            few = stop - start <= _FEW
            yield int(keys[start]), int(counts[group]), members.tolist() if few else members


def _inverse(byte_order: bytes) -> bytes:
    """The id of each byte."""
    return bytes(np.argsort(np.frombuffer(byte_order, np.uint8)).tolist())


def _every_other(places: Ints, consumed: Ints) -> npt.NDArray[np.bool_]:
    """Which places of a pair of equal ids are merged: in a run such as "aaaa", every second one."""
    begins_run = np.append(True, consumed[:-1] != places[1:])
    number = np.arange(len(places))
    begin = np.maximum.accumulate(np.where(begins_run, number, 0))
    merged: npt.NDArray[np.bool_] = (number - begin) % 2 == 0
    return merged
