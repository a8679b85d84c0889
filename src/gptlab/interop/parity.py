"""Whether a model that was written elsewhere gives the same logits as the one it was made from.

Letters: B batch, T length, V vocabulary.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gptlab.config import ModelConfig
from gptlab.errors import ExportError
from gptlab.model import GPT

Logits = Callable[[Tensor], Tensor]
"""Token ids (B, T) int64 to logits (B, T, V) in float32."""

LONGEST = 1024
"""Tokens of the longest row that is compared."""
_GOLDEN = 0.618


@dataclass(frozen=True)
class Parity:
    """How far logits are apart."""

    reader: str
    """What computed the other logits."""
    largest_difference: float
    """Of any logit."""
    largest_logit: float
    """Of the model itself, in absolute value."""
    bound: float
    """What the difference may be."""


def token_rows(config: ModelConfig) -> Iterator[Tensor]:
    """Fixed ids, each (B, T) int64: lengths from 1 to seq_len, and ids from all of the vocabulary.

    Rows are of `LONGEST` tokens at most.
    """
    longest = min(config.seq_len, LONGEST)
    step = max(1, round(_GOLDEN * config.vocab_size))
    while math.gcd(step, config.vocab_size) > 1:
        # So that no id comes again before all have come.
        step += 1
    start = 0
    for length in sorted({1, 2, min(7, longest), -(-longest // 2), longest} - {0}):
        if length > longest:
            continue
        batch = 2 if length * 2 <= LONGEST else 1
        places = torch.arange(start, start + batch * length)
        yield (places * step % config.vocab_size).view(batch, length)
        start += batch * length


@torch.no_grad()
def require_parity(model: GPT, other: Logits, *, reader: str, share: float) -> Parity:
    """Compare the logits of `model` and of `other` at every place of `token_rows`.

    Args:
        model: In evaluation mode and float32, on the CPU.
        other: What ought to give the same.
        reader: What `other` is, for the message.
        share: What the largest difference may be, as a share of the largest logit.

    Raises:
        ExportError: A logit is further off, or is no number.
    """
    differences, largest = [], []
    for tokens in token_rows(model.config):
        expected_BTV = model(tokens).float()
        found_BTV = other(tokens).float()
        if not expected_BTV.isfinite().all():
            raise ExportError(
                "the model's own logits are not finite in these numbers; write it with --precision "
                "fp32, or use another model"
            )
        if found_BTV.shape != expected_BTV.shape:
            raise ExportError(
                f"{reader} gives logits of shape {tuple(found_BTV.shape)} instead of "
                f"{tuple(expected_BTV.shape)} for what was written; nothing was kept"
            )
        differences.append((found_BTV - expected_BTV).abs().max())
        largest.append(expected_BTV.abs().max())
    difference, logit = torch.stack(differences).max().item(), torch.stack(largest).max().item()
    bound = share * max(logit, 1.0)
    # What is no number is not below it either.
    if not difference <= bound:
        raise ExportError(
            f"{reader} gives other logits for what was written, {difference:.3g} off where "
            f"{bound:.3g} is allowed; nothing was kept"
        )
    return Parity(reader, difference, logit, bound)
