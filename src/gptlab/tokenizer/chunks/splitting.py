"""The split patterns as arithmetic on arrays: the chunks of `patterns.split`, many times faster.

Each character belongs to one class (letter, number, newline, other blank, other), and whether a
chunk starts at a character follows from its class and those of a few around it. So a whole block
of text is cut by a handful of array operations. The patterns stay the definition: the tests hold
every rule here to them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import regex

Flags = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.unsignedinteger[Any]]

# An edge stands before, between and after texts, so that none of them sees its neighbour. It is a
# byte that UTF-8 does not have, and a code point that Unicode does not have.
_EDGE, _LETTER, _NUMBER, _NEWLINE, _BLANK, _OTHER = range(6)
_EDGE_BYTE, _EDGE_CODE = 0xFF, 0x110000
# Beyond these planes nothing is a letter, a number or a blank.
_CLASSIFIED_CODES = 0x40000


@dataclass(frozen=True)
class Chunks:
    """Where the chunks of some texts are."""

    data: bytes
    """The texts in UTF-8, with a byte 0xFF before, between and after them."""
    starts: Ints
    """Where in `data` each chunk begins, in bytes."""
    lengths: Ints
    """Bytes of each chunk."""
    per_text: Ints
    """Number of chunks of each text."""


def split_arrays(texts: Sequence[str], pattern: str) -> Chunks:
    """Cut texts into the chunks that `patterns.split` gives for each.

    Args:
        texts: Any strings; together about `BLOCK_CHARACTERS`, to be fast.
        pattern: "gpt2" or "gpt4".
    """
    data = _joined([text.encode("utf-8", "surrogatepass") for text in texts], bytes([_EDGE_BYTE]))
    if all(map(str.isascii, texts)):
        codes: Codes = np.frombuffer(data, np.uint8)
        classes = np.frombuffer(data.translate(_ascii_classes()), np.uint8)
        starts = np.flatnonzero(_RULES[pattern](codes, classes))
    else:
        wide = [text.encode("utf-32-le", "surrogatepass") for text in texts]
        codes = np.frombuffer(_joined(wide, _EDGE_CODE.to_bytes(4, "little")), "<u4")
        classes = _unicode_classes().take(np.minimum(codes, _CLASSIFIED_CODES))
        classes[codes == _EDGE_CODE] = _EDGE
        starts = _byte_offsets(codes)[_RULES[pattern](codes, classes)]
    edges = np.flatnonzero(np.frombuffer(data, np.uint8).take(starts) == _EDGE_BYTE)
    return Chunks(
        data=data,
        starts=np.delete(starts, edges),
        lengths=np.delete(np.diff(starts, append=len(data)), edges),
        per_text=np.diff(edges) - 1,
    )


def _joined(texts: Sequence[bytes], edge: bytes) -> bytes:
    return edge + edge.join(texts) + edge if texts else edge


def _byte_offsets(codes: Codes) -> Ints:
    """Where each character begins in UTF-8; an edge takes one byte."""
    widths = np.ones(len(codes), np.uint8)
    for first_longer in (0x80, 0x800, 0x10000):
        widths += codes >= first_longer
    widths[codes == _EDGE_CODE] = 1
    return np.cumsum(widths, dtype=np.int64) - widths


def _gpt4_starts(codes: Codes, classes: npt.NDArray[np.uint8]) -> Flags:
    """At which characters a chunk of the pattern "gpt4" starts; each edge counts as a chunk."""
    letter, number, newline = (classes == kind for kind in (_LETTER, _NUMBER, _NEWLINE))
    blank, other = classes == _BLANK, classes == _OTHER
    first_other = other & ~_before(other | (codes == ord(" ")))
    # A single mark joins the word behind it, unless it has joined the space before it.
    leader = first_other & _after(letter)
    starts: Flags = first_other | (classes == _EDGE)
    starts |= letter & ~_before(letter | blank | leader)
    starts |= newline & ~_before(newline | blank | other)
    # The last blank of several is left to what follows.
    starts |= blank & (_before(~blank) | _after(letter | number | other))
    _start_each_three(starts, number)
    _join_blanks_to_newlines(starts, blank, newline, other)
    _end_contractions(
        starts, letter, codes, np.flatnonzero(leader & (codes == ord("'"))), fold=True
    )
    return starts


def _gpt2_starts(codes: Codes, classes: npt.NDArray[np.uint8]) -> Flags:
    """At which characters a chunk of the pattern "gpt2" starts; each edge counts as a chunk."""
    letter = classes == _LETTER
    blank = (classes == _BLANK) | (classes == _NEWLINE)
    solid = ~blank & (classes != _EDGE)
    after_space = _before(codes == ord(" "))
    changes = np.empty(len(classes), np.bool_)
    changes[0] = True
    np.not_equal(classes[1:], classes[:-1], out=changes[1:])
    starts: Flags = (solid & changes & ~after_space) | (classes == _EDGE)
    starts |= blank & (_before(~blank) | _after(solid))
    single_mark = (classes == _OTHER) & changes & ~after_space & _after(letter)
    quotes = np.flatnonzero(single_mark & (codes == ord("'")))
    _end_contractions(starts, letter, codes, quotes, fold=False)
    return starts


_RULES: dict[str, Callable[[Codes, npt.NDArray[np.uint8]], Flags]] = {
    "gpt2": _gpt2_starts,
    "gpt4": _gpt4_starts,
}


def _before(flags: Flags) -> Flags:
    """At each character, the flag of the one before it."""
    shifted = np.empty_like(flags)
    shifted[0] = False
    shifted[1:] = flags[:-1]
    return shifted


def _after(flags: Flags) -> Flags:
    """At each character, the flag of the one after it."""
    shifted = np.empty_like(flags)
    shifted[-1] = False
    shifted[:-1] = flags[1:]
    return shifted


def _start_each_three(starts: Flags, number: Flags) -> None:
    """A run of digits starts a chunk, and another one after every three."""
    digits = np.flatnonzero(number)
    if len(digits):
        first = _latest(number & ~_before(number), digits)
        starts[digits[(digits - first) % 3 == 0]] = True


def _join_blanks_to_newlines(starts: Flags, blank: Flags, newline: Flags, other: Flags) -> None:
    """Blanks between newlines start nothing, unless a mark has taken the newlines before them."""
    last = np.flatnonzero(blank & _after(newline))
    if len(last):
        first = _latest(blank & ~_before(blank), last)
        first = first[newline[first - 1]]
        taken = other[_latest(newline & ~_before(newline), first) - 1]
        starts[first[~taken]] = False


def _latest(flags: Flags, places: Ints) -> Ints:
    """The last flagged place up to each of `places`."""
    flagged = np.flatnonzero(flags)
    return flagged[np.searchsorted(flagged, places, side="right") - 1]


def _end_contractions(
    starts: Flags, letter: Flags, codes: Codes, quotes: Ints, *, fold: bool
) -> None:
    """A quote with s, d, m, t, ll, ve or re behind it is a chunk, whatever letters follow.

    `quotes` is where single quotes stand that a letter follows and no mark or space precedes. With
    `fold`, capitals count too, and the long s, which is an s to a pattern that ignores case.
    """
    one, two = codes[quotes + 1].astype(np.int64), codes[quotes + 2].astype(np.int64)
    if fold:
        one[one == ord("ſ")] = ord("s")
        one, two = (np.where(code < 0x80, code | 0x20, code) for code in (one, two))
    short = reduce(np.logical_or, (one == ord(letter) for letter in "sdmt"))
    pairs = ((one == ord(a)) & (two == ord(b)) for a, b in ("ll", "ve", "re"))
    long = reduce(np.logical_or, pairs)
    starts[quotes[short | long] + 1] = False
    ends = np.concatenate([quotes[short] + 2, quotes[long] + 3])
    starts[ends] |= letter[ends]


@cache
def _ascii_classes() -> bytes:
    classes = np.zeros(256, np.uint8)
    classes[:128] = _classes(128)
    classes[_EDGE_BYTE] = _EDGE
    return classes.tobytes()


@cache
def _unicode_classes() -> npt.NDArray[np.uint8]:
    classes = np.append(_classes(_CLASSIFIED_CODES), np.uint8(_OTHER))
    classes.flags.writeable = False
    return classes


def _classes(count: int) -> npt.NDArray[np.uint8]:
    """The class of each of the first code points, as the patterns' own engine sees them."""
    characters = np.arange(count, dtype="<u4").tobytes().decode("utf-32-le", "surrogatepass")
    classes = np.full(count, _OTHER, np.uint8)
    for expression, kind in ((r"\p{L}+", _LETTER), (r"\p{N}+", _NUMBER), (r"\s+", _BLANK)):
        for run in regex.finditer(expression, characters):
            classes[run.start() : run.end()] = kind
    classes[[ord("\r"), ord("\n")]] = _NEWLINE
    return classes
