"""How the next token is drawn: small pure functions over logits (..., V).

A filter sets the logits it removes to -inf and never removes the likeliest token.
"""

import math

import torch
from torch import Tensor

from gptlab.config import SamplingConfig


def choose(
    logits_V: Tensor, context: Tensor, config: SamplingConfig, generator: torch.Generator
) -> int:
    """The next token id of one sequence.

    Args:
        logits_V: (V,) scores of the next token.
        context: (N,) int64, the ids so far, for the repetition penalty.
        config: How to draw.
        generator: Where the randomness comes from; on the CPU.
    """
    logits_V = repetition_penalty(logits_V.float(), context, config.repetition_penalty)
    if config.temperature == 0:
        return int(logits_V.argmax())
    # With the largest at zero, no temperature is low enough to make it infinite.
    logits_V = (logits_V - logits_V.max()) / config.temperature
    if config.top_k is not None:
        logits_V = top_k(logits_V, config.top_k)
    if config.top_p is not None:
        logits_V = top_p(logits_V, config.top_p)
    if config.min_p is not None:
        logits_V = min_p(logits_V, config.min_p)
    probabilities_V = logits_V.softmax(dim=-1).cpu()
    return int(torch.multinomial(probabilities_V, 1, generator=generator))


def repetition_penalty(logits: Tensor, context: Tensor, penalty: float) -> Tensor:
    """Make tokens of `context` (..., N) less likely: positive logits / penalty, negative * it.

    Keskar et al. 2019, https://arxiv.org/abs/1909.05858.
    """
    if penalty == 1.0 or context.shape[-1] == 0:
        return logits
    seen = logits.gather(-1, context)
    return logits.scatter(-1, context, torch.where(seen > 0, seen / penalty, seen * penalty))


def top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k largest, and what ties with the smallest of them (Fan et al. 2018)."""
    smallest = logits.topk(min(k, logits.shape[-1]), dim=-1).values[..., -1:]
    return logits.masked_fill(logits < smallest, -math.inf)


def top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the fewest likeliest tokens that hold probability p.

    Holtzman et al. 2020, https://arxiv.org/abs/1904.09751.
    """
    # Rounded sums reach 1 before the last token.
    if p == 1.0:
        return logits
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    probabilities = ordered.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    removed = torch.empty_like(order, dtype=torch.bool).scatter_(-1, order, before >= p)
    removed.scatter_(-1, order[..., :1], False)
    return logits.masked_fill(removed, -math.inf)


def min_p(logits: Tensor, p: float) -> Tensor:
    """Drop tokens with less than p times the likeliest one's probability.

    Nguyen et al. 2024, https://arxiv.org/abs/2407.01082.
    """
    if p == 0.0:
        return logits
    return logits.masked_fill(logits < logits.amax(dim=-1, keepdim=True) + math.log(p), -math.inf)
