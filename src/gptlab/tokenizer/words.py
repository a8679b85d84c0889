"""Texts that come as words, to ids; and which token ends each word."""

from collections.abc import Sequence
from typing import NamedTuple

from gptlab.tokenizer.base import Tokenizer


class EncodedText(NamedTuple):
    """Ids of a text, at least one, and the places in it that are spoken of."""

    ids: list[int]
    places: Sequence[int]
    """The last token of each word, where the text came as words; else every token."""


def encode_text(tokenizer: Tokenizer, text: str, *, length: int) -> EncodedText:
    """The first `length` tokens of `text`; an empty one is the token that ends a document."""
    ids = _never_empty(tokenizer, tokenizer.encode(text))[:length]
    return EncodedText(ids, range(len(ids)))


def encode_words(tokenizer: Tokenizer, words: Sequence[str], *, length: int) -> EncodedText:
    """The first `length` tokens of `words`, which stand in the text with a space between them.

    Words that are cut off, or cut through, have no place. The last token of a word is its place
    because a model that reads from left to right has seen all of the word only there.
    """
    ids: list[int] = []
    places = []
    for number, word in enumerate(words):
        ids += tokenizer.encode(f" {word}" if number else word)
        places.append(max(len(ids) - 1, 0))
    ids = _never_empty(tokenizer, ids)[:length]
    return EncodedText(ids, [place for place in places if place < len(ids)])


def _never_empty(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    if ids:
        return ids
    special = (tokenizer.eos_id, tokenizer.bos_id, tokenizer.pad_id)
    return [next((id for id in special if id is not None), 0)]
