"""How well each token of a text was predicted.

Letters: T length, V vocabulary, K alternatives.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gptlab.evaluation.tokens import tokens_ahead
from gptlab.training.losses import target_losses

ALTERNATIVES = 5


@dataclass(frozen=True)
class TokenFigures:
    """A model's prediction of one token, held against the token."""

    nats: float
    """-log p of the token."""
    rank: int
    """Its place among all tokens, the likeliest first: 1 where the model would have said it."""
    entropy: float
    """Of the prediction, in nats: how unsure the model was, whatever came."""
    alternatives: tuple[tuple[int, float], ...]
    """The likeliest ids and their probabilities, the likeliest first; the token may be among
    them."""


@torch.no_grad()
def token_figures(
    logits_TV: Tensor, targets_T: Tensor, *, alternatives: int = ALTERNATIVES
) -> list[TokenFigures]:
    """The figures of each target, T of them.

    Args:
        logits_TV: In any precision; the logarithms are computed in float32.
        targets_T: int64.
        alternatives: How many likely ids to tell of, or all V if there are fewer.
    """
    nats_T = target_losses(logits_TV, targets_T).nats
    ranks_T = tokens_ahead(logits_TV, targets_T) + 1
    p_TV = logits_TV.float().softmax(dim=-1)
    # Where p is 0, p log p is 0 too.
    entropies_T = torch.special.entr(p_TV).sum(dim=-1)
    ids_TK, p_TK = _likeliest(p_TV, min(alternatives, p_TV.shape[1]))
    columns = (nats_T, ranks_T, entropies_T, ids_TK, p_TK)
    return [
        TokenFigures(nats, rank, entropy, tuple(zip(ids, shares, strict=True)))
        for nats, rank, entropy, ids, shares in zip(*(c.tolist() for c in columns), strict=True)
    ]


def _likeliest(p_TV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Ids and probabilities of the likeliest tokens, (T, K) each."""
    left_TV, columns = p_TV.clone(), []
    # The first of equal ones each time, as the ranks have it, which topk does not promise.
    for _ in range(count):
        columns.append(left_TV.argmax(dim=-1, keepdim=True))
        left_TV.scatter_(-1, columns[-1], -1.0)
    ids_TK = torch.cat(columns, dim=-1)
    return ids_TK, p_TV.gather(-1, ids_TK)
