"""Beam search: the likeliest continuations as wholes, and not token by token.

Letters: B live beams, T prompt length, V vocabulary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gptlab.errors import ConfigError, GenerationError
from gptlab.generation.batch import check_source
from gptlab.generation.steps import Steps, read_sources, reader_of
from gptlab.model import GPT, KVCache, Network, Transformer

_STRONGEST_PENALTY = 10.0


@dataclass(frozen=True)
class Beam:
    """A continuation.

    Args:
        ids: The new ids; an end-of-sequence id is the last if the beam has ended.
        log_probability: Natural logarithm of the probability of `ids` after the prompt.
        score: What beams are ranked by: log_probability / len(ids) ** length_penalty.
    """

    ids: tuple[int, ...]
    log_probability: float
    score: float


@torch.inference_mode()
def beam_search(
    model: Network,
    prompt: Sequence[int],
    *,
    beams: int,
    max_new_tokens: int,
    eos_id: int | None,
    source: Sequence[int] = (),
    length_penalty: float = 1.0,
    unknown_V: Tensor | None = None,
) -> list[Beam]:
    """The best continuations of a prompt, best first; `beams` of them, unless there are fewer.

    At each length the `beams` likeliest live continuations are kept. One that comes to `eos_id`
    among the `beams` likeliest has ended. The search is over at `max_new_tokens`, or when `beams`
    have ended and no live one scores above the worst of them. There is no randomness in it; with
    one beam it is greedy.

    Lowerre 1976, https://apps.dtic.mil/sti/citations/ADA035146; the length penalty is that of
    Wu et al. 2016, https://arxiv.org/abs/1609.08144, in the simpler form of a power.

    Args:
        model: It is read in evaluation mode.
        prompt: Ids, at least one.
        beams: How many are kept, from 1.
        max_new_tokens: Tokens of a continuation at most.
        eos_id: The id that ends one; None lets all have `max_new_tokens`.
        source: Ids of the source, for a model with an encoder.
        length_penalty: Above 0 favours longer ones, below 0 shorter ones.
        unknown_V: (V,) bool, ids that are never part of one; None excludes none.

    Raises:
        ConfigError: A number is out of range, or the source, or prompt and new tokens, exceed the
            model's seq_len.
        GenerationError: The model's logits are NaN.
    """
    _check(model, prompt, beams, max_new_tokens, length_penalty)
    if isinstance(model, Transformer):
        check_source(model, source)
    was_training = model.training
    model.eval()
    try:
        cache = Steps(reader_of(model)).take_cache(
            1, len(prompt) + max_new_tokens, memory_capacity=len(source)
        )
        if isinstance(model, Transformer):
            read_sources(model, [source], cache)
        return _search(
            reader_of(model),
            cache,
            prompt,
            beams,
            max_new_tokens,
            eos_id,
            length_penalty,
            unknown_V,
        )
    finally:
        model.train(was_training)


def _search(
    model: GPT,
    cache: KVCache,
    prompt: Sequence[int],
    beams: int,
    max_new_tokens: int,
    eos_id: int | None,
    length_penalty: float,
    unknown_V: Tensor | None,
) -> list[Beam]:
    live, ended = [Beam((), 0.0, 0.0)], list[Beam]()
    column = [list(prompt)]
    for length in range(1, max_new_tokens + 1):
        tokens = torch.tensor(column, device=cache.device)
        logits_BV = model.logits(model.hidden_states(tokens, cache=cache)[:, -1])
        logprobs_BV = logits_BV.double().log_softmax(dim=-1)
        if unknown_V is not None:
            logprobs_BV = logprobs_BV.masked_fill(unknown_V.to(logits_BV.device), -math.inf)
        # A beam has one end, so of twice as many candidates at least `beams` can go on.
        candidates = _candidates(logprobs_BV, live, 2 * beams, scale=length**length_penalty)
        ended += [beam for _, beam in candidates[:beams] if beam.ids[-1] == eos_id]
        ended = _best(ended, beams)
        going_on = [pair for pair in candidates if pair[1].ids[-1] != eos_id][:beams]
        live = [beam for _, beam in going_on]
        if not live or (len(ended) == beams and live[0].score <= ended[-1].score):
            break
        cache.take_rows([parent for parent, _ in going_on])
        column = [[beam.ids[-1]] for beam in live]
    return _best([*ended, *live], beams)


def _candidates(
    logprobs_BV: Tensor, live: Sequence[Beam], count: int, *, scale: float
) -> list[tuple[int, Beam]]:
    """The `count` likeliest beams of one more token, best first, each with its parent's row."""
    sums_B = torch.tensor([beam.log_probability for beam in live], dtype=torch.float64)
    totals_BV = logprobs_BV + sums_B.to(logprobs_BV.device).unsqueeze(1)
    totals = totals_BV.flatten()
    values = totals.topk(min(count, totals.numel())).values
    if values.isnan().any():
        raise GenerationError(
            "the model's logits are NaN; load a sound checkpoint, or compute in float32"
        )
    # In 16 bits many are equal; the lowest id comes first, as it does in greedy text.
    places = (totals >= values[-1]).nonzero()[:, 0]
    places = places[totals[places].argsort(descending=True, stable=True)[: len(values)]]
    found = []
    for total, place in zip(totals[places].tolist(), places.tolist(), strict=True):
        row, token = divmod(place, logprobs_BV.shape[-1])
        if total > -math.inf:
            found.append((row, Beam((*live[row].ids, token), total, total / scale)))
    return found


def _best(found: Sequence[Beam], count: int) -> list[Beam]:
    """The best scores first; of equal ones, what came first."""
    return sorted(found, key=lambda beam: -beam.score)[:count]


def _check(
    model: Network, prompt: Sequence[int], beams: int, max_new_tokens: int, length_penalty: float
) -> None:
    vocab_size, seq_len = model.config.vocab_size, model.config.seq_len
    for name, value in (("beams", beams), ("max_new_tokens", max_new_tokens)):
        if value < 1:
            raise ConfigError(f"{name} is {value}; choose 1 or more")
    if not abs(length_penalty) <= _STRONGEST_PENALTY:
        raise ConfigError(f"length_penalty is {length_penalty}; choose one from -10 to 10")
    if not prompt:
        raise ConfigError("the prompt has no tokens; give it some text")
    if not 0 <= min(prompt) <= max(prompt) < vocab_size:
        raise ConfigError(
            f"the prompt has ids outside the model's vocabulary of {vocab_size}; use the model's "
            "own tokenizer"
        )
    if len(prompt) + max_new_tokens > seq_len:
        raise ConfigError(
            f"{len(prompt)} prompt tokens and {max_new_tokens} new ones exceed the model's "
            f"seq_len of {seq_len}; ask for fewer, or give a shorter prompt"
        )
