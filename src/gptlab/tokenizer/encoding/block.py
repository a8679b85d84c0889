"""The ids of whole blocks of text at once."""

from array import array
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gptlab.tokenizer.base import TokenArray
from gptlab.tokenizer.chunks.splitting import split_arrays
from gptlab.tokenizer.chunks.table import ChunkTable

_MAX_CHUNKS = 1 << 17
_MAX_IDS = 1 << 22


class BlockEncoder:
    """Encodes blocks of text by looking up all of their chunks at once.

    It remembers the ids of up to 131,072 chunks or 4 million ids or so, and forgets them all to
    make room. One thread at a time may use it.

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
        self._ids = array(self._dtype.char)
        self._begins = array("q")
        self._counts = array("q")

    def __call__(self, texts: Sequence[str]) -> list[TokenArray]:
        """The ids of each text; together the texts are best a block."""
        if len(self._table) > _MAX_CHUNKS or len(self._ids) > _MAX_IDS:
            self._forget()
        known = len(self._table)
        chunks = split_arrays(texts, self._pattern)
        try:
            numbers = self._table.number(chunks)
            self._learn(self._table.chunks(known))
        except BaseException:
            # Ctrl-C may have left chunks in the table whose ids are not remembered.
            self._forget()
            raise
        counts = np.frombuffer(self._counts, np.int64)[numbers]
        begins = np.frombuffer(self._begins, np.int64)[numbers]
        ends = np.cumsum(np.append(0, counts))
        # How far each id of the text is ahead of where it stands among the remembered ones.
        ahead = np.repeat(begins - ends[:-1], counts)
        remembered = np.frombuffer(self._ids, self._dtype.newbyteorder("="))
        ids = remembered[ahead + np.arange(len(ahead))].astype(self._dtype, copy=False)
        return np.split(ids, ends[np.cumsum(chunks.per_text)[:-1]]) if texts else []

    def _learn(self, chunks: Sequence[bytes]) -> None:
        for ids in map(self._encode_chunk, chunks):
            self._begins.append(len(self._ids))
            self._counts.append(len(ids))
            self._ids.extend(ids)
