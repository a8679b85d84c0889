"""A byte-level BPE as tiktoken's files have it: each line a token in base64 and its rank, its id.

Such a file has neither the split pattern nor the special tokens. tiktoken reads it like this:

    ranks = tiktoken.load.load_tiktoken_bpe("folder/tokenizer.tiktoken")
    settings = {"pat_str": SPLIT_PATTERNS[tok.pattern], "special_tokens": tok.special_tokens}
    encoding = tiktoken.Encoding("mine", mergeable_ranks=ranks, **settings)

with `import tiktoken, tiktoken.load` and `gptlab.tokenizer.chunks.patterns.SPLIT_PATTERNS`.
(tiktoken keeps a copy of each file that it has read by its path; set TIKTOKEN_CACHE_DIR="" to
have it read a file anew that was saved again.)
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from pathlib import Path

from gptlab.errors import TokenizerError
from gptlab.tokenizer.base import SPECIAL_TOKENS
from gptlab.tokenizer.chunks.patterns import SPLIT_PATTERNS
from gptlab.tokenizer.chunks.steps import NamedSplit
from gptlab.tokenizer.encoding.merging import merge_ids
from gptlab.tokenizer.files import read_file
from gptlab.tokenizer.formats.definition import Definition, define
from gptlab.tokenizer.formats.huggingface_steps import split_step

RANKS_FILE = "tokenizer.tiktoken"

# Those of OpenAI, by the name of their file. The pattern of cl100k_base leaves blanks at the very
# end of a text to the newlines before them, so it is not quite "gpt4".
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_KNOWN_PATTERNS = {
    "r50k_base": "gpt2",
    "p50k_base": "gpt2",
    "cl100k_base": (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
    ),
    "o200k_base": (
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTIONS}"
        rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTIONS}"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}
# As tiktoken has it: possessive where nothing follows, which Oniguruma reads as a repetition.
_REWRITTEN = {
    _KNOWN_PATTERNS["cl100k_base"].replace("{1,3}", "{1,3}+"): _KNOWN_PATTERNS["cl100k_base"]
}
_KNOWN_SPECIAL_TOKENS = {
    "r50k_base": {"<|endoftext|>": 50256},
    "p50k_base": {"<|endoftext|>": 50256},
    "cl100k_base": {
        "<|endoftext|>": 100257,
        "<|fim_prefix|>": 100258,
        "<|fim_middle|>": 100259,
        "<|fim_suffix|>": 100260,
        "<|endofprompt|>": 100276,
    },
    "o200k_base": {"<|endoftext|>": 199999, "<|endofprompt|>": 200018},
}


def ranks_file(ranks: Mapping[bytes, int]) -> bytes:
    """The content of a file with these ranks."""
    lowest_first = sorted(ranks.items(), key=lambda item: item[1])
    return b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for token, rank in lowest_first)


def read_tiktoken_file(
    path: Path,
    *,
    pattern: str | None = None,
    special_tokens: Sequence[str] | Mapping[str, int] | None = None,
) -> Definition:
    """The byte-level BPE that tiktoken makes of a file of ranks.

    Args:
        path: The file.
        pattern: "gpt4", "gpt2", or a regular expression; if None, that of OpenAI's file of this
            name, and "gpt4" for other names.
        special_tokens: Names with their ids, or names alone for ids behind all tokens; if None,
            those of OpenAI's file of this name, and `SPECIAL_TOKENS` for other names.

    Raises:
        TokenizerError: The file is missing or garbled, its ranks come from no merges, or the
            pattern can't be read.
    """
    ranks = _read_ranks(path)
    if pattern is None:
        pattern = _KNOWN_PATTERNS.get(path.stem, "gpt4")
    if special_tokens is None:
        special_tokens = _KNOWN_SPECIAL_TOKENS.get(path.stem, SPECIAL_TOKENS)
    try:
        return define_by_ranks(ranks, pattern=pattern, special_tokens=special_tokens)
    except (ValueError, TokenizerError) as error:
        raise TokenizerError(f"{path} can't be read as a tokenizer: {error}") from error


def define_by_ranks(
    ranks: Mapping[bytes, int],
    *,
    pattern: str,
    special_tokens: Sequence[str] | Mapping[str, int],
) -> Definition:
    """The byte-level BPE that tiktoken makes of ranks.

    Args:
        ranks: The rank of each token.
        pattern: "gpt4", "gpt2", or a regular expression.
        special_tokens: Names with their ids, or names alone for ids behind all tokens.

    Raises:
        ValueError: The ranks come from no merges, or the pattern can't be read.
        TokenizerError: A special token is not possible.
    """
    pattern = _REWRITTEN.get(pattern, pattern)
    step = NamedSplit(pattern) if pattern in SPLIT_PATTERNS else split_step(pattern)
    return define(ranks, _merges(ranks), steps=(step,), special_tokens=special_tokens)


def tiktoken_ranks(definition: Definition, ranks: Mapping[bytes, int] | None) -> bytes | None:
    """The content of a file from which tiktoken gives the ids of `definition`; None if it can't.

    It can't where more than one named pattern decides how text is cut, where bytes are no tokens,
    or where special tokens do more than stand for their text.

    Args:
        definition: The tokenizer.
        ranks: Those with which tiktoken makes its merges, if it can.
    """
    if ranks is None or definition.sole_pattern is None or definition.ignore_merges:
        return None
    if not all(token.is_plain for token in definition.added_tokens):
        return None
    if any(bytes([byte]) not in ranks for byte in range(256)):
        return None
    if not set(definition.special_tokens().values()).isdisjoint(ranks.values()):
        return None
    return ranks_file(ranks)


def _read_ranks(path: Path) -> dict[bytes, int]:
    ranks = {}
    for number, line in enumerate(read_file(path).splitlines(), 1):
        if not line:
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise TokenizerError(
                f"{path} has no token in base64 with a rank in line {number}: give a file that "
                f"was made for tiktoken"
            ) from error
    return ranks


def _merges(ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The two parts of each token, in order: what is left of it when all lower ranks are merged."""
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise ValueError(f"the byte {missing[0]:#04x} has no rank")
    merges: list[tuple[bytes, bytes]] = []
    merged: dict[tuple[int, int], tuple[int, int]] = {}
    names = {rank: token for token, rank in ranks.items()}
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) == 1:
            continue
        parts = merge_ids([ranks[bytes([byte])] for byte in token], merged)
        if len(parts) != 2:
            raise ValueError(
                f"the token {token!r} of rank {rank} is made of {len(parts)} tokens of lower rank "
                f"instead of 2, so no merge makes it"
            )
        merged[parts[0], parts[1]] = rank, rank
        merges.append((names[parts[0]], names[parts[1]]))
    return merges
