"""How the next token of each row is drawn from logits (B, V).

`process` changes the logits of single tokens, `probabilities` heats and filters, `draw` draws;
`choose` is the three together. Rows share one configuration, and none depends on another.

Letters: B batch, K kept tokens, V vocabulary.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gptlab.config import SamplingConfig
from gptlab.errors import GenerationError
from gptlab.generation.filters import min_p, temperature, top_k, top_p, typical_p
from gptlab.generation.penalties import (
    ban,
    frequency_penalty,
    logit_bias,
    padded,
    presence_penalty,
    repetition_penalty,
)

__all__ = [
    "ban",
    "checked",
    "choose",
    "draw",
    "frequency_penalty",
    "greedy",
    "logit_bias",
    "min_p",
    "presence_penalty",
    "probabilities",
    "process",
    "repetition_penalty",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
]


def choose(
    logits_BV: Tensor,
    config: SamplingConfig,
    uniforms_B: Tensor,
    *,
    contexts: Sequence[Sequence[int]],
    new: Sequence[int],
    banned: Sequence[Sequence[int]] = (),
    allowed_BV: Tensor | None = None,
    unknown_V: Tensor | None = None,
) -> Tensor:
    """The next id of each row, (B,) int64 on the CPU; reading them is all that waits for a device.

    Args:
        logits_BV: (B, V) scores of the next token.
        config: How to draw.
        uniforms_B: (B,) float64 in [0, 1), each row's randomness; a temperature of 0 needs none.
        contexts: The ids so far of each row.
        new: How many ids at the end of each context were generated.
        banned: Sequences of ids that are not to be completed.
        allowed_BV: (B, V) bool, which ids may come; None allows all.
        unknown_V: (V,) bool, which ids never come, in any row; None excludes none.

    Raises:
        GenerationError: A row's logits are not finite, or nothing is left to draw.
        ConfigError: A biased or banned id is outside the vocabulary.
    """
    processed_BV = process(
        logits_BV.float(),
        config,
        contexts=contexts,
        new=new,
        banned=banned,
        allowed_BV=allowed_BV,
        unknown_V=unknown_V,
    )
    if config.temperature == 0:
        return checked(greedy(processed_BV), logits_BV=logits_BV, processed_BV=processed_BV)
    kept_BK, kept_ids_BK = _kept(processed_BV, config.top_k)
    ids_B = draw(_distribution(kept_BK, config), uniforms_B)
    if kept_ids_BK is not None:
        chosen_B = kept_ids_BK.gather(1, ids_B.clamp(min=0).unsqueeze(1)).squeeze(1)
        ids_B = chosen_B.where(ids_B >= 0, -1)
    return checked(ids_B, logits_BV=logits_BV, processed_BV=processed_BV)


def process(
    logits_BV: Tensor,
    config: SamplingConfig,
    *,
    contexts: Sequence[Sequence[int]],
    new: Sequence[int],
    banned: Sequence[Sequence[int]] = (),
    allowed_BV: Tensor | None = None,
    unknown_V: Tensor | None = None,
) -> Tensor:
    """Logits (B, V) after penalties, biases, bans and what is allowed; arguments as of `choose`.

    Raises:
        ConfigError: A biased or banned id is outside the vocabulary.
    """
    if config.repetition_penalty != 1.0:
        context_BN = padded(contexts, logits_BV.device)
        logits_BV = repetition_penalty(logits_BV, context_BN, config.repetition_penalty)
    if config.presence_penalty or config.frequency_penalty:
        generated = [
            context[len(context) - count :] for context, count in zip(contexts, new, strict=True)
        ]
        generated_BN = padded(generated, logits_BV.device)
        logits_BV = presence_penalty(logits_BV, generated_BN, config.presence_penalty)
        logits_BV = frequency_penalty(logits_BV, generated_BN, config.frequency_penalty)
    logits_BV = ban(logit_bias(logits_BV, config.logit_bias), contexts, banned)
    if allowed_BV is not None:
        logits_BV = logits_BV.masked_fill(~allowed_BV.to(logits_BV.device), -math.inf)
    if unknown_V is not None:
        logits_BV = logits_BV.masked_fill(unknown_V.to(logits_BV.device), -math.inf)
    return logits_BV


def probabilities(logits_BV: Tensor, config: SamplingConfig) -> Tensor:
    """The distribution (B, V) to draw from: temperature, top_k, top_p, min_p, typical_p, in order.

    Each filter sees what the one before has left. A temperature of 0 gives all to the likeliest
    id, the lowest of several. A row without a finite largest logit becomes NaN.
    """
    kept_BK, kept_ids_BK = _kept(logits_BV, config.top_k)
    kept_probabilities_BK = _distribution(kept_BK, config)
    if kept_ids_BK is None:
        return kept_probabilities_BK
    broken_B1 = kept_probabilities_BK[:, :1].isnan()
    spread_BV = torch.zeros_like(logits_BV).scatter(1, kept_ids_BK, kept_probabilities_BK)
    return spread_BV.masked_fill(broken_B1, math.nan)


def greedy(logits: Tensor) -> Tensor:
    """The likeliest id (...) of logits (..., V), the lowest of several; -1 if none is finite."""
    largest, ids = logits.max(dim=-1)
    return ids.where(largest.isfinite(), -1)


def draw(probabilities_BV: Tensor, uniforms_B: Tensor) -> Tensor:
    """An id for each row, (B,) int64, by the inverse of its cumulative distribution.

    The id is the first whose probability, with those before it, exceeds the row's share of the
    total; it is never one of probability 0, and -1 in a row that is NaN or has nothing but zeros.
    Devroye 1986, chapter III.2, https://luc.devroye.org/rnbookindex.html.

    Args:
        probabilities_BV: (B, V) at least 0; they need not sum to 1.
        uniforms_B: (B,) float64 in [0, 1).
    """
    is_zero_BV = probabilities_BV == 0
    # Below every target, however a parallel sum rounds.
    sums_BV = probabilities_BV.double().cumsum(dim=-1).masked_fill_(is_zero_BV, -1.0)
    totals_B = sums_BV.amax(dim=-1)
    targets_B = uniforms_B.to(totals_B.device) * totals_B
    ids_B = (sums_BV > targets_B.unsqueeze(1)).to(torch.uint8).argmax(dim=-1)
    return ids_B.where(totals_B > 0, -1)


def checked(ids_B: Tensor, *, logits_BV: Tensor, processed_BV: Tensor) -> Tensor:
    """Ids that were drawn, on the CPU.

    Args:
        ids_B: (B,) int64, -1 where there was nothing to draw.
        logits_BV: What the model gave.
        processed_BV: What `process` made of it.

    Raises:
        GenerationError: An id is -1; it says why.
    """
    ids_B = ids_B.cpu()
    for row, token in enumerate(ids_B.tolist()):
        if token < 0:
            raise GenerationError(_cause(row, logits_BV[row], processed_BV[row]))
    return ids_B


def _cause(row: int, logits_V: Tensor, processed_V: Tensor) -> str:
    """Why there is no token to draw, and what helps."""
    largest = logits_V.max().item()
    if not math.isfinite(largest):
        return (
            f"the largest of the model's logits is {largest} in row {row}; load a sound "
            "checkpoint, or compute in float32"
        )
    largest = processed_V.max().item()
    if largest == -math.inf:
        return f"no token is left to draw in row {row}; ban fewer, or allow more"
    return (
        f"penalties and biases make the largest logit {largest} in row {row}; choose values "
        "nearer to their defaults"
    )


def _kept(logits_BV: Tensor, k: int | None) -> tuple[Tensor, Tensor | None]:
    """What `top_k` keeps: logits (B, K) and their ids, ascending; all V, without ids, if None.

    Fewer tokens make all that follows fast. Whether more than k tie for a place is free to know on
    the CPU alone.
    """
    if k is None or k >= logits_BV.shape[-1]:
        return logits_BV, None
    if logits_BV.device.type != "cpu":
        return top_k(logits_BV, k), None
    values_BK, ids_BK = logits_BV.topk(k + 1, dim=-1)
    last_B1, next_B1 = values_BK[:, k - 1 : k], values_BK[:, k:]
    if bool(((last_B1 == next_B1) & next_B1.isfinite()).any()):
        most = int((logits_BV >= last_B1).sum(dim=-1).max())
        ids_BK = logits_BV.topk(most, dim=-1).indices
    ids_BK = ids_BK.sort(dim=-1).values
    kept_BK = logits_BV.gather(-1, ids_BK)
    return kept_BK.masked_fill(kept_BK < last_B1, -math.inf), ids_BK


def _distribution(logits: Tensor, config: SamplingConfig) -> Tensor:
    """Probabilities of logits that are left by `top_k`, after all else."""
    logits = temperature(logits, config.temperature)
    if config.temperature > 0:
        if config.top_p is not None:
            logits = top_p(logits, config.top_p)
        if config.min_p is not None:
            logits = min_p(logits, config.min_p)
        if config.typical_p is not None:
            logits = typical_p(logits, config.typical_p)
    return logits.softmax(dim=-1)
