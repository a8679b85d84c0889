"""Where a line of Python that is not finished yet stands: in code, in a comment, in a string.

Only what decides where a logical line ends is looked at; the rest is left to Python's own parser.
"""

import re
import sys
from dataclasses import dataclass
from typing import Literal

Place = Literal["code", "comment", "string"]

# Since Python 3.12 (PEP 701) the expressions in an f-string may hold its own quotes.
NESTED_FSTRINGS = sys.version_info >= (3, 12)
_TEMPLATES = "|t|tr|rt" if sys.version_info >= (3, 14) else ""

STRING_PREFIXES = re.compile(rf"(?i:r|u|b|br|rb|f|fr|rf{_TEMPLATES})")
_OPENER = rf"(?:(?<!\w){STRING_PREFIXES.pattern})?(?:'''|\"\"\"|'|\")"
_LANDMARK = re.compile(
    rf"(?P<comment>\#[^\n]*)|(?P<opener>{_OPENER})|(?P<sign>[()\[\]{{}}\n:!])|\\[\s\S]?"
)
_BODIES = {
    "'": re.compile(r"(?:[^'\\\n]|\\[\s\S])*+"),
    '"': re.compile(r'(?:[^"\\\n]|\\[\s\S])*+'),
    "'''": re.compile(r"(?:[^'\\]|\\[\s\S]|'(?!''))*+"),
    '"""': re.compile(r'(?:[^"\\]|\\[\s\S]|"(?!""))*+'),
}
_NAME = re.compile(r"N\{[^}]*\}?")


class BrokenStringError(Exception):
    """A string ends with its line, which nothing can mend."""


@dataclass(frozen=True)
class Opener:
    """What a string begins with."""

    prefix: str
    quote: str

    @property
    def is_raw(self) -> bool:
        """Whether a backslash is only a backslash."""
        return "r" in self.prefix

    @property
    def is_bytes(self) -> bool:
        """Whether it is a string of bytes."""
        return "b" in self.prefix

    @property
    def has_fields(self) -> bool:
        """Whether braces hold expressions."""
        return "f" in self.prefix or "t" in self.prefix

    @classmethod
    def of(cls, text: str) -> "Opener":
        """Of `text`, such as `rb'''`."""
        prefix = text.rstrip("'\"")
        return cls(prefix.lower(), text[len(prefix) :])


@dataclass(frozen=True)
class Position:
    """Where a text stops.

    Args:
        place: What it stops in.
        start: Where the comment or the string begins.
        content: Where the content of the string begins.
        opener: How it began.
        depth: Brackets that are open.
        string_end: Where the last finished string ended, or -1.
    """

    place: Place
    start: int = 0
    content: int = 0
    opener: Opener | None = None
    depth: int = 0
    string_end: int = -1


def scan(text: str) -> int | Position:
    """Where the first logical line of `text` ends, behind its newline, or where it stops.

    Raises:
        BrokenStringError: A string can't go on.
    """
    place, depth, string_end = 0, 0, -1
    while found := _LANDMARK.search(text, place):
        place = found.end()
        if found["comment"]:
            if place == len(text):
                return Position("comment", found.start(), depth=depth, string_end=string_end)
        elif found["opener"]:
            opener = Opener.of(found["opener"])
            end = _string_end(text, place, opener)
            if end is None:
                return Position("string", found.start(), place, opener, depth)
            place = string_end = end
        elif found["sign"] == "\n":
            if depth == 0:
                return place
        elif found["sign"]:
            depth = max(0, depth + _step(found["sign"]))
    return Position("code", depth=depth, string_end=string_end)


def open_fields(content: str, *, is_raw: bool) -> tuple[int, str | None, int]:
    """What is open at the end of the content of an unfinished f-string.

    Returns:
        Where the brace stands that begins the innermost field, or the length of the content; the
        code in that field, or None if it is closed or behind its code; and how many fields around
        it are behind theirs.
    """
    place, behind, code_start = _fields(content, 0, Opener("fr" if is_raw else "f", ""))
    if code_start is None:
        return place, None, behind
    return code_start - 1, content[code_start:], behind


def _string_end(text: str, start: int, opener: Opener) -> int | None:
    """Where a string ends whose content begins at `start`; None if it does not."""
    if NESTED_FSTRINGS and opener.has_fields:
        end, _, code_start = _fields(text, start, opener)
        closed = code_start is None and text.startswith(opener.quote, end)
    else:
        found = _BODIES[opener.quote].match(text, start)
        end = found.end() if found else start
        closed = text.startswith(opener.quote, end)
    if closed:
        return end + len(opener.quote)
    if text.startswith("\n", end) and len(opener.quote) == 1:
        raise BrokenStringError
    return None


def _fields(text: str, start: int, opener: Opener) -> tuple[int, int, int | None]:
    """Go through an f-string up to its end, to where it breaks, or to the end of the text.

    Returns:
        The place; how many fields are behind their code; where the code begins that is open.
    """
    place, behind = start, 0
    while place < len(text):
        sign = text[place]
        if opener.quote and text.startswith(opener.quote, place):
            break
        if sign == "\n" and len(opener.quote) == 1:
            break
        if sign == "\\" and not opener.is_raw:
            named = _NAME.match(text, place + 1)
            place = named.end() if named else place + 2
        elif sign == "{" and behind == 0 and text.startswith("{{", place):
            place += 2
        elif sign == "{":
            end = _code_end(text, place + 1)
            if end is None:
                return len(text), behind, place + 1
            behind += text[end] != "}"
            place = end + 1
        else:
            behind = max(0, behind - (sign == "}"))
            place += 1
    return min(place, len(text)), behind, None


def _code_end(text: str, start: int) -> int | None:
    """Where the code of a field ends that begins at `start`: at a closing brace, a colon or !."""
    place, depth = start, 0
    while found := _LANDMARK.search(text, place):
        place = found.end()
        if found["opener"]:
            end = _string_end(text, place, Opener.of(found["opener"]))
            if end is None:
                return None
            place = end
        elif found["sign"] and depth == 0 and found["sign"] in "}:":
            return found.start()
        elif found["sign"] == "!":
            if depth == 0 and place < len(text) and text[place] != "=":
                return found.start()
        elif found["sign"]:
            depth = max(0, depth + _step(found["sign"]))
    return None


def _step(sign: str) -> int:
    return (sign in "([{") - (sign in ")]}")
