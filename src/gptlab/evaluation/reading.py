"""What a model makes of a text, token by token.

Letters: T length, V vocabulary.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import torch

from gptlab.errors import ConfigError, DataError, TokenizerError
from gptlab.evaluation.held_out import Subject, held_out_text
from gptlab.evaluation.token_figures import TokenFigures, token_figures
from gptlab.tokenizer import Tokenizer
from gptlab.tokenizer.inspection.picture import token_picture
from gptlab.tokenizer.special import silent_ids

MOST_TOKENS = 20_000
_BEGINNING = 1024


@dataclass(frozen=True)
class ReadToken:
    """A token as it is shown, and how it was predicted."""

    id: int
    shown: str
    """Its text, with signs and hex for what can't be seen, or its name; spaces are spaces."""
    figures: TokenFigures | None
    """None for the first token of a text, which nothing stands before."""
    alternatives: tuple[tuple[str, float], ...] = ()
    """The likeliest tokens as they are shown, and their probabilities."""


@dataclass(frozen=True)
class Reading:
    """A text as one model read it."""

    fingerprint: str
    """Of the tokenizer."""
    vocab_size: int
    """Of the model."""
    tokens: tuple[ReadToken, ...]
    bytes: int
    """Of the text in UTF-8."""
    note: str
    """How it was read."""
    source: str | None = None
    """What an encoder read before, where there is one."""

    @property
    def ids(self) -> list[int]:
        """All of its tokens."""
        return [token.id for token in self.tokens]


@dataclass(frozen=True)
class Totals:
    """What readings come to, all tokens together that were predicted."""

    tokens: int
    loss: float
    """Mean nats per token."""
    perplexity: float
    bits_per_byte: float
    """The whole loss over the whole text, whatever its tokens are."""
    entropy: float
    """Mean nats of the predictions."""
    top1: float
    """Share of tokens that were the likeliest."""
    top5: float
    """Share of tokens among the five likeliest."""


def totals(readings: Sequence[Reading]) -> Totals:
    """What `readings`, one or more, come to."""
    tokens = [token for reading in readings for token in reading.tokens]
    figures = [token.figures for token in tokens if token.figures is not None]
    count, nats = len(figures), sum(one.nats for one in figures)
    size = sum(reading.bytes for reading in readings)
    return Totals(
        tokens=count,
        loss=nats / count,
        perplexity=math.exp(min(nats / count, 700.0)),
        bits_per_byte=nats / math.log(2) / size if size else math.nan,
        entropy=sum(one.entropy for one in figures) / count,
        top1=sum(one.rank == 1 for one in figures) / count,
        top5=sum(one.rank <= 5 for one in figures) / count,
    )


def read_text(subject: Subject, text: str) -> Reading:
    """Predict every token of `text` but the first, in windows as an evaluation has them.

    Args:
        subject: The model.
        text: Plain text; nothing in it becomes a special token.

    Raises:
        DataError: The text is too short, or too long to be looked at token by token.
    """
    tokenizer = subject.tokenizer
    ids = tokenizer.encode(text)
    require_readable(len(ids))
    show = shown_by(tokenizer)
    figures = [None, *_window_figures(subject, ids)]
    config = subject.model.config
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


def beginning_of_held_out(subject: Subject, *, runs_dir: str) -> str:
    """The first document of the run's evaluation text, or its first 1,024 tokens.

    Raises:
        ConfigError: The checkpoint lies in no run, or its evaluation text is parts of documents.
        DataError: The text is no longer there.
    """
    if subject.settings is None:
        raise ConfigError(
            f'{subject.folder} lies in no run, which would have a text; write --text "..." or '
            "--text_file FILE"
        )
    dataset = held_out_text(subject, (), runs_dir=runs_dir)[0]
    if dataset.held_out is not None:
        raise ConfigError(
            f"{dataset.folder} holds out windows, not documents, so that no text of it is unseen; "
            'write --text "..." or --text_file FILE'
        )
    ids = dataset.read(0, min(int(dataset.document_ends[0]), _BEGINNING)).tolist()
    silent = silent_ids(subject.tokenizer) | {subject.tokenizer.eos_id}
    # Its last character may be cut.
    return subject.tokenizer.decode([id for id in ids if id not in silent]).rstrip("\ufffd")


def shown_by(tokenizer: Tokenizer) -> Callable[[int], str]:
    """How each id is shown: its text, with signs and hex for what can't be seen; or its name."""
    names = {id: name for name, id in getattr(tokenizer, "special_tokens", {}).items()}

    @cache
    def show(id: int) -> str:
        try:
            return names.get(id) or token_picture(tokenizer, id)
        except TokenizerError:
            # The model has rows that its tokenizer has no ids for.
            return f"<id {id}>"

    return show


def read_token(id: int, figures: TokenFigures | None, show: Callable[[int], str]) -> ReadToken:
    """A token and its figures as they are shown."""
    likely = () if figures is None else figures.alternatives
    return ReadToken(id, show(id), figures, tuple((show(other), p) for other, p in likely))


@torch.no_grad()
def _window_figures(subject: Subject, ids: Sequence[int]) -> Iterator[TokenFigures]:
    """Of every id but the first."""
    model, arithmetic = subject.model, subject.arithmetic
    for first in range(0, len(ids) - 1, model.config.seq_len):
        window_T = torch.tensor(ids[first : first + model.config.seq_len + 1])
        window_T = window_T.to(arithmetic.device)
        with arithmetic.autocast():
            (logits_TV,) = model(window_T[None, :-1])
        yield from token_figures(logits_TV, window_T[1:])
