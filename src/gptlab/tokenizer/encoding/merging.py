"""Apply a merge list to chunks of text, exactly and fast."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from heapq import heapify, heappop, heappush
from itertools import pairwise
from random import Random

import tiktoken

from gptlab.errors import TokenizerError

Pair = tuple[int, int]
Merged = Mapping[Pair, tuple[int, int]]
"""For each pair of ids that is merged, the rank of the merge and the id that it makes."""

_CONSUMED = -1
_MAX_CHUNKS = 1 << 16
_MAX_CHARACTERS = 64


def merge_ids(
    ids: Sequence[int], merged: Merged, *, is_dropped: Callable[[], bool] | None = None
) -> list[int]:
    """Merge adjacent ids, the lowest rank first and from left to right, until none is left.

    Takes O(n log n) for n ids, so that a chunk of a million characters is no trap.

    Args:
        ids: The bytes of a chunk.
        merged: The merges.
        is_dropped: Asked at every step for each candidate merge, the best one first, whether to
            leave it out of that step; the first that is not left out is made. When all are, there
            are no more steps. This is BPE-dropout (Provilkov et al. 2020, arXiv:1910.13267).
    """
    return _merge(ids, merged, is_dropped)[0]


def _merge(
    ids: Sequence[int], merged: Merged, is_dropped: Callable[[], bool] | None = None
) -> tuple[list[int], int]:
    """What `merge_ids` gives, and the rank of the last merge."""
    # Position -1, before the first id, is also the last one: a sentinel that is in no pair.
    current = [*ids, _CONSUMED]
    following = list(range(1, len(ids) + 2))
    preceding = list(range(-1, len(ids)))
    heap = [(merged[pair], i) for i, pair in enumerate(pairwise(ids)) if pair in merged]
    heapify(heap)
    dropped = []
    rank = -1
    while heap:
        candidate = heappop(heap)
        merge, left = candidate
        right = following[left]
        # Entries are not withdrawn when a neighbour changes; they are found out of date here.
        if merged.get((current[left], current[right])) != merge:
            continue
        if is_dropped is not None and is_dropped():
            dropped.append(candidate)
            continue
        while dropped:
            heappush(heap, dropped.pop())
        rank = merge[0]
        current[left], current[right] = merge[1], _CONSUMED
        before, after = preceding[left], following[right]
        following[left], preceding[after] = after, left
        for start, stop in ((before, left), (left, after)):
            new = merged.get((current[start], current[stop]))
            if new is not None:
                heappush(heap, (new, start))
    return [token for token in current if token != _CONSUMED], rank


class ChunkEncoder(dict[str, Sequence[int]]):
    """Ids of a chunk by `encoder[chunk]`: a bounded memory that fills itself.

    tiktoken's core does the merging where it provably agrees with the merge list. It joins
    neighbours whenever their joined bytes are a token, whichever pair made that token, the lowest
    id first. Say that each token that a merge makes, alone, encodes to itself. Let x and y be
    neighbours that join to such a token t. No merge has crossed t's edges, so inside of them the
    same has happened as to t alone. There too, x and y are what is left before the last merge: so
    they are the one pair that ever makes t, and its rank is that of the last merge of t alone. If
    ids rise with those ranks, both always see the same candidates in the same order. A trained
    merge list has these properties; a list made by hand need not.

    Args:
        ids: The id of each token. Bytes that are no token are left out of every chunk.
        merges: The two parts of each merge, the first has priority.
        whole: Chunks that have an id of their own, whatever the merges say.
    """

    def __init__(
        self,
        ids: Mapping[bytes, int],
        merges: Sequence[tuple[bytes, bytes]],
        *,
        whole: Mapping[bytes, int] | None = None,
    ) -> None:
        super().__init__()
        self._byte_ids = [ids.get(bytes([byte]), _CONSUMED) for byte in range(256)]
        self._missing = bytes(byte for byte in range(256) if bytes([byte]) not in ids)
        self._merged = {
            (ids[left], ids[right]): (rank, ids[left + right])
            for rank, (left, right) in enumerate(merges)
        }
        self._whole = whole or {}
        self._ids = ids
        self._made = {left + right for left, right in merges}

    @cached_property
    def _core(self) -> tiktoken.Encoding | None:
        if not self._agrees_with_core():
            return None
        ranks = {t: i for t, i in self._ids.items() if len(t) == 1 or t in self._made}
        return tiktoken.Encoding(
            "merges", pat_str=r"[\s\S]+", mergeable_ranks=ranks, special_tokens={}
        )

    def _agrees_with_core(self) -> bool:
        last_rank = -1
        for token in sorted(self._made, key=self._ids.__getitem__):
            encoded, rank = _merge(self._bytes_as_ids(token), self._merged)
            if encoded != [self._ids[token]] or rank < last_rank:
                return False
            last_rank = rank
        return True

    @property
    def ranks(self) -> dict[bytes, int] | None:
        """The ranks from which tiktoken makes the same ids; None if it can't."""
        return None if self._core is None else self._core._mergeable_ranks

    @cached_property
    def encode_bytes(self) -> Callable[[bytes], Sequence[int]]:
        """Gives the ids of a chunk in UTF-8, in which lone surrogates are like other characters."""
        if self._core is None or self._whole or self._missing:
            return self._encode_bytes
        encode: Callable[[bytes], Sequence[int]] = self._core._core_bpe.encode_single_piece
        return encode

    def _encode_bytes(self, chunk: bytes) -> Sequence[int]:
        if chunk in self._whole:
            return [self._whole[chunk]]
        known = chunk.translate(None, self._missing)
        if self._core is None or not known:
            return self.merge(known)
        ids: Sequence[int] = self._core._core_bpe.encode_single_piece(known)
        return ids

    def merge(self, chunk: bytes) -> list[int]:
        """Ids of a chunk straight from the merge list."""
        return merge_ids(self._bytes_as_ids(chunk), self._merged)

    def with_dropout(self, dropout: float, seed: int | None) -> Callable[[str], list[int]]:
        """What encodes a chunk with BPE-dropout; tokens that are whole chunks are merged too.

        Raises:
            TokenizerError: `dropout` is no probability.
        """
        if not 0 <= dropout <= 1:
            raise TokenizerError(f"dropout is {dropout}: choose a probability from 0 to 1")
        random = Random(seed)

        def encode(chunk: str) -> list[int]:
            ids = self._bytes_as_ids(chunk.encode("utf-8", "surrogatepass"))
            return merge_ids(ids, self._merged, is_dropped=lambda: random.random() < dropout)

        return encode

    def _bytes_as_ids(self, chunk: bytes) -> list[int]:
        return [self._byte_ids[byte] for byte in chunk.translate(None, self._missing)]

    def __missing__(self, chunk: str) -> Sequence[int]:
        ids = self.encode_bytes(chunk.encode("utf-8", "surrogatepass"))
        if len(chunk) <= _MAX_CHARACTERS:
            if len(self) >= _MAX_CHUNKS:
                self.clear()
            self[chunk] = ids
        return ids
