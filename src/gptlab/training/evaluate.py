"""How good a model is on a held-out text: a full, deterministic pass."""

import math
from dataclasses import dataclass

import torch

from gptlab.data import TokenDataset, sequential_batches
from gptlab.errors import DataError
from gptlab.model import GPT
from gptlab.training.losses import cross_entropy
from gptlab.training.precision import Arithmetic


@dataclass(frozen=True)
class Evaluation:
    """Quality over a whole dataset."""

    loss: float
    """Mean -log p in nats per token."""
    perplexity: float
    bits_per_byte: float
    nats_per_character: float
    tokens: int
    """Tokens predicted: all but the first."""


def evaluate(
    model: GPT, dataset: TokenDataset, *, batch_size: int, arithmetic: Arithmetic
) -> Evaluation:
    """Predict every token but the first, in windows of the model's seq_len read in order.

    Uses no random numbers and leaves the model as it was, so it can't change a training run.

    Raises:
        DataError: The dataset has fewer than two tokens.
    """
    if len(dataset) < 2:
        raise DataError(f"the evaluation text has {len(dataset)} tokens, but it takes at least 2")
    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for inputs, targets in sequential_batches(
            dataset, seq_len=model.config.seq_len, batch_size=batch_size
        ):
            tokens = torch.from_numpy(inputs).to(arithmetic.device)
            with arithmetic.autocast():
                logits = model(tokens)
            nats, _ = cross_entropy(logits, torch.from_numpy(targets).to(arithmetic.device))
            total += nats.item()
            count += targets.size
    model.train(was_training)
    loss = total / count
    return Evaluation(
        loss=loss,
        perplexity=math.exp(min(loss, 700.0)),
        bits_per_byte=total / math.log(2) / dataset.manifest["bytes"],
        nats_per_character=total / dataset.manifest["characters"],
        tokens=count,
    )
