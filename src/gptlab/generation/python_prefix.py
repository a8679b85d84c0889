"""Whether a text is the beginning of a Python program, by the parser of the Python that runs.

A backslash at the very end of a source asks for a next token that is not there. Python's parser
reads tokens only as it needs them, and says "incomplete input" when it wants one beyond the end:
so it does exactly if some rule of the grammar fits all that stands before. What may still grow,
such as a name or an operator, is tried with endings that make another token of it.

Of the program before the unfinished line only a skeleton is parsed anew: the statements around
it, with bodies that are done cut down to one line.
"""

import ast
import keyword
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Self

from gptlab.generation.python_scan import (
    NESTED_FSTRINGS,
    STRING_PREFIXES,
    BrokenStringError,
    Opener,
    Position,
    open_fields,
    scan,
)

# The flag by which the standard library's codeop tells an unfinished source from a wrong one.
_ALLOW_INCOMPLETE_INPUT = 0x4000
_FLAGS = ast.PyCF_ONLY_AST | _ALLOW_INCOMPLETE_INPUT
# Warnings of the parser go by the name of the source. Python 3.11 reads the fields of f-strings as
# sources of their own, with a name of their own.
_SOURCE_NAME = "<gptlab prefix>"
_SOURCE_NAMES = rf"(?:{_SOURCE_NAME}|<fstring>)\Z"
_MORE = "\\\n"
# What may follow a string, in an expression, in a pattern, or as a key: it makes the parser look
# into the string, which it does not do at the end of its source.
_AFTER_STRING = (".", "|", ":")
_KEYWORDS = (*keyword.kwlist, *keyword.softkwlist)
_NUMBER_ENDINGS = ("0", "j", "0j", ".0")
_SIGN_ENDINGS = ("=", ".", "..", "*", ">", *_NUMBER_ENDINGS)
# Digits finish an escape as well as an octal, a hexadecimal, or one by four or eight digits.
_ESCAPE_ENDINGS = tuple("0" * n for n in range(9))
_UNFINISHED_NAME = re.compile(r"(?<!\\)(?:\\\\)*(\\N(?:\{[\w \-]*)?)\Z")
_LONE_BACKSLASH = re.compile(r"(?<!\\)(?:\\\\)*\\\Z")
# Strings in the field of an f-string, before they could hold backslashes; the last may be open.
_STRINGS = re.compile(r"'[^']*(?:'|\Z)|\"[^\"]*(?:\"|\Z)")
_SHOWN = re.compile(r"([\s\S]*[^=!<>:\s]\s*)=[ \t\n\f]*!?")
_CLAUSE = re.compile(r"(?:elif|else|except|finally)\b")
_MATCH = re.compile(r"match\b")
_NO_CODE = re.compile(r"(?:[ \t\f]|\\\n)*(?:#.*)?\n?\Z")

Outcome = Literal["complete", "incomplete", "wrong"]


@dataclass(frozen=True)
class _Level:
    """The statement that came last at an indentation, with its logical lines."""

    column: int
    lines: tuple[str, ...]


@dataclass(frozen=True)
class PythonPrefix:
    r"""A text that is the beginning of a program which `ast.parse` accepts; at first, no text.

    Nothing that can be completed is refused. Two things are noticed late: the name in `\N{...}`
    when its brace closes, and a comprehension without brackets in the field of an f-string, where
    Python 3.12 has no more place for it. What the parser accepts and the compiler refuses, such as
    a `return` outside of a function, is not looked for.
    """

    _levels: tuple[_Level, ...] = ()
    _rest: str = ""
    _ends_in_return: bool = False

    def extended(self, text: str) -> Self | None:
        """With `text` behind it, or None where no program begins so."""
        if not text:
            return self
        levels = self._levels
        rest = self._rest + _with_plain_newlines(text, after_return=self._ends_in_return)
        try:
            while isinstance(end := scan(rest), int):
                line, rest = rest[:end], rest[end:]
                if _NO_CODE.match(line):
                    continue
                if _outcome(_source(levels) + line) == "wrong":
                    return None
                levels = _with_line(levels, line)
            if not _may_go_on(_source(levels), rest, end):
                return None
        except BrokenStringError:
            return None
        return type(self)(levels, rest, text.endswith("\r"))

    @property
    def is_complete(self) -> bool:
        """Whether the text is a whole program."""
        position = scan(self._rest)
        if isinstance(position, Position) and (position.place == "string" or position.depth):
            return False
        return _outcome(_source(self._levels) + self._rest) == "complete"


def _with_plain_newlines(text: str, *, after_return: bool) -> str:
    """`text` with the newlines that Python's tokenizer makes of others."""
    if after_return:
        text = text.removeprefix("\n")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _outcome(source: str) -> Outcome:
    try:
        # catch_warnings would swap the filters of all threads; a filter that stays disturbs none.
        warnings.filterwarnings("ignore", module=_SOURCE_NAMES)
        compile(source, _SOURCE_NAME, "exec", _FLAGS, dont_inherit=True)
    except SyntaxError as error:
        return "incomplete" if error.msg == "incomplete input" else "wrong"
    except (ValueError, OverflowError, MemoryError, RecursionError):
        return "wrong"
    return "complete"


def _source(levels: tuple[_Level, ...]) -> str:
    return "".join(line for level in levels for line in level.lines)


def _with_line(levels: tuple[_Level, ...], line: str) -> tuple[_Level, ...]:
    """The skeleton after a logical line that fits there."""
    indent, code = _split_indent(line)
    column = _column(indent)
    stack = list(levels)
    while stack and stack[-1].column > column:
        done = stack.pop()
        if stack:
            stack[-1] = _Level(stack[-1].column, (*stack[-1].lines, _body(stack[-1], done)))
    if not stack or stack[-1].column < column:
        return (*stack, _Level(column, (line,)))
    before = stack.pop().lines
    goes_on = _CLAUSE.match(code) or _split_indent(before[-1])[1].startswith("@")
    return (*stack, _Level(column, (*before, line) if goes_on else (line,)))


def _body(header: _Level, done: _Level) -> str:
    """One line in place of a body."""
    indent, _ = _split_indent(done.lines[0])
    _, code = _split_indent(header.lines[-1])
    return f"{indent}{'case _: pass' if _MATCH.match(code) else 'pass'}\n"


def _split_indent(line: str) -> tuple[str, str]:
    code = line.lstrip(" \t\f\\\n")
    return line[: len(line) - len(code)], code


def _column(indent: str) -> int:
    """Where Python sees a line begin; of several that are joined, the first with a space counts."""
    column = 0
    for sign in indent:
        if sign == "\\" and column:
            break
        column = {" ": column + 1, "\t": (column // 8 + 1) * 8, "\f": 0}.get(sign, column)
    return column


def _may_go_on(before: str, rest: str, position: Position) -> bool:
    """Whether the unfinished logical line `rest` can be completed after `before`."""
    if position.place == "string" and position.opener:
        return _string_may_go_on(before, rest, position)
    if position.place == "comment":
        code = rest[: position.start]
        if _NO_CODE.match(code):
            return True
        return _outcome(before + code + (_MORE if position.depth else "\n")) != "wrong"
    if _NO_CODE.match(rest):
        return True
    if rest.endswith("\\"):
        return _outcome(before + rest + "\n") != "wrong"
    if position.string_end == len(rest.rstrip()):
        return _fits_with_string(before + rest)
    return any(_outcome(before + rest + end + _MORE) != "wrong" for end in _endings(rest))


def _fits_with_string(source: str) -> bool:
    """Whether a source that ends with a whole string can go on."""
    return any(_outcome(source + after + _MORE) != "wrong" for after in _AFTER_STRING)


def _endings(code: str) -> Iterator[str]:
    """What may make another token of the last one, beginning with nothing."""
    yield ""
    found = re.search(r"\w+\Z", code)
    if not found:
        yield from _SIGN_ENDINGS
        return
    word = found[0]
    is_number = word[0].isdigit()
    for name in _KEYWORDS:
        for length in range(1, len(name)):
            # After a number a keyword needs no space, as in 1if x else y.
            if word.endswith(name[:length]) if is_number else word == name[:length]:
                yield name[length:]
    if STRING_PREFIXES.fullmatch(word):
        yield from ('""' + after for after in _AFTER_STRING)
    yield "_"
    yield from _NUMBER_ENDINGS


def _string_may_go_on(before: str, rest: str, position: Position) -> bool:
    """Whether the string in which `rest` stops can be completed."""
    opener = position.opener or Opener("", "'")
    content = rest[position.content :]
    head = before + rest[: position.content]
    closing = opener.quote
    if opener.has_fields:
        brace, code, behind = open_fields(content, is_raw=opener.is_raw)
        closing = "}" * behind + closing
        if code is not None:
            literal = content[:brace]
            literal += _content_endings(literal, opener)[0]
            return _fits_with_string(head + literal + closing) and _field_may_go_on(code)
    if not opener.is_raw and not opener.is_bytes and (name := _UNFINISHED_NAME.search(content)):
        content = content[: name.start(1)]
    endings = _content_endings(content, opener)
    return any(_fits_with_string(head + content + end + closing) for end in endings)


def _content_endings(content: str, opener: Opener) -> tuple[str, ...]:
    """What may come before a closing quote, so that it closes the string."""
    if _LONE_BACKSLASH.search(content):
        return ("\\",)
    if content.endswith(opener.quote[0]):
        return ("0",)
    return (*_ESCAPE_ENDINGS, "}") if opener.has_fields else _ESCAPE_ENDINGS


def _field_may_go_on(code: str) -> bool:
    """Whether the code in a field of an f-string can be completed."""
    if not NESTED_FSTRINGS and ("\\" in code or "#" in _STRINGS.sub("", code)):
        return False
    # {x=} shows the code as well.
    shown = _SHOWN.fullmatch(code)
    if shown and _outcome(f"({shown[1]}\n)") == "complete":
        return True
    source = "(" + code
    end = scan(source)
    return isinstance(end, Position) and end.depth > 0 and _may_go_on("", source, end)
