"""Apply a merge list to chunks of text, exactly and fast."""

from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import pairwise

import tiktoken

Pair = tuple[int, int]

_CONSUMED = -1
_MAX_CHUNKS = 1 << 16
_MAX_CHARACTERS = 64


def merge_ids(ids: Sequence[int], merged: Mapping[Pair, int]) -> list[int]:
    """Merge adjacent ids, the lowest resulting id first and from left to right, until none is left.

    Takes O(n log n) for n ids, so that a chunk of a million characters is no trap.

    Args:
        ids: The bytes of a chunk.
        merged: Maps a pair of ids to the id of their merge; a merge's id is above its parts'.
    """
    # Position -1, before the first id, is also the last one: a sentinel that is in no pair.
    current = [*ids, _CONSUMED]
    following = list(range(1, len(ids) + 2))
    preceding = list(range(-1, len(ids)))
    heap = [(merged[pair], i) for i, pair in enumerate(pairwise(ids)) if pair in merged]
    heapify(heap)
    while heap:
        new_id, left = heappop(heap)
        right = following[left]
        # Entries are not withdrawn when a neighbour changes; they are found out of date here.
        if merged.get((current[left], current[right])) != new_id:
            continue
        current[left], current[right] = new_id, _CONSUMED
        before, after = preceding[left], following[right]
        following[left], preceding[after] = after, left
        for start, stop in ((before, left), (left, after)):
            joined = merged.get((current[start], current[stop]))
            if joined is not None:
                heappush(heap, (joined, start))
    return [token for token in current if token != _CONSUMED]


class ChunkEncoder(dict[str, Sequence[int]]):
    """Ids of a chunk by `encoder[chunk]`: a bounded memory that fills itself.

    tiktoken's core does the merging where it provably agrees with the merge list. It joins
    neighbours whenever their joined bytes are a token, whichever pair made that token. Let t be
    such a token, about to be joined from a wrong pair: all merges before t's are done, and none
    crossed its edges, so its bytes stand as they would standing alone. If t alone encodes to t,
    these are its right pair. So the two agree on every text if each token encodes to itself. A
    trained merge list always has this property; a list made by hand need not.
    """

    def __init__(self, tokens: Sequence[bytes], merged: Mapping[Pair, int]) -> None:
        super().__init__()
        self._merged = merged
        self._core: tiktoken.Encoding | None = None
        if all(self.merge(token) == [i] for i, token in enumerate(tokens[256:], 256)):
            self._core = tiktoken.Encoding(
                "merges",
                pat_str=r"[\s\S]+",
                mergeable_ranks={token: i for i, token in enumerate(tokens)},
                special_tokens={},
            )

    def merge(self, chunk: bytes) -> list[int]:
        """Ids of a chunk straight from the merge list."""
        return merge_ids(chunk, self._merged)

    def __missing__(self, chunk: str) -> Sequence[int]:
        ids = self._encode(chunk)
        if len(chunk) <= _MAX_CHARACTERS:
            if len(self) >= _MAX_CHUNKS:
                self.clear()
            self[chunk] = ids
        return ids

    def _encode(self, chunk: str) -> Sequence[int]:
        try:
            data = chunk.encode("utf-8")
        except UnicodeEncodeError:
            return self.merge(chunk.encode("utf-8", "surrogatepass"))
        return self.merge(data) if self._core is None else self._core.encode_ordinary(chunk)
