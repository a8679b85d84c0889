"""What an encoder finds likely in the place of mask tokens.

Letters: B batch, T length, N masks of a text, D model width, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gptlab.errors import ConfigError, TokenizerError
from gptlab.generation.steps import filled_up
from gptlab.model.encoder import Encoder
from gptlab.tokenizer import Tokenizer
from gptlab.tokenizer.mask import mask_name, ordinary_ids

CANDIDATES = 5
"""How many there are of each mask where nobody says."""


@dataclass(frozen=True)
class Candidate:
    """A token that may stand in the place of a mask."""

    token: str
    probability: float
    """Among all tokens that stand for text."""


@dataclass(frozen=True)
class FilledMasks:
    """What a text may be."""

    text: str
    """As it was given, with its masks."""
    filled: str
    """With the likeliest token in the place of each mask."""
    masks: list[list[Candidate]]
    """Of each mask in turn, the likeliest tokens, the likeliest first."""


@torch.no_grad()
def fill_masks(
    model: Encoder,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    candidates: int = CANDIDATES,
    batch_size: int = 32,
) -> list[FilledMasks]:
    """What the model finds likely for each mask of each of `texts`, which depends on it alone.

    The space before a mask is part of what is hidden, as most tokens begin with theirs. Masks of
    one text are found each for itself.

    Args:
        model: That has learned to find hidden tokens.
        tokenizer: Its own.
        texts: With the name of the mask token, such as <MASK>, once at least.
        candidates: How many to tell of each mask.
        batch_size: Texts to read at once.

    Raises:
        TokenizerError: The tokenizer has no mask token.
        ConfigError: A text has no mask, or more tokens than the model reads.
    """
    name = mask_name(tokenizer)
    if name is None:
        raise TokenizerError(
            "the tokenizer has no mask token such as <MASK>, so the model learned to find none; "
            "give an encoder that was trained without --head"
        )
    (mask,) = tokenizer.encode(name, allowed_special=(name,))
    rows = [_encoded(tokenizer, text, name, length=model.config.seq_len) for text in texts]
    ids = torch.tensor(ordinary_ids(tokenizer))
    found = []
    for first in range(0, len(rows), batch_size):
        part = rows[first : first + batch_size]
        tokens_BT, lengths_B = filled_up(part, device=model.device)
        states_BTD = model.read_texts(tokens_BT, lengths_B)
        for number, row in enumerate(part):
            places = [place for place, token in enumerate(row) if token == mask]
            logits_NV = model.logits(states_BTD[number, places]).float().cpu()
            filled, masks = _filled(
                tokenizer, row, places, logits_NV, ids=ids, candidates=candidates
            )
            found.append(FilledMasks(texts[first + number], filled, masks))
    return found


def _filled(
    tokenizer: Tokenizer,
    row: Sequence[int],
    places: Sequence[int],
    logits_NV: Tensor,
    *,
    ids: Tensor,
    candidates: int,
) -> tuple[str, list[list[Candidate]]]:
    """The text of `row` with the likeliest tokens at N `places`, and of `ids` the likely ones."""
    shares_NV = logits_NV[:, ids].softmax(dim=-1)
    likeliest = shares_NV.topk(min(candidates, len(ids)), dim=-1)
    tokens_N = ids[likeliest.indices].tolist()
    whole, masks = [*row], []
    for place, tokens, shares in zip(places, tokens_N, likeliest.values.tolist(), strict=True):
        whole[place] = tokens[0]
        pairs = zip(tokens, shares, strict=True)
        masks.append([Candidate(tokenizer.decode([token]), share) for token, share in pairs])
    return tokenizer.decode(whole), masks


def _encoded(tokenizer: Tokenizer, text: str, name: str, *, length: int) -> list[int]:
    if name not in text:
        raise ConfigError(
            f"the text '{text}' has no {name}, in whose place an encoder finds what is missing; "
            f"write {name} where a word is to be found"
        )
    ids = tokenizer.encode(text.replace(f" {name}", name), allowed_special=(name,))
    if len(ids) > length:
        raise ConfigError(
            f"the text '{text[:40]}...' has {len(ids)} tokens, but the model reads {length}; give "
            "a shorter part of it"
        )
    return ids
