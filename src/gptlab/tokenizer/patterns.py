"""How text is cut into chunks before any merge: no token ever spans two chunks.

The patterns are those of GPT-2 (Radford et al. 2019) and GPT-4 (`cl100k_base`), written without
possessive quantifiers so that the `regex` module, Rust's engines and Oniguruma, which Hugging
Face's tokenizers use, read them alike. (Characters newer than a library's Unicode tables are the
exception: it does not know yet which of them are letters.)
"""

from collections.abc import Iterator
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

_BLOCK_CHARACTERS = 1 << 20
# Each pattern ends a chunk between a letter and a space, whatever stands on either side.
_SAFE_CUT = regex.compile(r"(?<=\p{L})(?= )")


def split(text: str, pattern: str, *, block_characters: int = _BLOCK_CHARACTERS) -> Iterator[str]:
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
    return chain.from_iterable(map(find_chunks, _blocks(text, block_characters)))


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


def _blocks(text: str, size: int) -> Iterator[str]:
    start = 0
    while start < len(text):
        cut = _SAFE_CUT.search(text, min(start + size, len(text)))
        end = cut.start() if cut else len(text)
        yield text[start:end]
        start = end
