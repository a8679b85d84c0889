"""The ids of whole blocks of text at once."""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np

from gptlab.tokenizer.base import TokenArray
from gptlab.tokenizer.chunk_table import ChunkTable
from gptlab.tokenizer.splitting import split_arrays

_MAX_CHUNKS = 1 << 17


class BlockEncoder:
    """Encodes blocks of text by looking up all of their chunks at once.

    It remembers the ids of up to 131,072 chunks or so, and forgets them all to make room.

    Args:
        pattern: Name of the split pattern.
        encode_chunk: The ids of a chunk's bytes.
        dtype: Type of the ids.
    """

    def __init__(
        self, pattern: str, encode_chunk: Callable[[bytes], Sequence[int]], dtype: np.dtype[Any]
    ) -> None:
        self._pattern = pattern
        self._encode_chunk = encode_chunk
        self._dtype = dtype
        self._forget()

    def _forget(self) -> None:
        self._table = ChunkTable()
        # The ids of all chunks one after another, where each chunk's begin, and how many it has.
        self._ids = np.zeros(0, self._dtype)
        self._begins = np.zeros(0, np.int64)
        self._counts = np.zeros(0, np.int64)

    def __call__(self, texts: Sequence[str]) -> list[TokenArray]:
        """The ids of each text; together the texts are best a block."""
        if len(self._table) > _MAX_CHUNKS:
            self._forget()
        known = len(self._table)
        chunks = split_arrays(texts, self._pattern)
        numbers = self._table.number(chunks)
        self._learn(self._table.chunks(known))
        counts = self._counts[numbers]
        ends = np.cumsum(np.append(0, counts))
        # How far each id of the text is ahead of where it stands among the remembered ones.
        ahead = np.repeat(self._begins[numbers] - ends[:-1], counts)
        ids = self._ids[ahead + np.arange(len(ahead))]
        return np.split(ids, ends[np.cumsum(chunks.per_text)[:-1]]) if texts else []

    def _learn(self, chunks: Sequence[bytes]) -> None:
        if chunks:
            ids = [self._encode_chunk(chunk) for chunk in chunks]
            counts = np.fromiter(map(len, ids), np.int64, len(ids))
            begins = len(self._ids) + np.cumsum(counts) - counts
            flat = np.fromiter(chain.from_iterable(ids), self._dtype, int(counts.sum()))
            self._ids = np.concatenate([self._ids, flat])
            self._begins = np.concatenate([self._begins, begins])
            self._counts = np.concatenate([self._counts, counts])
