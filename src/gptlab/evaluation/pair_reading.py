"""A target as an encoder-decoder predicts it beside its source, token by token.

Letters: T target length, V vocabulary of targets.
"""

from dataclasses import dataclass
from itertools import islice

import torch

from gptlab.config import SamplingConfig
from gptlab.corpus.pairs import Pair
from gptlab.errors import ConfigError, DataError
from gptlab.evaluation.inspected import Inspected
from gptlab.evaluation.reading import Reading, read_token, shown_by
from gptlab.evaluation.token_figures import token_figures
from gptlab.generation import Generator
from gptlab.tokenizer.pair import end_id, source_of, start_id
from gptlab.training.pair_inputs import held_out_pairs

_PAIRS = 3


@dataclass(frozen=True)
class PairIds:
    """A source and its target as ids, both with the one that ends them."""

    source: list[int]
    target: list[int]
    inputs: list[int]
    """What the decoder reads to write the target: what begins it, and all but its end."""
    is_own: bool
    """Whether the target is what the model itself says."""


def first_held_out(inspected: Inspected) -> list[Pair]:
    """The first pairs that the model's run was evaluated on, of those that it can read.

    Raises:
        ConfigError: The checkpoint lies in no run.
        DataError: The pairs are no longer there, or none of them is short enough.
    """
    if inspected.settings is None:
        raise ConfigError(
            f'{inspected.folder} lies in no run, which would have pairs; write --source "..."'
        )
    length = inspected.model.config.seq_len
    of_targets = inspected.tokenizer
    of_sources = source_of(of_targets)
    fitting = (
        pair
        for pair in held_out_pairs(inspected.settings)
        if len(of_sources.encode(pair.source)) < length
        and len(of_targets.encode(pair.target)) < length
    )
    found = list(islice(fitting, _PAIRS))
    if not found:
        raise DataError(
            f"no pair that {inspected.folder} was evaluated on is shorter than {length} tokens; "
            'write --source "..."'
        )
    return found


def pair_ids(inspected: Inspected, source: str, target: str | None) -> PairIds:
    """The ids of a pair; of a source alone with what the model greedily makes of it.

    Raises:
        ConfigError: The target, or a source without one, is longer than the model's seq_len.
        TokenizerError: The tokenizer has no token that ends a sequence.
    """
    tokenizer = inspected.tokenizer
    reader = source_of(tokenizer)
    source_ids = [*reader.encode(source), end_id(reader)]
    ids = _greedy(inspected, source_ids) if target is None else tokenizer.encode(target)
    # What had no room to end has no end.
    has_end = target is not None or len(ids) < inspected.model.config.seq_len - 1
    ids = [*ids, end_id(tokenizer)] if has_end else ids
    if len(ids) > (longest := inspected.model.config.seq_len):
        raise ConfigError(
            f"a target has {len(ids)} tokens, but the model writes {longest} at most; give a "
            "shorter one"
        )
    return PairIds(source_ids, ids, [start_id(tokenizer), *ids[:-1]], is_own=target is None)


@torch.no_grad()
def read_pair(inspected: Inspected, pair: PairIds, *, source: str) -> Reading:
    """Predict every token of the target, its end included.

    Args:
        inspected: The model, a Transformer.
        pair: Its ids.
        source: The text of the source, as it is shown.

    Raises:
        ConfigError: The source or the target is longer than the model's seq_len.
    """
    arithmetic, tokenizer = inspected.arithmetic, inspected.tokenizer
    source_S, inputs_T, target_T = (
        torch.tensor(ids, device=arithmetic.device)
        for ids in (pair.source, pair.inputs, pair.target)
    )
    with arithmetic.autocast():
        (logits_TV,) = inspected.model(source_S[None], inputs_T[None])
    figures = token_figures(logits_TV, target_T)
    show, end = shown_by(tokenizer), end_id(tokenizer)
    tokens = [read_token(id, one, show) for id, one in zip(pair.target, figures, strict=True)]
    text = tokenizer.decode([id for id in pair.target if id != end])
    whose = "what the model itself says, by its likeliest tokens" if pair.is_own else "the target"
    return Reading(
        fingerprint=tokenizer.fingerprint(),
        vocab_size=inspected.model.config.vocab_size,
        tokens=tuple(tokens),
        bytes=len(text.encode("utf-8", "surrogatepass")),
        note=f"{whose}; a token is predicted from the source and the tokens before it",
        source=source,
    )


def _greedy(inspected: Inspected, source_ids: list[int]) -> list[int]:
    generator = Generator(inspected.model, inspected.tokenizer, compile="off")
    config = SamplingConfig(temperature=0.0, max_new_tokens=inspected.model.config.seq_len)
    with inspected.arithmetic.autocast():
        (ids,) = generator.generate_ids([source_ids], config)
    return ids
