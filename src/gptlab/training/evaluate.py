"""How good a model is on a held-out text: a full, deterministic pass."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import torch

from gptlab.data import TokenDataset, sequential_batches
from gptlab.data.sampler import has_own_windows
from gptlab.data.text_size import MeasuredDataset
from gptlab.errors import DataError
from gptlab.model import Network
from gptlab.training.loader import DeviceBatch
from gptlab.training.losses import LossSums
from gptlab.training.objective import Forward, Objective
from gptlab.training.precision import Arithmetic
from gptlab.training.ranks import Ranks

AnyBatch = TypeVar("AnyBatch")


@dataclass(frozen=True)
class Evaluation:
    """Quality over whole datasets."""

    loss: float
    """Mean -log p in nats per token."""
    perplexity: float
    bits_per_byte: float
    """NaN where the text that was predicted is not known or none."""
    nats_per_character: float
    """NaN likewise."""
    tokens: int
    """Tokens predicted: all but the first of a dataset, or of each window of its own."""
    key_loss: float | None = None
    """Of key tokens alone; None where there are none."""
    other_loss: float | None = None
    """Of all others; None where there are no key tokens."""

    def __str__(self) -> str:
        return (
            f"evaluation loss {self.loss:.4f}, perplexity {self.perplexity:.2f}, "
            f"{self.bits_per_byte:.3f} bits per byte"
        )


def evaluate(
    model: Network,
    *datasets: TokenDataset,
    batch_size: int,
    arithmetic: Arithmetic,
    document_mask: bool | None = None,
    reset_positions: bool | None = None,
) -> Evaluation:
    """Predict every token but the first of each dataset, in windows of the model's seq_len.

    A dataset in mode chunk, or with a part of its windows held out, has each of its own windows
    predicted instead, and one of conversations what the assistant says in them. How much text
    those are is known of a `MeasuredDataset` alone.
    Uses no random numbers and leaves the model as it was, so it can't change a training run.

    Args:
        model: What is evaluated.
        datasets: One after another; their losses, bytes and characters add up.
        batch_size: Windows to read at once.
        arithmetic: How to compute, and on which device.
        document_mask: Keep the documents of a window apart, as in training; conversations if None.
        reset_positions: Count positions from each document's start, as in training; likewise.

    Raises:
        DataError: There is no token to predict.
    """
    return evaluate_forward(
        Objective(model, arithmetic=arithmetic),
        model,
        datasets,
        batch_size=batch_size,
        device=arithmetic.device,
        document_mask=document_mask,
        reset_positions=reset_positions,
    )


def evaluate_forward(
    forward: Forward,
    model: Network,
    datasets: Sequence[TokenDataset],
    *,
    batch_size: int,
    device: torch.device,
    document_mask: bool | None = None,
    reset_positions: bool | None = None,
    ranks: Ranks | None = None,
    before_batch: Callable[[], None] = lambda: None,
) -> Evaluation:
    """As `evaluate`, by a forward pass of `model` that may be spread over processes.

    Each of the `ranks` computes its share of the batches, and all of them get the result.
    `before_batch` may raise to break the evaluation off.
    """
    ranks = ranks or Ranks()
    was_training = model.training
    model.eval()
    sums = torch.zeros(len(LossSums._fields), dtype=torch.float64)
    try:
        for dataset in datasets:
            batches = sequential_batches(
                dataset,
                seq_len=model.config.seq_len,
                batch_size=batch_size,
                document_mask=document_mask,
                reset_positions=reset_positions,
            )
            for arrays, is_mine in dealt(batches, ranks):
                before_batch()
                batch = DeviceBatch.of(arrays).each(lambda part: part.to(device))
                with torch.no_grad():
                    values = forward(batch)
                if is_mine:
                    sums += torch.stack(list(values)).cpu().double()
    finally:
        model.train(was_training)
    total = LossSums(*ranks.sum(sums).unbind())
    if not total.tokens:
        tokens = sum(map(len, datasets))
        raise DataError(
            f"the evaluation text has {tokens} tokens, but it takes at least 2 in a window; give "
            "a longer one"
        )
    return _evaluation(total, datasets)


def dealt(batches: Iterator[AnyBatch], ranks: Ranks) -> Iterator[tuple[AnyBatch, bool]]:
    """This process's share of `batches`, and whether each of them counts.

    All processes compute the same number, which an engine that shards a model relies on.
    """
    while hand := list(islice(batches, ranks.size)):
        is_mine = ranks.rank < len(hand)
        yield hand[ranks.rank if is_mine else 0], is_mine


def _evaluation(total: LossSums, datasets: Sequence[TokenDataset]) -> Evaluation:
    nats, tokens = total.nats.item(), total.tokens.item()
    texts = [_text(dataset) for dataset in datasets]
    characters, size = sum(text[0] for text in texts), sum(text[1] for text in texts)
    loss = nats / tokens
    key_loss, other_loss = split_loss(total)
    return Evaluation(
        loss=loss,
        perplexity=math.exp(min(loss, 700.0)),
        bits_per_byte=nats / math.log(2) / size if size > 0 else math.nan,
        nats_per_character=nats / characters if characters > 0 else math.nan,
        tokens=round(tokens),
        key_loss=key_loss,
        other_loss=other_loss,
    )


def split_loss(sums: LossSums) -> tuple[float | None, float | None]:
    """Nats per key token and per other token; both None where no key token was met."""
    tokens, key_tokens = sums.tokens.item(), sums.key_tokens.item()
    if not key_tokens:
        return None, None
    others = tokens - key_tokens
    return (
        sums.key_nats.item() / key_tokens,
        (sums.nats - sums.key_nats).item() / others if others else None,
    )


def _text(dataset: TokenDataset) -> tuple[float, float]:
    """Characters and bytes of what is predicted of `dataset`."""
    if not has_own_windows(dataset):
        return dataset.manifest["characters"], dataset.manifest["bytes"]
    if isinstance(dataset, MeasuredDataset):
        return dataset.target_characters, dataset.target_bytes
    return math.nan, math.nan
