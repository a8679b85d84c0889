"""How good a model is on a held-out text: a full, deterministic pass."""

import math
from dataclasses import dataclass

import torch

from gptlab.data import TokenDataset, sequential_batches
from gptlab.data.sampler import has_own_windows
from gptlab.data.text_size import MeasuredDataset
from gptlab.errors import DataError
from gptlab.model import GPT
from gptlab.training.loader import DeviceBatch
from gptlab.training.losses import batch_loss
from gptlab.training.precision import Arithmetic


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


def evaluate(
    model: GPT,
    *datasets: TokenDataset,
    batch_size: int,
    arithmetic: Arithmetic,
    document_mask: bool = False,
    reset_positions: bool = False,
) -> Evaluation:
    """Predict every token but the first of each dataset, in windows of the model's seq_len.

    A dataset in mode chunk, or with a part of its windows held out, has each of its own windows
    predicted instead. How much text those are is known of a `MeasuredDataset` alone.
    Uses no random numbers and leaves the model as it was, so it can't change a training run.

    Args:
        model: What is evaluated.
        datasets: One after another; their losses, bytes and characters add up.
        batch_size: Windows to read at once.
        arithmetic: How to compute, and on which device.
        document_mask: Keep the documents of a window apart, as in training.
        reset_positions: Count positions from each document's start, as in training.

    Raises:
        DataError: There is no token to predict.
    """
    was_training = model.training
    model.eval()
    total = count = size = characters = 0.0
    try:
        for dataset in datasets:
            nats, weight = _sums(
                model, dataset, batch_size, arithmetic, document_mask, reset_positions
            )
            total, count = total + nats, count + weight
            predicted = _text(dataset)
            characters, size = characters + predicted[0], size + predicted[1]
    finally:
        model.train(was_training)
    if not count:
        tokens = sum(map(len, datasets))
        raise DataError(
            f"the evaluation text has {tokens} tokens, but it takes at least 2 in a window; give "
            "a longer one"
        )
    loss = total / count
    return Evaluation(
        loss=loss,
        perplexity=math.exp(min(loss, 700.0)),
        bits_per_byte=total / math.log(2) / size if size > 0 else math.nan,
        nats_per_character=total / characters if characters > 0 else math.nan,
        tokens=round(count),
    )


def _text(dataset: TokenDataset) -> tuple[float, float]:
    """Characters and bytes of what is predicted of `dataset`."""
    if not has_own_windows(dataset):
        return dataset.manifest["characters"], dataset.manifest["bytes"]
    if isinstance(dataset, MeasuredDataset):
        return dataset.target_characters, dataset.target_bytes
    return math.nan, math.nan


def _sums(
    model: GPT,
    dataset: TokenDataset,
    batch_size: int,
    arithmetic: Arithmetic,
    document_mask: bool,
    reset_positions: bool,
) -> tuple[float, float]:
    """Loss in nats over `dataset`, and the weight of its tokens."""
    total = count = 0.0
    batches = sequential_batches(
        dataset,
        seq_len=model.config.seq_len,
        batch_size=batch_size,
        document_mask=document_mask,
        reset_positions=reset_positions,
    )
    with torch.no_grad():
        for arrays in batches:
            batch = DeviceBatch.of(arrays).each(lambda part: part.to(arithmetic.device))
            nats, weight = batch_loss(model, batch, arithmetic=arithmetic)
            total, count = total + nats.item(), count + weight.item()
    return total, count
