"""Texts that match a regular expression or fit a JSON schema, by way of llguidance.

The package, https://github.com/guidance-ai/llguidance, goes through expression and text byte by
byte, so that a token may be part of a character, or of several parts of the expression.
"""

import re
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from gptlab.errors import BackendError, ConfigError
from gptlab.generation.vocabulary import Vocabulary

if TYPE_CHECKING:
    from llguidance import LLMatcher


class Grammar:
    """A compiled expression, for all rows that it constrains.

    Args:
        setting: The name of the setting that it comes from, for messages.
        start: The state before any text, which is only copied.
        vocabulary: The tokens.
        end: The id by which `start` knows the end.
    """

    def __init__(
        self, setting: str, start: "LLMatcher", *, vocabulary: Vocabulary, end: int
    ) -> None:
        self.setting = setting
        self.start = start
        self.vocabulary = vocabulary
        self.end = end


def compile_grammar(setting: str, text: str, vocabulary: Vocabulary) -> Grammar:
    """The compiled form of a pattern or a schema.

    Args:
        setting: "regex" or "json_schema".
        text: The pattern, or the schema as JSON.
        vocabulary: The tokens.

    Raises:
        ConfigError: It can't be used, or no text matches it.
        BackendError: The package llguidance is missing.
    """
    try:
        from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
    except ImportError:
        raise BackendError(
            f'{setting} needs the package llguidance; run pip install "gptlab[structured]"'
        ) from None
    # An end of its own serves tokenizers with and without one.
    end = vocabulary.size
    tokenizer = LLTokenizer(TokenizerWrapper(_Bytes(vocabulary)), eos_token=end)
    try:
        if setting == "regex":
            source = LLMatcher.grammar_from_regex(text)
        else:
            source = LLMatcher.grammar_from_json_schema(text)
    except ValueError as error:
        raise _refused(setting, text, str(error)) from None
    if problem := LLMatcher.validate_grammar(source, tokenizer):
        raise _refused(setting, text, problem)
    start = LLMatcher(tokenizer, source, log_level=0)
    # Only with the first mask it is known that no text matches.
    probe = start.deep_copy()
    probe.compute_logit_bias()
    if probe.is_error():
        raise ConfigError(f"{setting} {_shortened(text)} can't be used: no text matches it")
    return Grammar(setting, start, vocabulary=vocabulary, end=end)


class GrammarConstraint:
    """A row whose new text is to match as a whole; see `Constraint`."""

    def __init__(self, grammar: Grammar) -> None:
        self._grammar = grammar
        self._matcher = grammar.start.deep_copy()
        self._mask: Tensor | None = None
        self._ended = False

    @property
    def is_over(self) -> bool:
        """Whether nothing but the end may follow."""
        return self._ended or not bool((self.allowed() & self._grammar.vocabulary.is_text).any())

    def allowed(self) -> Tensor:
        """The ids after which the text can still become one that matches, (V,) bool.

        Raises:
            ConfigError: There is none, or the expression is too complex here.
        """
        if self._mask is None:
            self._mask = self._new_mask()
        return self._mask

    def permits(self, token: int) -> bool:
        """Whether `token` may come next."""
        return bool(self.allowed()[token])

    def advance(self, token: int) -> None:
        """Take note that `token` has come."""
        self._mask = None
        self._ended = token == self._grammar.vocabulary.eos_id
        if not self._ended:
            self._matcher.consume_token(token)
            self._raise_if_failed()

    def _new_mask(self) -> Tensor:
        vocabulary = self._grammar.vocabulary
        mask_V = torch.zeros(vocabulary.size, dtype=torch.bool)
        if self._ended:
            return mask_V
        if not self._matcher.is_stopped():
            if forced := self._matcher.compute_ff_bytes():
                mask_V[self._forced(forced)] = True
            else:
                allowed = np.frombuffer(self._matcher.compute_logit_bias(), dtype=np.uint8)
                mask_V |= torch.from_numpy(allowed[: vocabulary.size] != 0)
                mask_V &= vocabulary.is_text
            self._raise_if_failed()
        if vocabulary.eos_id is not None and self._matcher.is_accepting():
            mask_V[vocabulary.eos_id] = True
        if not mask_V.any() and not self._matcher.is_accepting():
            raise ConfigError(
                f"{self._grammar.setting} asks for text that no token of this vocabulary begins; "
                "choose what the tokenizer can write"
            )
        return mask_V

    def _forced(self, text: bytes) -> list[int]:
        """The tokens that may come where the next bytes are certain.

        The library itself would allow only those that its tokenizer makes of them.
        """
        vocabulary = self._grammar.vocabulary
        longer = vocabulary.continuations(text)
        return [
            *vocabulary.beginnings(text),
            *(token for token in longer if self._matcher.validate_tokens([token]) == 1),
        ]

    def _raise_if_failed(self) -> None:
        if self._matcher.is_error():
            problem = _first_line(self._matcher.get_error())
            raise ConfigError(f"{self._grammar.setting} can't go on: {problem}; simplify it")


class _Bytes:
    """The vocabulary as llguidance's wrapper wants it."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.eos_token_id = vocabulary.size
        self.bos_token_id = None
        self.tokens = [*vocabulary.texts, b""]
        self.special_token_ids: list[int] = []
        self._tokenizer = vocabulary.tokenizer

    def __call__(self, text: bytes) -> list[int]:
        return self._tokenizer.encode(text.decode("utf-8", "replace"))


def _refused(setting: str, text: str, problem: str) -> ConfigError:
    return ConfigError(f"{setting} {_shortened(text)} can't be used: {_first_line(problem)}")


def _first_line(problem: str) -> str:
    """The library's messages show the pattern over several lines; one says what is wrong."""
    if found := re.search(r"^error: (.+)", problem, re.MULTILINE):
        return found[1]
    lines = problem.split("(in regex): ")[-1].strip().splitlines()
    return lines[0] if lines else "the library does not say why"


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:59] + "…")
