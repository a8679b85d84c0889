"""How text is cut into chunks before any merge: no token ever spans two chunks.

The patterns are those of GPT-2 (Radford et al. 2019) and GPT-4 (`cl100k_base`), written without
possessive quantifiers so that the `regex` module, Rust's engines and Oniguruma, which Hugging
Face's tokenizers use, read them alike. (Characters newer than a library's Unicode tables are the
exception: it does not know yet which of them are letters.)
"""

from collections.abc import Iterable, Iterator
from functools import cache
from itertools import chain

import regex

from gptlab.errors import TokenizerError

SPLIT_PATTERNS: dict[str, str] = {
    "gpt2": (
        r"'(?:[sdmt]|ll|ve|re)"
        r"| ?\p{L}+"
        r"| ?\p{N}+"
        r"| ?[^\s\p{L}\p{N}]+"
        r"|\s+(?!\S)"
        r"|\s+"
    ),
    "gpt4": (
        r"'(?i:[sdmt]|ll|ve|re)"
        r"|[^\r\n\p{L}\p{N}]?\p{L}+"
        r"|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+"
        r"|\s+(?!\S)"
        r"|\s+"
    ),
}

BLOCK_CHARACTERS = 1 << 17
"""Text that is cut into chunks at a time: little enough to stay in a processor's cache."""

# Each pattern ends a chunk behind the last letter or digit of a run, whatever follows; and how it
# goes on from there does not depend on what came before.
_SAFE_CUT = regex.compile(r"(?<=\p{L})(?=\P{L})|(?<=\p{N})(?=\P{N})")


def split(text: str, pattern: str, *, block_characters: int = BLOCK_CHARACTERS) -> Iterator[str]:
    """Cut `text` into chunks that together are `text` again.

    Args:
        text: Any string.
        pattern: A name in `SPLIT_PATTERNS`.
        block_characters: About how much text is cut at a time, which bounds the memory for long
            texts and changes nothing else.

    Raises:
        TokenizerError: No pattern has this name.
    """
    find_chunks = compiled(pattern).findall
    return chain.from_iterable(map(find_chunks, blocks([text], block_characters)))


@cache
def compiled(pattern: str) -> regex.Pattern[str]:
    """The compiled split pattern of this name.

    Raises:
        TokenizerError: No pattern has this name.
    """
    if pattern not in SPLIT_PATTERNS:
        names = " or ".join(map(repr, SPLIT_PATTERNS))
        raise TokenizerError(f"unknown split pattern {pattern!r}: choose {names}")
    return regex.compile(SPLIT_PATTERNS[pattern])


class NoCutError(ValueError):
    """A text has nowhere to be cut for too long."""


def blocks(
    pieces: Iterable[str], size: int = BLOCK_CHARACTERS, *, longest: int | None = None
) -> Iterator[str]:
    """A text that comes in pieces, cut anew into blocks that can be split one by one.

    The chunks of the blocks are those of the whole text, wherever the pieces were cut.

    Args:
        pieces: The text, cut anywhere.
        size: Characters of a block; some more where letters or digits run on, and as many as
            there are where no run of letters or digits ends.
        longest: Characters that may be held in search of a cut; any number if None.

    Raises:
        NoCutError: There is no cut in more than `longest` characters.
    """
    text, unsearched = "", size
    for piece in pieces:
        text += piece
        start = 0
        while cut := _SAFE_CUT.search(text, start + unsearched):
            _check_length(cut.start() - start, longest)
            yield text[start : cut.start()]
            start, unsearched = cut.start(), size
        text = text[start:]
        _check_length(len(text), longest)
        unsearched = max(size, len(text))
    if text:
        yield text


def _check_length(length: int, longest: int | None) -> None:
    if longest is not None and length > longest:
        raise NoCutError(f"no cut in {length:,} characters")
