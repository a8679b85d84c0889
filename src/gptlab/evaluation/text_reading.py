"""A text as a GPT predicts it, token by token.

Letters: T length, V vocabulary.
"""

import math
from collections.abc import Iterator, Sequence

import torch

from gptlab.errors import ConfigError, DataError
from gptlab.evaluation.inspected import Inspected
from gptlab.evaluation.reading import Reading, read_token, shown_by
from gptlab.evaluation.token_figures import TokenFigures, token_figures
from gptlab.model import GPT
from gptlab.tokenizer.special import silent_ids
from gptlab.training.inputs import load_inputs

MOST_TOKENS = 20_000
_BEGINNING = 1024


def read_text(inspected: Inspected, text: str) -> Reading:
    """Predict every token of `text` but the first, in windows as an evaluation has them.

    Args:
        inspected: The model, a GPT.
        text: Plain text; nothing in it becomes a special token.

    Raises:
        DataError: The text is too short, or too long to be looked at token by token.
    """
    tokenizer, config = inspected.tokenizer, inspected.model.config
    ids = tokenizer.encode(text)
    require_readable(len(ids))
    show = shown_by(tokenizer)
    figures = [None, *_window_figures(inspected, ids)]
    windows = math.ceil((len(ids) - 1) / config.seq_len)
    return Reading(
        fingerprint=tokenizer.fingerprint(),
        vocab_size=config.vocab_size,
        tokens=tuple(read_token(id, one, show) for id, one in zip(ids, figures, strict=True)),
        bytes=len(text.encode("utf-8", "surrogatepass")),
        note=(
            f"read in {windows:,} window(s) of up to {config.seq_len:,} tokens; a token is "
            "predicted from those before it in its window, the first of all is not"
        ),
    )


def require_readable(tokens: int) -> None:
    """Refuse a text of which nothing is predicted, or too much.

    Raises:
        DataError: It has fewer than 2 tokens, or more than a page shows.
    """
    if tokens < 2:
        raise DataError(
            f"the text has {tokens} token(s), but it takes at least 2 to predict one; give a "
            "longer one"
        )
    if tokens > MOST_TOKENS:
        raise DataError(
            f"the text has {tokens:,} tokens, but {MOST_TOKENS:,} can be looked at one by one; "
            "give a shorter one, or measure it with gptlab-eval"
        )


def beginning_of_held_out(inspected: Inspected) -> str:
    """The first document of the run's evaluation text, or its first 1,024 tokens.

    Raises:
        ConfigError: The checkpoint lies in no run, or its evaluation text is parts of documents.
        DataError: The text is no longer there.
    """
    remedy = 'write --text "..." or --text_file FILE'
    if inspected.settings is None:
        raise ConfigError(f"{inspected.folder} lies in no run, which would have a text; {remedy}")
    tokenizer = inspected.tokenizer
    dataset, *_ = load_inputs(
        inspected.settings, saved=tokenizer, say=lambda _line: None
    ).evaluation
    if dataset.held_out is not None:
        raise ConfigError(
            f"{dataset.folder} holds out windows, not documents, so that no text of it is unseen; "
            f"{remedy}"
        )
    ids = dataset.read(0, min(int(dataset.document_ends[0]), _BEGINNING)).tolist()
    silent = silent_ids(tokenizer) | {tokenizer.eos_id}
    # Its last character may be cut.
    return tokenizer.decode([id for id in ids if id not in silent]).rstrip("\ufffd")


@torch.no_grad()
def _window_figures(inspected: Inspected, ids: Sequence[int]) -> Iterator[TokenFigures]:
    """Of every id but the first."""
    model, arithmetic = inspected.model, inspected.arithmetic
    assert isinstance(model, GPT)
    length = model.config.seq_len
    for first in range(0, len(ids) - 1, length):
        window_T = torch.tensor(ids[first : first + length + 1], device=arithmetic.device)
        with arithmetic.autocast():
            (logits_TV,) = model(window_T[None, :-1])
        yield from token_figures(logits_TV, window_T[1:])
