"""Labelled texts as numbers, and the batches that a step reads of them.

Letters: B batch, T tokens of the longest text in it, K values.
"""

import hashlib
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import chain, groupby
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from gptlab.config.heads import IGNORED, TargetKind
from gptlab.data.batches import LabelledBatch
from gptlab.data.labelled_rows import LabelledRow
from gptlab.data.permutation import permuted
from gptlab.data.sampler import RowSampler
from gptlab.data.shards import Int64Array
from gptlab.errors import DataError
from gptlab.tokenizer import Tokenizer
from gptlab.tokenizer.words import EncodedText, encode_text, encode_words

_FEW = 8


class LabelledDataset:
    """Rows as tokens and targets, in memory.

    Args:
        rows: At least one.
        tokenizer: What encodes them.
        kind: What their labels are.
        labels: Names of the classes, in the order of their numbers.
        num_values: How many numbers a label has, where it is numbers.
        length: Tokens of a text that are read, from its beginning.

    Raises:
        DataError: A label is none of `labels`, or has another number of values; or all words with
            labels are beyond `length`.
    """

    def __init__(
        self,
        rows: Sequence[LabelledRow],
        tokenizer: Tokenizer,
        *,
        kind: TargetKind,
        labels: Sequence[str] = (),
        num_values: int = 1,
        length: int,
    ) -> None:
        self.kind: TargetKind = kind
        self.num_cut = 0
        """Texts of which only the beginning is read."""
        # Lists would take several times the bytes of what they hold.
        ids, lengths = array("I"), array("q")
        places: list[Int64Array] = []
        for text in chain.from_iterable(row.texts for row in rows):
            encoded = self._encode(text, tokenizer, length)
            if kind == "word_classes":
                places.append(np.array(encoded.places, dtype=np.int64) + len(ids))
            ids.extend(encoded.ids)
            lengths.append(len(encoded.ids))
        self.lengths = np.array(lengths, dtype=np.int64)
        """Tokens of each text."""
        self._ids = np.array(ids, dtype=np.uint32)
        self._starts = np.cumsum(self.lengths) - self.lengths
        self._texts_a_row = len(rows[0].texts)
        self._targets: npt.NDArray[Any]
        if kind in ("numbers", "similarity"):
            self._targets = _values(rows, num_values)
        else:
            numbers = _numbers(rows, labels)
            self._targets = (
                np.array(numbers, dtype=np.int64)[:, 0]
                if kind == "class"
                else _of_words(numbers, places, size=len(ids))
            )
        if kind == "word_classes" and (self._targets == IGNORED).all():
            raise DataError(
                f"no word with a label is within the first {length} tokens of {rows[0].place} and "
                "all others; write a larger --seq_len"
            )

    def _encode(
        self, text: str | tuple[str, ...], tokenizer: Tokenizer, length: int
    ) -> EncodedText:
        # One token more shows whether there is a rest.
        encode = encode_text if isinstance(text, str) else encode_words
        longer = encode(tokenizer, text, length=length + 1)  # type: ignore[arg-type]
        if len(longer.ids) > length:
            self.num_cut += 1
        last = bisect_left(longer.places, length)
        return EncodedText(longer.ids[:length], longer.places[:last])

    def __len__(self) -> int:
        return len(self.lengths) // self._texts_a_row

    @property
    def num_tokens(self) -> int:
        """Tokens of all texts."""
        return self._ids.size

    @property
    def tokens_per_row(self) -> float:
        """The mean."""
        return self.num_tokens / len(self)

    @property
    def num_targets(self) -> int:
        """Rows, or words that have a label."""
        is_words = self.kind == "word_classes"
        return int((self._targets != IGNORED).sum()) if is_words else len(self)

    def fingerprint(self) -> str:
        """Digest of the tokens and the targets."""
        digest = hashlib.sha256(f"{self.kind} {self._texts_a_row}".encode())
        for part in (self._ids, self.lengths, self._targets):
            digest.update(f"{part.dtype} {part.shape}".encode())
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()

    def batch(self, numbers: Int64Array, *, width: int | None = None) -> LabelledBatch:
        """The rows `numbers`, (B,) int64, in that order, `width` tokens wide or as they need."""
        texts = numbers[:, np.newaxis] * self._texts_a_row + np.arange(self._texts_a_row)
        lengths = self.lengths[texts]
        columns = np.arange(width or lengths.max())
        is_real = columns < lengths[..., np.newaxis]
        places = np.where(is_real, self._starts[texts][..., np.newaxis] + columns, 0)
        inputs = np.where(is_real, self._ids[places].astype(np.int64), 0)
        if self.kind == "word_classes":
            targets = np.where(is_real, self._targets[places], IGNORED)[:, 0]
        else:
            targets = self._targets[numbers]
        if self._texts_a_row == 1:
            inputs, lengths = inputs[:, 0], lengths[:, 0]
        return LabelledBatch(inputs, targets, lengths)

    def batches(self, batch_size: int) -> Iterator[LabelledBatch]:
        """All rows once, in order."""
        for first in range(0, len(self), batch_size):
            yield self.batch(np.arange(first, min(first + batch_size, len(self))))


class LabelledSampler(RowSampler):
    """Every row once an epoch, shuffled anew each epoch or in order.

    Args:
        dataset: Whose rows.
        batch_size: Rows of a step, over all processes.
        seed: Of the order.
        shuffle: Whether the order is random.
        width: Of every batch; that of its longest text if None.
    """

    def __init__(
        self,
        dataset: LabelledDataset,
        *,
        batch_size: int,
        seed: int,
        shuffle: bool,
        width: int | None = None,
    ) -> None:
        super().__init__(num_windows=len(dataset), batch_size=batch_size)
        self.dataset = dataset
        self._seed, self._shuffle, self._width = seed, shuffle, width

    def rows(self, places: Sequence[int]) -> LabelledBatch:
        """The rows at `places` of the endless row of rows, at least one, in that order."""
        turns = (divmod(place, self.num_windows) for place in places)
        pieces = []
        for epoch, group in groupby(turns, key=itemgetter(0)):
            numbers = np.array([number for _, number in group], dtype=np.int64)
            if self._shuffle:
                numbers = permuted(numbers, self.num_windows, seed=self._seed, epoch=epoch)
            pieces.append(numbers)
        return self.dataset.batch(np.concatenate(pieces), width=self._width)


def _values(rows: Sequence[LabelledRow], num_values: int) -> npt.NDArray[np.float32]:
    """The numbers of each row, (rows, K)."""
    for row in rows:
        if len(row.label) != num_values:
            raise DataError(
                f"{row.place} has {len(row.label)} number(s), but num_values is {num_values}; "
                "give as many in each row"
            )
    return np.array([row.label for row in rows], dtype=np.float32)


def _numbers(rows: Sequence[LabelledRow], labels: Sequence[str]) -> list[list[int]]:
    """The place in `labels` of each label of each row."""
    number_of = {name: number for number, name in enumerate(labels)}
    for row in rows:
        unknown = next((name for name in row.label if name not in number_of), None)
        if unknown is not None:
            known = ", ".join(labels[:_FEW]) + (", ..." if len(labels) > _FEW else "")
            raise DataError(
                f"{row.place}: label '{unknown}' is none of those to learn ({known}); correct it, "
                "or name all of them with --labels"
            )
    return [[number_of[str(name)] for name in row.label] for row in rows]


def _of_words(
    numbers: Sequence[Sequence[int]], places: Sequence[Int64Array], *, size: int
) -> Int64Array:
    """A target for each of `size` tokens: the number of a word at its place, else `IGNORED`."""
    targets = np.full(size, IGNORED, dtype=np.int64)
    for own, classes in zip(places, numbers, strict=True):
        targets[own] = classes[: own.size]
    return targets
