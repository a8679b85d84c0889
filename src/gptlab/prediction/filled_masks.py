"""What an encoder finds likely in the place of mask tokens.

Letters: B batch, T length, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

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
    masks: tuple[tuple[Candidate, ...], ...]
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
    found: list[FilledMasks] = []
    for first in range(0, len(rows), batch_size):
        part = rows[first : first + batch_size]
        tokens_BT, lengths_B = filled_up(part, device=model.device)
        states_BTD = model.read_texts(tokens_BT, lengths_B)
        for number, row in enumerate(part):
            places = [place for place, token in enumerate(row) if token == mask]
            logits_NV = model.logits(states_BTD[number, places]).float().cpu()[:, ids]
            likeliest = logits_NV.softmax(dim=-1).topk(min(candidates, len(ids)), dim=-1)
            best = ids[likeliest.indices]
            filled = [*row]
            for place, token in zip(places, best[:, 0].tolist(), strict=True):
                filled[place] = token
            found.append(
                FilledMasks(
                    text=texts[first + number],
                    filled=tokenizer.decode(filled),
                    masks=tuple(
                        tuple(
                            Candidate(tokenizer.decode([token]), share)
                            for token, share in zip(tokens, shares, strict=True)
                        )
                        for tokens, shares in zip(
                            best.tolist(), likeliest.values.tolist(), strict=True
                        )
                    ),
                )
            )
    return found


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
