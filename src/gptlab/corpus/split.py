"""Where a corpus is cut in two: a text between lines, many documents or files by draw."""

import hashlib
import re
from collections.abc import Iterable
from io import SEEK_END
from pathlib import Path

from gptlab.corpus.compression import compression, opened, pieces, skip

DRAWS = range(2**64)

# The first byte of a character in UTF-8 has at most three after it.
_CONTINUATION_BYTES = 3


def draw(name: str) -> int:
    """A number from `DRAWS` that depends on `name` alone."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8])


def drawn_border(draws: Iterable[int], *, part: range, share: float) -> int | None:
    """The border in `part` below which about `share` of the `draws` lie; at least one does.

    At least one lies on the other side too, and where a single draw does not allow for that,
    there is no border.
    """
    border = part.start + round(share * (part.stop - part.start))
    lowest, highest = part.stop, part.start
    for number in draws:
        lowest, highest = min(lowest, number), max(highest, number)
        if lowest < border <= highest:
            return border
    return min(max(border, lowest + 1), highest) if lowest < highest else None


def text_border(file: Path, *, part: range, share: float) -> int | None:
    """The offset in a text's bytes where about `share` of `part` ends.

    It is the start of the next line that is not blank or, where none follows, of a character. There
    is none in a text of a single character.
    """
    border = part.start + round(share * len(part))
    border = min(max(border, part.start + 1), part.stop - 1)
    if border <= part.start:
        return None
    found = _line_start(file, border, part.stop) or _character_start(file, border, part)
    return found if found > part.start else None


def text_size(file: Path) -> int:
    """How many bytes a text has, decompressed."""
    with opened(file) as stream:
        return sum(map(len, pieces(stream))) if compression(file) else stream.seek(0, SEEK_END)


def _line_start(file: Path, offset: int, stop: int) -> int | None:
    """Where the first line that is not blank starts after the next line's end."""
    line_ended = False
    with opened(file) as stream:
        skip(stream, offset)
        for data in pieces(stream, stop - offset):
            start = 0
            if not line_ended and (line_end := re.search(rb"[\r\n]", data)):
                line_ended, start = True, line_end.start()
            if line_ended and (text := re.compile(rb"[^\r\n]").search(data, start)):
                return offset + text.start()
            offset += len(data)
    return None


def _character_start(file: Path, offset: int, part: range) -> int:
    """The offset near `offset` at which a character starts.

    Bytes that are no UTF-8 decode to the same text in two parts as in one: a byte that follows
    three continuation bytes belongs to no character before it.
    """
    first = max(offset - _CONTINUATION_BYTES, part.start)
    last = min(offset + _CONTINUATION_BYTES, part.stop)
    with opened(file) as stream:
        skip(stream, first)
        near = stream.read(last - first)
    continues = [0x80 <= byte < 0xC0 for byte in near]
    for place in range(offset, last):
        if not continues[place - first]:
            return place
    if last < part.stop:
        return last
    for place in range(offset - 1, first - 1, -1):
        if not continues[place - first]:
            return place
    return offset
