"""Tokens made more or less likely, or impossible: pure functions over logits (..., V).

Letters: B batch, N ids, V vocabulary.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from gptlab.errors import ConfigError


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Rows of ids as one tensor (B, N) int64; shorter ones end with -1, which is no token."""
    longest = max(map(len, rows), default=0)
    return torch.tensor(
        [[*row, *[-1] * (longest - len(row))] for row in rows], dtype=torch.int64, device=device
    )


def repetition_penalty(logits: Tensor, context: Tensor, penalty: float) -> Tensor:
    """Make tokens of `context` less likely: positive logits / penalty, negative ones * penalty.

    Keskar et al. 2019, https://arxiv.org/abs/1909.05858.

    Args:
        logits: (..., V) scores.
        context: (..., N) int64, the ids so far; -1 at the end of a row is no token.
        penalty: Above 0; below 1 it makes them likelier.

    Raises:
        ConfigError: The penalty is not above 0.
    """
    if not penalty > 0:
        raise ConfigError(
            f"repetition_penalty is {penalty}; choose a number above 0, or 1 for none"
        )
    if penalty == 1.0 or context.shape[-1] == 0:
        return logits
    index = _scattered(context)
    seen = logits.gather(-1, index)
    penalised = torch.where(seen > 0, seen / penalty, seen * penalty)
    return logits.scatter(-1, index, penalised.where(context[..., :1] >= 0, seen))


def presence_penalty(logits: Tensor, generated: Tensor, penalty: float) -> Tensor:
    """Subtract `penalty` from tokens that occur in `generated` (..., N) int64.

    As in OpenAI's interface, https://platform.openai.com/docs/api-reference/chat/create; -1 at the
    end of a row is no token.
    """
    if penalty == 0.0 or generated.shape[-1] == 0:
        return logits
    index = _scattered(generated)
    seen = logits.gather(-1, index)
    return logits.scatter(-1, index, seen - penalty * (generated[..., :1] >= 0))


def frequency_penalty(logits: Tensor, generated: Tensor, penalty: float) -> Tensor:
    """Subtract `penalty` once for each time that a token occurs in `generated` (..., N) int64.

    As in OpenAI's interface, https://platform.openai.com/docs/api-reference/chat/create; -1 at the
    end of a row is no token.
    """
    if penalty == 0.0 or generated.shape[-1] == 0:
        return logits
    each = -penalty * (generated >= 0).to(logits.dtype)
    return logits.scatter_add(-1, generated.clamp(min=0), each)


def logit_bias(logits: Tensor, bias: Mapping[int, float]) -> Tensor:
    """Add `bias[id]` to the logits of each id in it.

    As in OpenAI's interface, https://platform.openai.com/docs/api-reference/chat/create.

    Raises:
        ConfigError: An id is outside the vocabulary.
    """
    if not bias:
        return logits
    _check_ids("logit_bias", bias, logits.shape[-1])
    values = torch.tensor(list(bias.values()), dtype=logits.dtype, device=logits.device)
    ids = torch.tensor(list(bias), device=logits.device)
    return logits.index_add(-1, ids, values.expand(*logits.shape[:-1], -1))


def ban(
    logits_BV: Tensor, contexts: Sequence[Sequence[int]], banned: Sequence[Sequence[int]]
) -> Tensor:
    """Set logits to -inf where the id would complete a banned sequence after a row's context.

    A sequence of one id is banned everywhere, a longer one where the context ends with all of it
    but its last id.

    Args:
        logits_BV: (B, V) scores.
        contexts: The ids so far of each row.
        banned: Sequences of ids.

    Raises:
        ConfigError: A last id is outside the vocabulary.
    """
    places = [
        (row, last)
        for *beginning, last in filter(None, banned)
        for row, context in enumerate(contexts)
        if len(beginning) <= len(context)
        and beginning == list(context[len(context) - len(beginning) :])
    ]
    if not places:
        return logits_BV
    _check_ids("banned", (last for _, last in places), logits_BV.shape[-1])
    rows, ids = torch.tensor(places, device=logits_BV.device).unbind(dim=1)
    return logits_BV.index_put((rows, ids), logits_BV.new_tensor(-math.inf))


def _scattered(ids: Tensor) -> Tensor:
    """Ids (..., N) to gather from and scatter to: what is no token is the row's first one again.

    A row without any has 0 throughout; what is written there must be what was read.
    """
    return ids.where(ids >= 0, ids[..., :1]).clamp(min=0)


def _check_ids(name: str, ids: Iterable[int], vocab_size: int) -> None:
    for token in ids:
        if not 0 <= token < vocab_size:
            raise ConfigError(
                f"{name} has the id {token}, but the vocabulary has {vocab_size} tokens; choose "
                f"one from 0 to {vocab_size - 1}"
            )
