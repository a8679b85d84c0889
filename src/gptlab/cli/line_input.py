"""Lines of a session: edited and remembered at a terminal, shown where they are piped in."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_MARK = "> "
_MARK_OF_MORE = ". "
_END_OF_PASTE = "/end"
_REMEMBERED = 1000


def read_entry() -> str:
    """One line, or several where all but the last end in a backslash, which is left out.

    Raises:
        EOFError: There is none.
    """
    line = _read(_MARK)
    entry = ""
    while line.endswith("\\"):
        entry += line[:-1] + "\n"
        try:
            line = _read(_MARK_OF_MORE)
        except EOFError:
            return entry
    return entry + line


def read_paste() -> str:
    """Lines as they are, up to one that says /end."""
    text = ""
    with suppress(EOFError):
        while (line := _read(_MARK_OF_MORE)) != _END_OF_PASTE:
            text += line + "\n"
    return text


def _read(mark: str) -> str:
    line = input(mark)
    if not sys.stdin.isatty():
        print(line)
    return line


def history_file() -> Path:
    """Where the lines of past sessions are kept."""
    state = os.environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser()
    return Path(state) / "gptlab" / "history"


@contextmanager
def editable_lines(history: Path) -> Iterator[None]:
    """Let `input` edit lines and know those in `history`, where the terminal can; keep the new.

    A history that can't be read or written is no reason to stop.
    """
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    try:
        import readline
    except ImportError:
        yield
        return
    if not sys.stdin.isatty():
        yield
        return
    # Code is indented more often than a file is named.
    readline.parse_and_bind("tab: self-insert")
    with suppress(OSError):
        readline.read_history_file(history)
    readline.set_history_length(_REMEMBERED)
    try:
        yield
    finally:
        with suppress(OSError):
            history.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(history)
