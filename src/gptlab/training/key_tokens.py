"""Which tokens are key tokens: from words to ids."""

import string
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gptlab.errors import ConfigError
from gptlab.tokenizer import Tokenizer

_COMMENT = "#"
# What may stand before a word in a text. '_' is a part of words.
_BEFORE = ("", *" \t\n", *string.punctuation.replace("_", ""))
_FEW = 10


@dataclass(frozen=True)
class KeyTokens:
    """What a tokenizer makes of words."""

    ids: tuple[int, ...]
    """Those of all words that are one token, ascending."""
    split: tuple[str, ...]
    """Words that are several tokens wherever they stand."""


def read_words(items: Sequence[str]) -> tuple[str, ...]:
    """The words that `items` name, in order and each once.

    An item is words with commas between, as in 'plt,pd', or a file with a word a line, in which
    blank lines and those that begin with '#' are left out.

    Raises:
        ConfigError: A file can't be read, or there is no word in an item.
    """
    words: dict[str, None] = {}
    for item in items:
        found = [word for word in _words_of(item) if word]
        if not found:
            raise ConfigError(f"key_tokens has no word in '{item}'; write some, as in plt,pd,fit")
        words |= dict.fromkeys(found)
    return tuple(words)


def find_key_ids(words: Sequence[str], tokenizer: Tokenizer) -> KeyTokens:
    """The ids of `words` where they are one token, and a warning for those that never are.

    A tokenizer may have several tokens for a word: `fit` at the start of a line, ` fit` with the
    space before it, `.fit` with a dot. All of them count, wherever they are in a text: also in
    `outfit`, if that is `out` and `fit`.

    Raises:
        ConfigError: There are words, but none is one token.
    """
    ids: set[int] = set()
    split = []
    for word in words:
        found = set(_single_ids(word, tokenizer))
        ids |= found
        if not found:
            split.append(word)
    if split:
        cuts = ", ".join(f"{word} ({_cut(word, tokenizer)})" for word in split[:_FEW])
        if len(split) > _FEW:
            cuts += f" and {len(split) - _FEW} more"
        if not ids:
            raise ConfigError(
                f"key_tokens has no word that is one token, and no file of that name: {cuts}; "
                "choose others, or a tokenizer with a larger vocabulary"
            )
        warnings.warn(
            f"key_tokens has words that are not one token and weigh as any other: {cuts}",
            stacklevel=2,
        )
    return KeyTokens(tuple(sorted(ids)), tuple(split))


def _words_of(item: str) -> Iterator[str]:
    # A long list of words is no path that any system would look up.
    with suppress(OSError, ValueError):
        if Path(item).is_file():
            lines = _read(Path(item)).splitlines()
            return (line.strip() for line in lines if not line.lstrip().startswith(_COMMENT))
    return (word.strip() for word in item.split(","))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"key_tokens names the file {path}, which can't be read: {error}; write a UTF-8 text "
            "with a word a line"
        ) from None


def _single_ids(word: str, tokenizer: Tokenizer) -> Iterator[int]:
    """Ids of tokens that are `word` alone, or with a character before it that is no part of it."""
    # In front of '==' any sign could be a part: '===' is another word.
    before = _BEFORE if word[0].isalnum() or word[0] == "_" else _BEFORE[:2]
    for text in before:
        ids = tokenizer.encode(text + word)
        # Within a line, SentencePiece has other pieces than at its start.
        if ids and (len(ids) == 1 or ids[:-1] == tokenizer.encode(text)):
            candidate = ids[-1]
            if candidate != tokenizer.unk_id:
                yield candidate


def _cut(word: str, tokenizer: Tokenizer) -> str:
    return "|".join(tokenizer.decode([id]) for id in tokenizer.encode(word))
