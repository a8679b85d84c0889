"""Where a block of Python ends, told from its text as it comes, line by line."""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

# A file is read in lines that keep their ends; the last one may be unfinished.
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_HEADER = re.compile(r"(?:async[ \t]+)?def[ \t]|class[ \t]")
_WORD = re.compile(r"\w*")
_MARK = re.compile(r"""#|'''|\"\"\"|['"]""")
_END_OF_STRING = {
    quote: re.compile(rf"(?:\\.|[^\\])*?{quote}") for quote in ("'", '"', "'''", '"""')
}
# What goes on with a statement at its own indentation.
_JOINING = ("elif", "else", "except", "finally")
_TAB = 8


class BlockEnd:
    """Finds the end of the block of Python that a prompt has left open.

    The block is the innermost `def` or `class` whose body the prompt's last line of code belongs
    to or opens, or whose decorators it ends with. It ends before the first line of code that is
    indented no deeper than the block's first line. Blank lines and comments don't end it, nor do
    lines inside brackets, inside strings or behind a backslash. Where the prompt ends inside a
    line, the rest of that line belongs to the block.

    Where no `def` and no `class` is open, the block is the statement at the left margin that the
    prompt ends in, or else the first one to come, with its decorators and its `else`.

    Args:
        prompt: The text before; any text, though only Python has blocks.
    """

    def __init__(self, prompt: str) -> None:
        self.is_over = False
        """Whether the block has ended; nothing that comes later belongs to it."""
        self._before = _Before(prompt)
        self._code = self._before.code
        self._block = self._before.innermost()
        self._line = self._before.unfinished
        self._goes_on = bool(self._line.strip())
        # In the indentation of a line, only what follows tells to which block the line belongs.
        self._may_leave = bool(self._line) and not self._goes_on
        self._held = ""

    def push(self, piece: str) -> str:
        """The text that is certain to belong to the block now that `piece` has come.

        White space, and comments no deeper than the block's first line, are held back until code
        of the block follows.
        """
        certain = ""
        for part in _LINE.findall(piece):
            if self.is_over:
                break
            self._line += part
            self._held += part
            belongs = self._belongs()
            if belongs is False:
                self.is_over = True
                self._held = ""
            elif belongs:
                border = len(self._held.rstrip())
                certain += self._held[:border]
                self._held = self._held[border:]
            if part.endswith("\n"):
                self._end_line()
        return certain

    def finish(self) -> str:
        """What was held back, where the text ends before the block does."""
        rest, self._held = self._held, ""
        return rest

    def _belongs(self) -> bool | None:
        """Whether the line so far is the block's; None while that is open."""
        if self._goes_on or not self._code.is_complete:
            return True
        text = self._line.lstrip()
        if not text:
            return None
        indent = _indent(self._line)
        if text.startswith("#"):
            return True if indent > self._block.indent else None
        if self._may_leave and not self._block.awaits(indent):
            self._block = self._before.innermost(indent)
        self._may_leave = False
        if indent > self._block.indent or self._block.awaits(indent):
            return True
        return indent == self._block.indent and self._block.is_joined_by(text)

    def _end_line(self) -> None:
        line, self._line = self._line, ""
        begins = self._code.is_complete
        self._goes_on = False
        if begins and not _has_code(line):
            return
        if begins and self._block.is_awaited:
            self._block = self._block._replace(is_awaited=line.lstrip().startswith("@"))
        self._code.read(line)


def until_block_ends(prompt: str, pieces: Iterable[str]) -> Iterator[str]:
    """The text of `pieces`, which follow `prompt`, up to the end of the block it has left open."""
    block = BlockEnd(prompt)
    for piece in pieces:
        if certain := block.push(piece):
            yield certain
        if block.is_over:
            return
    if rest := block.finish():
        yield rest


class _Block(NamedTuple):
    """A block by the indentation of its first line."""

    indent: int
    is_awaited: bool = False
    """Whether the first line is still to come, behind decorators or nothing."""
    is_statement: bool = False
    """Whether it is any statement, which `else` and the like go on with."""

    def awaits(self, indent: int) -> bool:
        return self.is_awaited and indent == self.indent

    def is_joined_by(self, text: str) -> bool | None:
        """Whether a line with `text` goes on with the statement; None while that is open."""
        if not self.is_statement:
            return False
        word = _WORD.match(text)[0]  # type: ignore[index]
        if word == text and any(joining.startswith(word) for joining in _JOINING):
            return None
        return word in _JOINING


class _Before:
    """What a prompt leaves open: blocks from the outermost to the innermost, and its last line."""

    def __init__(self, prompt: str) -> None:
        self.code = _Code()
        self.unfinished = ""
        self._blocks: list[_Block] = []
        self._is_inside = False
        """Whether the last statement is unfinished, or is not at the left margin."""
        for line in _LINE.findall(prompt):
            if self.code.is_complete and _has_code(line):
                self._begin(line)
            if not line.endswith("\n"):
                self.unfinished = line
            elif not self.code.is_complete or _has_code(line):
                self.code.read(line)
                self._end()

    def innermost(self, indent: int | None = None) -> _Block:
        """The block of the last line, or of one with this indentation behind it."""
        blocks = [block for block in self._blocks if indent is None or block.indent < indent]
        if blocks:
            return blocks[-1]
        return _Block(0, is_awaited=not self._is_inside, is_statement=True)

    def _begin(self, line: str) -> None:
        indent, text = _indent(line), line.lstrip()
        self._blocks = [block for block in self._blocks if block.indent < indent]
        self._is_inside = True
        self._is_header = bool(_HEADER.match(text))
        self._is_indented = indent > 0
        self._is_decorator = text.startswith("@")
        if self._is_header or self._is_decorator:
            self._blocks.append(_Block(indent, is_awaited=self._is_decorator))

    def _end(self) -> None:
        if not self.code.is_complete or self.code.ends_in_colon:
            return
        self._is_inside = self._is_indented
        if self._is_header:
            # Its body stands on the same line.
            self._blocks.pop()


class _Code:
    """What the lines of code so far leave open: a string, brackets, a backslash."""

    def __init__(self) -> None:
        self.ends_in_colon = False
        self._string = ""
        self._depth = 0
        self._is_continued = False

    @property
    def is_complete(self) -> bool:
        """Whether the next line begins a statement."""
        return not (self._string or self._depth or self._is_continued)

    def read(self, line: str) -> None:
        """Go on with a line, as a whole."""
        line = line.rstrip("\r\n")
        code = self._without_strings(line)
        opened = sum(map(code.count, "([{")) - sum(map(code.count, ")]}"))
        self._depth = max(0, self._depth + opened)
        self._is_continued = code.endswith("\\")
        self.ends_in_colon = code.rstrip().endswith(":")

    def _without_strings(self, line: str) -> str:
        """The line's code without strings and comments; what it leaves open is kept."""
        code, place = "", 0
        while True:
            if self._string:
                end = _END_OF_STRING[self._string].match(line, place)
                if end is None:
                    # Only a backslash carries a simple string on to the next line.
                    backslashes = len(line) - len(line.rstrip("\\"))
                    if len(self._string) == 1 and backslashes % 2 == 0:
                        self._string = ""
                    return code
                self._string, place = "", end.end()
            mark = _MARK.search(line, place)
            code += line[place : mark.start() if mark else None]
            if mark is None or mark[0] == "#":
                return code
            self._string, place = mark[0], mark.end()
            # A value stands here, whose last character is not one of code.
            code += "_"


def _has_code(line: str) -> bool:
    text = line.lstrip()
    return bool(text) and not text.startswith("#")


def _indent(line: str) -> int:
    """The column of the line's first character, with tabs as Python counts them."""
    space = line[: len(line) - len(line.lstrip())]
    return len(space.rpartition("\f")[2].expandtabs(_TAB))
