"""Find added tokens in a text, special or not."""

from collections.abc import Iterable, Iterator, Sequence

import regex

from gptlab.tokenizer.chunks.steps import Normalizer, normalise
from gptlab.tokenizer.formats.definition import AddedToken

_WORD = regex.compile(r"\w")
_BLANKS_BEFORE = regex.compile(r"(?r)\s+")
_SOLID = regex.compile(r"\S")


class TokenFinder:
    """Finds added tokens in a text, in the way of Hugging Face's tokenizers.

    Tokens that are not `normalized` are looked for first, in the text as it is. What is left
    between them is normalised, and the other tokens are looked for in that. Of tokens that begin
    at the same place the longest is taken.

    Args:
        tokens: The tokens to look for.
        normalizers: What is done to the text between the first ones.
    """

    def __init__(self, tokens: Iterable[AddedToken], normalizers: Sequence[Normalizer]) -> None:
        tokens = list(tokens)
        self._normalizers = normalizers
        self._in_text = _Matcher((token.content, token) for token in tokens if not token.normalized)
        self._in_normalised = _Matcher(
            (normalise(token.content, normalizers), token) for token in tokens if token.normalized
        )

    def parts(self, text: str) -> Iterator[str | int]:
        """Normalised stretches of plain text, and the ids of the tokens between them."""
        for part in self._in_text.parts(text):
            if isinstance(part, int):
                yield part
            else:
                yield from self._in_normalised.parts(normalise(part, self._normalizers))


class _Matcher:
    def __init__(self, spellings: Iterable[tuple[str, AddedToken]]) -> None:
        self._tokens: dict[str, AddedToken] = {}
        for spelling, token in spellings:
            if spelling:
                self._tokens.setdefault(spelling, token)
        longest_first = sorted(self._tokens, key=len, reverse=True)
        self._expression = regex.compile("|".join(map(regex.escape, longest_first)))

    def parts(self, text: str) -> Iterator[str | int]:
        start = 0
        for match in self._expression.finditer(text) if self._tokens else ():
            token = self._tokens[match.group()]
            begin, end = match.span()
            touching = text[max(begin - 1, 0) : begin], text[end : end + 1]
            if token.single_word and any(map(_WORD.match, touching)):
                continue
            if token.lstrip:
                begin = _first_blank(text, start, begin)
            if token.rstrip:
                end = _first_solid(text, end)
            if start < begin:
                yield text[start:begin]
            yield token.id
            start = end
        if start < len(text):
            yield text[start:]


def _first_blank(text: str, start: int, end: int) -> int:
    """Where the whitespace before `end` begins, not before `start`."""
    blanks = _BLANKS_BEFORE.match(text, start, end)
    return blanks.start() if blanks else max(start, end)


def _first_solid(text: str, start: int) -> int:
    """Where the whitespace from `start` on ends."""
    solid = _SOLID.search(text, start)
    return solid.start() if solid else len(text)
