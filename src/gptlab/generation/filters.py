"""Which tokens may be drawn: small pure functions over logits (..., V).

A filter sets the logits it removes to -inf, leaves the others as they are, and never removes all.
"""

import math

import torch
from torch import Tensor

from gptlab.errors import ConfigError

_HEADS = (64, 8)
"""One token in so many is looked at before all are sorted."""


def temperature(logits: Tensor, value: float) -> Tensor:
    """Divide the logits by `value`, with the largest moved to 0; at 0 the likeliest alone is left.

    Ackley et al. 1985, https://doi.org/10.1207/s15516709cog0901_7. Of several likeliest, 0 keeps
    the lowest id. Logits without a finite largest one become NaN.

    Raises:
        ConfigError: The temperature is negative.
    """
    if not value >= 0:
        raise ConfigError(f"temperature is {value}; choose a number from 0, which is greedy")
    # With the largest at zero, no temperature is low enough to make it infinite.
    shifted = logits - logits.amax(dim=-1, keepdim=True)
    if value > 0:
        return shifted / value
    others = torch.ones_like(logits, dtype=torch.bool)
    others.scatter_(-1, logits.argmax(dim=-1, keepdim=True), False)
    return shifted.masked_fill(others, -math.inf)


def top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k largest, and what ties with the smallest of them.

    Fan et al. 2018, https://arxiv.org/abs/1805.04833.

    Raises:
        ConfigError: k is below 1.
    """
    if k < 1:
        raise ConfigError(f"top_k is {k}; choose 1 or more")
    if k >= logits.shape[-1]:
        return logits
    smallest = logits.topk(k, dim=-1).values[..., -1:]
    return logits.masked_fill(logits < smallest, -math.inf)


def top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the fewest likeliest tokens that hold probability p; of equal ones, lower ids first.

    Holtzman et al. 2020, https://arxiv.org/abs/1904.09751.

    Raises:
        ConfigError: p is not above 0 and at most 1.
    """
    return _fewest("top_p", logits, rank=logits, p=p)


def typical_p(logits: Tensor, p: float) -> Tensor:
    """Keep the fewest tokens of most typical information that hold probability p.

    Those come first whose information, -log of their probability, is nearest to its expectation,
    the entropy; of equally near ones, lower ids. The likeliest token may be removed.
    Meister et al. 2022, https://arxiv.org/abs/2202.00666.

    Raises:
        ConfigError: p is not above 0 and at most 1.
    """
    information = -logits.log_softmax(dim=-1)
    entropy = torch.special.entr(logits.softmax(dim=-1)).sum(dim=-1, keepdim=True)
    return _fewest("typical_p", logits, rank=-(information - entropy).abs(), p=p)


def min_p(logits: Tensor, p: float) -> Tensor:
    """Drop tokens with less than p times the likeliest one's probability.

    Nguyen et al. 2024, https://arxiv.org/abs/2407.01082.

    Raises:
        ConfigError: p is not from 0 to 1.
    """
    if not 0 <= p <= 1:
        raise ConfigError(f"min_p is {p}; choose a number from 0 to 1")
    if p == 0.0:
        return logits
    return logits.masked_fill(logits < logits.amax(dim=-1, keepdim=True) + math.log(p), -math.inf)


def _fewest(name: str, logits: Tensor, *, rank: Tensor, p: float) -> Tensor:
    """Keep tokens from the highest rank down, until they hold probability p."""
    if not 0 < p <= 1:
        raise ConfigError(f"{name} is {p}; choose a number above 0 and up to 1")
    # Rounded sums reach 1 before the last token.
    if p == 1.0:
        return logits
    probabilities = logits.softmax(dim=-1)
    order = _leading(rank, probabilities, p)
    ordered = probabilities.gather(-1, order)
    removed = torch.ones_like(logits, dtype=torch.bool)
    removed.scatter_(-1, order, ordered.cumsum(dim=-1) - ordered >= p)
    removed.scatter_(-1, order[..., :1], False)
    return logits.masked_fill(removed, -math.inf)


def _leading(rank: Tensor, probabilities: Tensor, p: float) -> Tensor:
    """Ids (..., N) from the highest rank down, lower ones first among equals, that hold p.

    They are all ids, unless few of them suffice, which are much faster to sort; to know that is
    free on the CPU alone.
    """
    for share in _HEADS if rank.device.type == "cpu" else ():
        if not (few := rank.shape[-1] // share):
            continue
        ranks, ids = rank.topk(few, dim=-1)
        # Of those that tie with the last, any may be missing.
        certain = probabilities.gather(-1, ids).where(ranks > ranks[..., -1:], 0.0)
        if bool((certain.sum(dim=-1) > p).all()):
            ids = ids.sort(dim=-1).values
            places = rank.gather(-1, ids).argsort(dim=-1, descending=True, stable=True)
            return ids.gather(-1, places)
    return rank.argsort(dim=-1, descending=True, stable=True)
