"""Pairs of texts as numbers, in memory.

    source   the ids of the source, end
    inputs   start, the ids of the target
    targets         the ids of the target, end

Letters: B batch, S tokens of the longest source in it, T of the longest target.
"""

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from gptlab.corpus.pairs import Pair
from gptlab.data.batches import PairBatch
from gptlab.data.buckets import plan_batches
from gptlab.data.shards import Int64Array
from gptlab.errors import DataError
from gptlab.tokenizer import Tokenizer
from gptlab.tokenizer.pair import end_id, start_id

# Encoded at a time.
_ROWS = 1 << 10


class PairDataset:
    """Pairs as tokens, in memory, and their texts.

    Args:
        rows: At least one.
        source_tokenizer: What encodes the sources.
        target_tokenizer: What encodes the targets.
        length: The most tokens of a source with its end, and of a target with its end. Longer
            pairs are left out, as half a source would no longer say what its target does.

    Raises:
        DataError: All pairs are longer.
        TokenizerError: A tokenizer has no token that ends a text.
    """

    def __init__(
        self,
        rows: Sequence[Pair],
        source_tokenizer: Tokenizer,
        target_tokenizer: Tokenizer,
        *,
        length: int,
    ) -> None:
        self.num_long = 0
        """Pairs that were left out as one of their sides is longer than `length`."""
        source_end = end_id(source_tokenizer)
        start, end = start_id(target_tokenizer), end_id(target_tokenizer)
        sources, targets, texts = _Growing(), _Growing(), _Texts()
        shortest = None
        for first in range(0, len(rows), _ROWS):
            block = rows[first : first + _ROWS]
            source_ids = source_tokenizer.encode_batch(row.source for row in block)
            target_ids = target_tokenizer.encode_batch(row.target for row in block)
            for row, source, target in zip(block, source_ids, target_ids, strict=True):
                longer = max(len(source), len(target)) + 1
                shortest = min(longer, shortest or longer)
                if longer > length:
                    self.num_long += 1
                    continue
                sources.append([*source, source_end])
                targets.append([start, *target, end])
                texts.append(row.source, row.target)
        if self.num_long == len(rows):
            raise DataError(
                f"not one of {len(rows)} pairs is within {length} tokens, the shortest has "
                f"{shortest} on its longer side; give shorter ones, or train with a larger "
                "--seq_len"
            )
        self._sources, self._targets, self._texts = sources.packed(), targets.packed(), texts
        self.source_lengths = self._sources.lengths
        """Tokens of each source with its end, (rows,)."""
        self.target_lengths = self._targets.lengths - 1
        """Tokens of each target with its end, (rows,)."""

    def __len__(self) -> int:
        return len(self.source_lengths)

    @property
    def num_tokens(self) -> int:
        """Tokens of all sources and targets, each with its end."""
        return int(self.source_lengths.sum()) + self.num_targets

    @property
    def tokens_per_row(self) -> float:
        """The mean, of both sides together."""
        return self.num_tokens / len(self)

    @property
    def num_targets(self) -> int:
        """Tokens to be predicted."""
        return int(self.target_lengths.sum())

    def texts(self, number: int) -> tuple[str, str]:
        """The source and the target of a row, as they stand in its file."""
        return self._texts.pair(number)

    def fingerprint(self) -> str:
        """Digest of the tokens."""
        digest = hashlib.sha256()
        for side in (self._sources, self._targets):
            for part in (side.ids, side.lengths):
                digest.update(f"{part.dtype} {part.shape}".encode())
                digest.update(part.tobytes())
        return digest.hexdigest()

    def batch(
        self,
        numbers: Int64Array,
        *,
        source_width: int | None = None,
        target_width: int | None = None,
    ) -> PairBatch:
        """The rows `numbers`, (B,) int64, in that order, as wide as said or as they need."""
        source_lengths = self.source_lengths[numbers]
        target_lengths = self.target_lengths[numbers]
        columns = np.arange(target_width or target_lengths.max())
        is_real = columns < target_lengths[:, np.newaxis]
        return PairBatch(
            sources=self._sources.read(numbers, width=source_width or int(source_lengths.max())),
            source_lengths=source_lengths,
            inputs=np.where(is_real, self._targets.read(numbers, width=len(columns)), 0),
            targets=self._targets.read(numbers, width=len(columns), skip=1),
            weights=is_real.astype(np.float32),
        )

    def groups(
        self, *, batch_size: int | None = None, batch_tokens: int | None = None
    ) -> Iterator[Int64Array]:
        """The numbers of all rows once, those of like length together, always the same.

        Raises:
            ConfigError: As for `plan_batches`.
        """
        plan = plan_batches(
            self.source_lengths,
            self.target_lengths,
            batch_size=batch_size,
            batch_tokens=batch_tokens,
        )
        order = plan.order()
        for place in range(len(plan)):
            yield plan.batch(order, place)

    def batches(
        self, *, batch_size: int | None = None, batch_tokens: int | None = None
    ) -> Iterator[PairBatch]:
        """All rows once, as `groups` has them.

        Raises:
            ConfigError: As for `plan_batches`.
        """
        return map(self.batch, self.groups(batch_size=batch_size, batch_tokens=batch_tokens))


@dataclass(frozen=True)
class _Sequences:
    """Ids of many texts, one after another."""

    ids: npt.NDArray[np.uint32]
    lengths: Int64Array
    starts: Int64Array

    def read(self, numbers: Int64Array, *, width: int, skip: int = 0) -> Int64Array:
        """Those of the texts `numbers` but for the first `skip`, filled up with 0, (B, width)."""
        columns = np.arange(skip, skip + width)
        is_real = columns < self.lengths[numbers][:, np.newaxis]
        places = np.where(is_real, self.starts[numbers][:, np.newaxis] + columns, 0)
        return np.where(is_real, self.ids[places].astype(np.int64), 0)


@dataclass(frozen=True)
class _Growing:
    """Such sequences while they are made. Lists would take several times the bytes."""

    ids: "array[int]" = field(default_factory=lambda: array("I"))
    lengths: "array[int]" = field(default_factory=lambda: array("q"))

    def append(self, ids: Sequence[int]) -> None:
        self.ids.extend(ids)
        self.lengths.append(len(ids))

    def packed(self) -> _Sequences:
        lengths = np.array(self.lengths, dtype=np.int64)
        return _Sequences(np.array(self.ids, dtype=np.uint32), lengths, lengths.cumsum() - lengths)


@dataclass(frozen=True)
class _Texts:
    """Pairs of strings as UTF-8, which takes a fraction of the bytes."""

    data: bytearray = field(default_factory=bytearray)
    ends: "array[int]" = field(default_factory=lambda: array("q", [0]))

    def append(self, *texts: str) -> None:
        for text in texts:
            self.data.extend(text.encode())
            self.ends.append(len(self.data))

    def pair(self, number: int) -> tuple[str, str]:
        start, middle, end = self.ends[2 * number : 2 * number + 3]
        return self.data[start:middle].decode(), self.data[middle:end].decode()
