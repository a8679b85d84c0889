"""The loop of a session: lines in, continuations out, commands that begin with a slash."""

import sys
from pathlib import Path

from gptlab.cli.chat_session import ChatSession
from gptlab.cli.line_input import editable_lines, history_file, read_entry, read_paste
from gptlab.cli.main import INTERRUPTED
from gptlab.cli.session import Session as TextSession
from gptlab.cli.source_session import SourceSession
from gptlab.config.settings import nearest
from gptlab.errors import ConfigError, DataError, GptlabError
from gptlab.training.files import replace_text

_HELP = """\
A line that ends in a backslash goes on in the next line. Two slashes begin a text with one.

/paste              several lines as they are, up to a line /end
/undo               take the last exchange back
/reset              begin anew
/text               show the text so far
/save FILE          write the text to a file
/set NAME VALUE     change a setting, named as its flag; without a value, as it was at first
/settings           show all settings
/help               this
/quit               leave; so does Ctrl-D

Ctrl-C stops a continuation and keeps what there is of it."""
_SLASH = "/"

Session = TextSession | ChatSession | SourceSession


def talk(session: Session) -> int:
    """Read lines and answer them until the user leaves; returns the exit code."""
    _say("/help says what there is, Ctrl-D leaves")
    _show_line(session.text)
    may_leave = False
    with editable_lines(history_file()):
        while True:
            try:
                entry = read_entry()
            except EOFError:
                print()
                return 0
            except KeyboardInterrupt:
                print()
                if may_leave:
                    return INTERRUPTED
                _say("Ctrl-C once more leaves, and so do Ctrl-D and /quit")
                may_leave = True
                continue
            may_leave = False
            if entry.split() == ["/quit"]:
                return 0
            try:
                _answer(session, entry)
            except KeyboardInterrupt:
                _say("\nstopped; /undo takes it back")
            except GptlabError as error:
                _say(str(error))


def _answer(session: Session, entry: str) -> None:
    if not entry.startswith(_SLASH):
        _continue(session, entry)
    elif entry.startswith(_SLASH * 2):
        _continue(session, entry.removeprefix(_SLASH))
    else:
        command, _, rest = entry.removeprefix(_SLASH).partition(" ")
        _obey(session, command, rest.strip())


def _continue(session: Session, entry: str) -> None:
    last = ""
    for piece in session.go_on(entry):
        print(piece, end="", flush=True)
        last = piece
    if not last.endswith("\n"):
        print()
    if note := session.note_of_overflow():
        _say(note)


def _obey(session: Session, command: str, rest: str) -> None:
    match command:
        case "help":
            print(session.about, _HELP, sep="\n")
        case "settings":
            print(*session.settings(), sep="\n")
        case "set":
            name, _, value = rest.partition(" ")
            print(session.set(name, value.strip()))
        case "paste":
            _continue(session, read_paste())
        case "undo":
            _undo(session)
        case "reset":
            session.reset()
            print(f"{session.emptied}; /undo brings it back")
        case "text":
            _show_line(session.text)
        case "save":
            _save(session, rest)
        case _:
            known = ["help", "paste", "quit", "reset", "save", "set", "settings", "text", "undo"]
            raise ConfigError(
                f"there is no command /{command}; {nearest(command, known)} A text that begins "
                "with a slash begins with two"
            )


def _undo(session: Session) -> None:
    taken = session.undo()
    if taken is None:
        print("there is nothing to take back")
    elif taken:
        first, _, more = taken.partition("\n")
        print(f"took back: {first}{' ...' if more else ''}")
    else:
        print("the text is what it was before")


def _save(session: Session, name: str) -> None:
    if not name:
        raise ConfigError("/save needs the name of a file, as in /save text.py")
    try:
        replace_text(Path(name).expanduser(), session.text)
    except OSError as error:
        raise DataError(f"{name} can't be written: {error.strerror}; choose another one") from None
    print(f"{name}: {len(session.text)} characters")


def _show_line(text: str) -> None:
    if text:
        print(text, end="" if text.endswith("\n") else "\n")


def _say(line: str) -> None:
    print(line, file=sys.stderr)
