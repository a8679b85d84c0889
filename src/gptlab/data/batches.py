"""What a step reads: batches of windows, labelled texts and pairs, and how windows become one.

Letters: B batch, S source length, T window or target length, K values, P places in a window.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gptlab.data.packing import PackedTokens
from gptlab.data.shards import Int64Array, TokenDataset
from gptlab.data.windows import BoolArray, Spans

Read = Callable[[Int64Array, int], Int64Array]


class Batch(NamedTuple):
    """Windows and the token that follows each of their tokens, (B, T) each."""

    inputs: Int64Array
    targets: Int64Array
    weights: npt.NDArray[np.float32] | None = None
    """1, or 0 where a short window is filled up, or where a conversation's target is not the
    assistant's; None where all are 1."""
    documents: Int64Array | None = None
    """Number of a token's document within its row, from 0; the filling has one of its own."""
    positions: Int64Array | None = None
    """Tokens since the document's start, or the window's where the document began before it."""


class LabelledBatch(NamedTuple):
    """Texts, filled up at the end to T tokens, and what is to be said of them."""

    inputs: Int64Array
    """(B, T), or (B, 2, T) of texts in pairs."""
    targets: npt.NDArray[Any]
    """(B,) int64 of classes, (B, T) of words, or (B, K) float32 of numbers."""
    lengths: Int64Array
    """Tokens of each text, at least 1, (B,) or (B, 2)."""


class PairBatch(NamedTuple):
    """Sources and their targets, each side filled up with 0 at the end."""

    sources: Int64Array
    """What the encoder reads, (B, S)."""
    source_lengths: Int64Array
    """Tokens of each source, at least 1, (B,)."""
    inputs: Int64Array
    """What the decoder reads, (B, T)."""
    targets: Int64Array
    """The token that follows each of the inputs, (B, T)."""
    weights: npt.NDArray[np.float32]
    """1, and 0 where a target is filling, (B, T)."""


class MaskedBatch(NamedTuple):
    """Windows of which some tokens are hidden, and what they are."""

    inputs: Int64Array
    """What the model reads, (B, T)."""
    targets: Int64Array
    """What stands at `places` in truth, (B, P)."""
    places: Int64Array
    """Which tokens are to be found, (B, P), all different in a row."""
    weights: npt.NDArray[np.float32]
    """1, and 0 for what fills up the places of a row, (B, P)."""
    lengths: Int64Array | None = None
    """Tokens of each window, (B,); None where none is filled up."""


AnyBatch = Batch | LabelledBatch | MaskedBatch | PairBatch


def read_batch(
    dataset: TokenDataset | PackedTokens,
    spans: Spans,
    *,
    width: int,
    document_mask: bool,
    reset_positions: bool,
    fill: int = 0,
) -> Batch:
    """The windows `spans` of `dataset` as the rows of a batch.

    Args:
        dataset: What they lie in.
        spans: At least one.
        width: T, at least the length of each; what is shorter is filled up.
        document_mask: Whether the batch has `documents`.
        reset_positions: Whether it has `positions`.
        fill: The id to fill up with.
    """
    columns = np.arange(width)
    real = columns < spans.lengths[:, np.newaxis]
    if real.all():
        tokens = dataset.read_many(spans.starts, width + 1)
        batch = Batch(tokens[:, :-1], tokens[:, 1:])
    else:
        tokens = _read_within(dataset.read_many, len(dataset), spans.starts, width + 1)
        batch = Batch(
            np.where(real, tokens[:, :-1], fill),
            np.where(real, tokens[:, 1:], fill),
            real.astype(np.float32),
        )
    if dataset.is_masked:
        marks = _read_within(dataset.read_marks, len(dataset), spans.starts, width + 1)
        batch = batch._replace(weights=(real & (marks[:, 1:] == 1)).astype(np.float32))
    if not (document_mask or reset_positions):
        return batch
    begins = _document_begins(dataset.document_ends, spans, width)
    if document_mask:
        batch = batch._replace(documents=np.cumsum(begins, axis=1, dtype=np.int64) + ~real)
    if reset_positions:
        latest = np.maximum.accumulate(np.where(begins, columns, 0), axis=1)
        batch = batch._replace(positions=np.where(real, columns - latest, 0))
    return batch


def _read_within(read: Read, size: int, starts: Int64Array, length: int) -> Int64Array:
    """What is read from `starts`, (B, length); anything where it is beyond the end at `size`."""
    span = min(length, size)
    earlier = np.minimum(starts, size - span)
    items = read(earlier, span)
    columns = np.arange(length) + (starts - earlier)[:, np.newaxis]
    return np.take_along_axis(items, np.minimum(columns, span - 1), axis=1)


def _document_begins(document_ends: npt.NDArray[np.uint64], spans: Spans, width: int) -> BoolArray:
    """Where in its row a document begins, (B, T); the row's own start does not count."""
    last_inputs = spans.starts + spans.lengths - 1
    # Keys of the same type: NumPy would turn both into rounded floats otherwise.
    first = np.searchsorted(document_ends, spans.starts.astype(np.uint64), side="right")
    behind = np.searchsorted(document_ends, last_inputs.astype(np.uint64), side="right")
    counts = behind - first
    rows = np.repeat(np.arange(counts.size), counts)
    nth = np.arange(rows.size) - np.repeat(np.cumsum(counts) - counts, counts)
    ends = document_ends[np.repeat(first, counts) + nth].astype(np.int64)
    begins = np.zeros((counts.size, width), dtype=np.bool_)
    begins[rows, ends - spans.starts[rows]] = True
    return begins
