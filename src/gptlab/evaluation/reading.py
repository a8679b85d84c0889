"""What a model made of a text, token by token."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from gptlab.errors import TokenizerError
from gptlab.evaluation.token_figures import TokenFigures
from gptlab.tokenizer import Tokenizer
from gptlab.tokenizer.inspection.picture import token_picture
from gptlab.tokenizer.pair import PairTokenizer


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
    """The whole loss over the whole text, whatever its tokens are; NaN of an empty target."""
    entropy: float
    """Mean nats of the predictions."""
    top1: float
    """Share of tokens that were the likeliest."""
    top5: float
    """Share of tokens among the five likeliest."""

    @property
    def shown_bits(self) -> str:
        """Bits per byte for a table."""
        return "not known" if math.isnan(self.bits_per_byte) else f"{self.bits_per_byte:.4f}"


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


def shown_by(tokenizer: Tokenizer) -> Callable[[int], str]:
    """How each id is shown: its text, with signs and hex for what can't be seen; or its name.

    Of a pair of tokenizers, it is the target's ids.
    """
    if isinstance(tokenizer, PairTokenizer):
        tokenizer = tokenizer.target
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
