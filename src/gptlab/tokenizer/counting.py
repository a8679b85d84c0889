"""Count the chunks of a corpus: the only part of training that reads all of it."""

import os
from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
from tqdm import tqdm

from gptlab.parallel import batched, parallel_map
from gptlab.tokenizer.chunks.patterns import BLOCK_CHARACTERS, blocks
from gptlab.tokenizer.chunks.splitting import Ints, split_arrays
from gptlab.tokenizer.chunks.table import ChunkTable

_BATCH_CHARACTERS = 1 << 19
_MAX_TABLE = 1 << 18


def count_chunks(
    texts: Iterable[str | Iterable[str]],
    pattern: str,
    *,
    processes: int | None = None,
    progress: bool = False,
) -> Counter[bytes]:
    """How often each chunk occurs, in bytes of UTF-8.

    Args:
        texts: Each a string, or the pieces of one that is too long to be held in memory. A chunk
            never spans two texts, and may span pieces: where they are cut changes nothing.
        pattern: A name in `SPLIT_PATTERNS`.
        processes: Processes that share the work; one a core if None. Changes nothing else.
        progress: Show a progress bar on standard error.

    Raises:
        WorkerError: One of the processes was killed.
    """
    if isinstance(texts, str):
        texts = [texts]
    documents = ([text] if isinstance(text, str) else text for text in texts)
    batches = batched(chain.from_iterable(map(blocks, documents)), _BATCH_CHARACTERS, length=len)
    totals: Counter[bytes] = Counter()
    tallies: dict[int, _Tally] = {}
    make_counter = partial(_BatchCounter, pattern)
    with tqdm(desc="counting", unit="B", unit_scale=True, disable=not progress) as bar:
        for batch in parallel_map(make_counter, batches, processes=processes):
            if batch.begins_table and batch.process in tallies:
                tallies.pop(batch.process).add_to(totals)
            tallies.setdefault(batch.process, _Tally()).add(batch)
            bar.update(batch.size)
    while tallies:
        _, tally = tallies.popitem()
        tally.add_to(totals)
    return totals


@dataclass(frozen=True)
class _Batch:
    """What a process has found in a part of the corpus."""

    size: int
    """Bytes of text."""
    process: int
    """Which process has numbered the chunks."""
    begins_table: bool
    """Whether it has numbered them in a new table, from 0 on."""
    new_chunks: bytes
    """Chunks that the table holds since this batch, end to end, with the numbers that follow."""
    new_lengths: Ints
    """Their lengths."""
    numbers: Ints
    """Which chunks occur."""
    counts: Ints
    """How often each of them does."""


class _BatchCounter:
    """Counts batch after batch; the table that it keeps makes it fast, and is renewed when full."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._table = ChunkTable()

    def __call__(self, texts: list[str]) -> _Batch:
        if len(self._table) > _MAX_TABLE:
            self._table = ChunkTable()
        known = len(self._table)
        found = []
        size = 0
        for group in batched(texts, BLOCK_CHARACTERS, length=len):
            chunks = split_arrays(group, self._pattern)
            found.append(self._table.number(chunks))
            size += int(chunks.lengths.sum())
        counts = np.bincount(np.concatenate(found))
        numbers = counts.nonzero()[0]
        new_chunks = self._table.chunks(known)
        return _Batch(
            size=size,
            process=os.getpid(),
            begins_table=known == 0,
            new_chunks=b"".join(new_chunks),
            new_lengths=np.fromiter(map(len, new_chunks), np.int64, len(new_chunks)),
            numbers=numbers,
            counts=counts[numbers],
        )


class _Tally:
    """The sum of the batches that were counted with one table."""

    def __init__(self) -> None:
        # End to end: as objects, they would take several times the memory.
        self._chunks = bytearray()
        self._lengths = array("q")
        self._counts = array("q")

    def add(self, batch: _Batch) -> None:
        self._chunks += batch.new_chunks
        self._lengths.frombytes(batch.new_lengths.tobytes())
        self._counts.frombytes(bytes(8 * len(batch.new_lengths)))
        np.frombuffer(self._counts, np.int64)[batch.numbers] += batch.counts

    def add_to(self, totals: Counter[bytes]) -> None:
        chunks = bytes(self._chunks)
        start = 0
        for length, count in zip(self._lengths, self._counts, strict=True):
            totals[chunks[start : start + length]] += count
            start += length
