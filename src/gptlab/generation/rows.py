"""One sequence being continued, and the tokens that it gets."""

import random
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal, NamedTuple

from torch import Tensor

from gptlab.config import SamplingConfig
from gptlab.generation.constraints import Constraint

# Settings that do not matter to how the next token is drawn, or that rows have made their own.
_OF_ONE_ROW: Mapping[str, object] = MappingProxyType(
    {
        "max_new_tokens": 1,
        "regex": None,
        "json_schema": None,
        "valid_python": False,
        "seed": None,
        "stop": (),
        "ignore_eos": False,
        "overflow": "slide",
    }
)

Ending = Literal["eos", "stop", "length", "cancelled"]


class Token(NamedTuple):
    """A token that a row got."""

    id: int
    logprob: float | None = None
    """Its log-probability under the model, in nats, before penalties, temperature and filters;
    None if the row's settings ask for none."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest ids with their log-probabilities, the likeliest first."""


class Reading(NamedTuple):
    """What is read of a row before its first token is drawn; what is alike is read once."""

    source: tuple[int, ...]
    context: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """How many tokens that is."""
        return len(self.source) + len(self.context)


class Row:
    """One sequence being continued, by settings and randomness of its own.

    Args:
        prompt: Its ids so far, at least one.
        source: The ids that a model with an encoder turns into those of the row.
        config: How tokens are drawn, and how many.
        seed: Of its randomness; drawn from the system's if None.
        eos_id: The token that ends it, unless `config.ignore_eos`.
        banned: Sequences of ids that are not to be completed.
        constraint: What decides which tokens may come.
        unknown_V: (V,) bool, the model's ids that the tokenizer does not have, which never come;
            None if it has all.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        config: SamplingConfig,
        *,
        source: Sequence[int] = (),
        seed: int | str | None = None,
        eos_id: int | None = None,
        banned: Sequence[Sequence[int]] = (),
        constraint: Constraint | None = None,
        unknown_V: Tensor | None = None,
    ) -> None:
        self.ids = list(prompt)
        self.source = tuple(source)
        self.config = config
        self.eos_id = None if config.ignore_eos else eos_id
        self.banned = banned
        self.constraint = constraint
        self.unknown_V = unknown_V
        self.ending: Ending | None = None
        """Why it has ended; whoever reads its tokens may set it."""
        self.error: Exception | None = None
        """Why it can't go on."""
        self._prompt_length = len(self.ids)
        self._random = random.Random(seed)
        self._drawing = config.model_copy(update=dict(_OF_ONE_ROW))

    @property
    def is_over(self) -> bool:
        """Whether nothing more is drawn for it."""
        return self.ending is not None or self.error is not None

    def reading(self, seq_len: int) -> Reading:
        """What a model whose context is `seq_len` reads of it."""
        return Reading(self.source, tuple(self.ids[-seq_len:]))

    @property
    def text_ids(self) -> list[int]:
        """The ids that its text is made of: of a target all but the one that it begins with."""
        return self.ids[1:] if self.source else self.ids

    @property
    def new_ids(self) -> list[int]:
        """The ids that it got."""
        return self.ids[self._prompt_length :]

    @property
    def new(self) -> int:
        """How many ids it got."""
        return len(self.ids) - self._prompt_length

    def is_drawn_like(self, other: "Row") -> bool:
        """Whether both are drawn by the same settings; their ends and seeds may differ."""
        alike = self._drawing == other._drawing and self.banned == other.banned
        return alike and self.unknown_V is other.unknown_V

    def uniform(self) -> float:
        """The next number in [0, 1) of its randomness: one for a draw, whoever else is drawn."""
        return self._random.random()

    def take(self, token: int) -> bool:
        """Add a token that was drawn for it; whether it is one to show, and no end of text."""
        if token == self.eos_id:
            self.ending = "eos"
            return False
        self.ids.append(token)
        if self.constraint is not None:
            self.constraint.advance(token)
        if self.new == self.config.max_new_tokens:
            self.ending = "length"
        elif self.constraint is not None and self.constraint.is_over:
            self.ending = "eos"
        return True
