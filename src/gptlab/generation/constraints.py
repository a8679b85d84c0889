"""What new text must be: a text that matches, JSON that fits, the beginning of a Python program."""

from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import Protocol, cast

from torch import Tensor

from gptlab.config import SamplingConfig
from gptlab.errors import ConfigError
from gptlab.generation.grammar import GrammarConstraint, compile_grammar
from gptlab.generation.python_constraint import PythonConstraint
from gptlab.generation.vocabulary import Vocabulary
from gptlab.tokenizer import Tokenizer


class Constraint(Protocol):
    """Says of one row which tokens may come next.

    Draw among `allowed`; where `permits` refuses what was drawn, draw anew without it, and so on.
    That is a draw from the model's distribution over what is permitted.
    """

    @property
    def is_over(self) -> bool:
        """Whether nothing but the end may follow."""
        ...

    def allowed(self) -> Tensor:
        """The ids that are not ruled out beforehand, (V,) bool on the CPU; don't change it.

        The end-of-sequence token is among them where the text may end. Padding, other special
        tokens and ids that the tokenizer does not have never are.

        Raises:
            ConfigError: No token of the vocabulary can go on.
        """
        ...

    def permits(self, token: int) -> bool:
        """Whether `token`, one of those allowed, may really come next."""
        ...

    def advance(self, token: int) -> None:
        """Take note that `token` has come; it must be permitted."""
        ...


def make_constraint(
    config: SamplingConfig, tokenizer: Tokenizer, *, prompt: Sequence[int], vocab_size: int
) -> Constraint | None:
    """The constraint of one row, or None where the settings ask for none.

    What is costly to build is built once for a tokenizer and a setting. Where `ignore_eos` is set
    or the tokenizer has no end-of-sequence token, only `is_over` ends a row.

    Args:
        config: At most one of `regex`, `json_schema` and `valid_python` may be set.
        tokenizer: Whose ids they are.
        prompt: The row's ids so far, of which only `valid_python` takes note.
        vocab_size: Number of the model's logits, which may be more than the tokenizer's ids.

    Raises:
        ConfigError: More than one is set, the pattern or schema can't be used, or the prompt is
            no beginning of a Python program.
        BackendError: The package that a pattern or a schema needs is missing.
    """
    given = [
        name
        for name, is_set in (
            ("regex", config.regex is not None),
            ("json_schema", config.json_schema is not None),
            ("valid_python", config.valid_python),
        )
        if is_set
    ]
    if not given:
        return None
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)} exclude each other; give one of them")
    eos = None if config.ignore_eos else tokenizer.eos_id
    vocabulary = _vocabulary(cast(Hashable, tokenizer), vocab_size, eos)
    if config.valid_python:
        return PythonConstraint(vocabulary, prompt)
    text = config.regex if config.regex is not None else config.json_schema
    return GrammarConstraint(_grammar(given[0], text or "", vocabulary))


# A tokenizer has no state, and is told apart from others by what decides its ids, or by identity.
@lru_cache(maxsize=4)
def _vocabulary(tokenizer: Hashable, vocab_size: int, eos_id: int | None) -> Vocabulary:
    return Vocabulary(cast(Tokenizer, tokenizer), vocab_size, eos_id)


_grammar = lru_cache(maxsize=8)(compile_grammar)
