"""What happens to text before it is merged: it is normalised, and cut into chunks step by step."""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from itertools import chain, groupby
from typing import Literal, get_args

import regex

from gptlab.tokenizer.chunks.patterns import SPLIT_PATTERNS, split

Normalizer = Literal["NFC", "NFD", "NFKC", "NFKD", "Lowercase"]
Behavior = Literal["Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"]

NORMALIZERS: tuple[Normalizer, ...] = get_args(Normalizer)
BEHAVIORS: tuple[Behavior, ...] = get_args(Behavior)


def normalise(text: str, normalizers: Sequence[Normalizer]) -> str:
    """`text` after each of the normalisers in turn."""
    return reduce(_normalise, normalizers, text)


def _normalise(text: str, normalizer: Normalizer) -> str:
    if normalizer == "Lowercase":
        # One by one, as Hugging Face does it, so that a sigma at the end of a word is like any.
        return "".join(map(str.lower, text))
    return unicodedata.normalize(normalizer, text)


@dataclass(frozen=True)
class NamedSplit:
    """Cut by one of gptlab's own patterns."""

    pattern: str

    @property
    def expression(self) -> str:
        """The pattern as a regular expression."""
        return SPLIT_PATTERNS[self.pattern]

    def __call__(self, text: str) -> Iterator[str]:
        """The chunks of `text`."""
        return split(text, self.pattern)


@dataclass(frozen=True)
class Split:
    """Cut by a regular expression, as the pre-tokenizer Split of Hugging Face does.

    Args:
        expression: In the syntax of Oniguruma, as far as `regex` reads it alike.
        behavior: What becomes of the text that the expression matches.
        invert: Whether that is done to the text in between instead.
    """

    expression: str
    behavior: Behavior = "Isolated"
    invert: bool = False

    def __call__(self, text: str) -> Iterator[str]:
        """The chunks of `text`."""
        return filter(None, self._chunks(text))

    def _chunks(self, text: str) -> Iterable[str]:
        pieces = self._pieces(text)
        match self.behavior:
            case "Isolated":
                return (piece for piece, _ in pieces)
            case "Removed":
                return (piece for piece, is_match in pieces if not is_match)
            case "Contiguous":
                runs = groupby(pieces, key=lambda piece: piece[1])
                return ("".join(piece for piece, _ in run) for _, run in runs)
            case "MergedWithPrevious":
                return map("".join, _attached(pieces))
            case "MergedWithNext":
                groups = _attached(reversed(list(pieces)))
                return reversed(["".join(reversed(group)) for group in groups])

    def _pieces(self, text: str) -> Iterator[tuple[str, bool]]:
        """All of `text` piece by piece, and whether each counts as a match."""
        end = 0
        for match in compiled_expression(self.expression).finditer(text):
            if end < match.start():
                yield text[end : match.start()], self.invert
            yield match.group(), not self.invert
            end = match.end()
        if end < len(text):
            yield text[end:], self.invert


def _attached(pieces: Iterable[tuple[str, bool]]) -> list[list[str]]:
    """Pieces in groups: a match joins what came before it, unless that was a match too."""
    groups: list[list[str]] = []
    after_match = False
    for piece, is_match in pieces:
        if is_match and not after_match and groups:
            groups[-1].append(piece)
        else:
            groups.append([piece])
        after_match = is_match
    return groups


@dataclass(frozen=True)
class PrefixSpace:
    """Put a space before text that does not begin with one."""

    def __call__(self, text: str) -> Iterator[str]:
        """`text`, with a space before it."""
        yield text if text.startswith(" ") else " " + text


Step = NamedSplit | Split | PrefixSpace


def cut(text: str, steps: Sequence[Step]) -> Iterable[str]:
    """The chunks of `text`: each step cuts further what the one before it left."""
    chunks: Iterable[str] = [text] if text else []
    for step in steps:
        chunks = chain.from_iterable(map(step, chunks))
    return chunks


@cache
def compiled_expression(expression: str) -> regex.Pattern[str]:
    """A foreign split pattern, compiled so that it is read as Oniguruma reads it.

    Raises:
        regex.error: It is no regular expression.
    """
    return regex.compile(expression, regex.VERSION1 | regex.MULTILINE)
