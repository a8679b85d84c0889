"""What the commands share: flags to settings, and errors to one line."""

import json
import os
import sys
import tomllib
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_origin

from pydantic import AliasChoices
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from gptlab.config import Settings, nearest, preset
from gptlab.errors import ConfigError, GptlabError

INTERNAL_ERROR = 1
USER_ERROR = 2
INTERRUPTED = 130

_BOOLEANS = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}

Command = TypeVar("Command", bound=Settings)


class CommandLine(Settings):
    """Flags that every command has."""

    debug: bool = False
    """Show a traceback with an error."""


def run(main: Callable[[Command], int | None], command: type[Command], *, prog: str) -> None:
    """Parse the process's arguments into `command`, call `main` with it, and exit.

    An error is one line on standard error: exit code 2 for a user's mistake, 1 for a fault of
    gptlab, 130 for Ctrl-C. With `--debug` the traceback is shown as well.
    """
    argv = sys.argv[1:]
    try:
        sys.exit(main(parse(command, argv, prog=prog)))
    except KeyboardInterrupt:
        _fail(f"{prog}: interrupted", code=INTERRUPTED)
    except BrokenPipeError:
        # The reader (head, less) has left: nothing is wrong. Python would complain once more when
        # it flushes standard output at exit, so that goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if "--debug" in argv:
            raise
        _fail(f"{prog}: {_one_line(error)}", code=_exit_code(error))


def parse(command: type[Command], argv: list[str], *, prog: str) -> Command:
    """Settings from `argv`, with a preset (`--preset`) and a file (`--config`) underneath.

    Raises:
        ConfigError: A flag or a key is unknown, or a value is bad.
    """
    flags = given_flags(command, argv, prog=prog)
    names = _aliases(command)
    values: dict[str, Any] = {}
    if "preset" in flags:
        values |= _fields_of(command, preset(flags["preset"]))
    if "config" in flags:
        values |= {names.get(k, k): v for k, v in read_config(Path(flags["config"])).items()}
    return command(**{**values, **flags})


def given_flags(command: type[Settings], argv: list[str], *, prog: str) -> dict[str, Any]:
    """The flags in `argv` by field name, and nothing that was not written there."""

    class Flags(command, BaseSettings):  # type: ignore[misc, valid-type]
        model_config = SettingsConfigDict(cli_implicit_flags=True, cli_avoid_json=True)

    Flags.__doc__ = command.__doc__
    names = {name: name for name in command.model_fields} | _aliases(command)
    words = _normalised(argv, command, names)
    try:
        source: CliSettingsSource[Any] = CliSettingsSource(
            Flags,
            cli_prog_name=prog,
            cli_hide_none_type=True,
            cli_parse_args=words,
            cli_exit_on_error=False,
        )
    except SettingsError as error:
        raise ConfigError(str(error).removeprefix("error parsing CLI: argument ")) from None
    return {names[key]: value for key, value in source().items()}


def read_config(path: Path) -> dict[str, Any]:
    """Settings in a TOML file, or in the JSON file that a run saves.

    Raises:
        ConfigError: The file is missing, or is neither.
    """
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror}; give a TOML file") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path} is not valid: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"--config {path} is not a table of settings; write lines 'name = value'")
    return values


def _normalised(argv: list[str], command: type[Settings], names: Mapping[str, str]) -> list[str]:
    """`argv` as the parser spells it, one `--name=value` or `--name` a flag.

    `--learning-rate 1`, `--learning_rate=1`, `--shuffle`, `--no_shuffle` and `--shuffle false` are
    all accepted; a flag that does not exist is refused with the nearest name.
    """
    result: list[str] = []
    words = deque(argv)
    while words:
        word = words.popleft()
        flag, equals, value = word.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        positive = name.removeprefix("no_")
        if word in ("-h", "--help"):
            result.append(word)
        elif not word.startswith("--"):
            raise ConfigError(
                f"'{word}' stands alone; a value follows its flag, as in --name value"
            )
        elif name not in names and positive in names and _type_of(command, names[positive]) is bool:
            result.append(f"--no-{positive}")
        elif name not in names:
            raise ConfigError(f"there is no flag --{name}; {nearest(name, names)}")
        elif _type_of(command, names[name]) is bool:
            on = value if equals else _switch_value(words)
            result.append(f"--{name}" if _as_bool(name, on) else f"--no-{name}")
        elif not equals and (not words or _is_flag(words[0])):
            raise ConfigError(f"--{name} needs a value; write --{name}=VALUE")
        else:
            value = value if equals else words.popleft()
            many = get_origin(_type_of(command, names[name])) is tuple
            # As JSON, a text with commas stays one text.
            result.append(f"--{name}={json.dumps([value]) if many else value}")
    return result


def _is_flag(word: str) -> bool:
    return word.startswith("--") and len(word) > 2


def _switch_value(words: deque[str]) -> str:
    if words and words[0].lower() in _BOOLEANS:
        return words.popleft()
    return "true"


def _as_bool(name: str, value: str) -> bool:
    if value.lower() not in _BOOLEANS:
        raise ConfigError(f"--{name} is '{value}', but it is a switch; write true or false")
    return _BOOLEANS[value.lower()]


def _type_of(command: type[Settings], name: str) -> Any:
    return command.model_fields[name].annotation


def _aliases(command: type[Settings]) -> dict[str, str]:
    """Every other spelling of a field, and the field it means."""
    return {
        str(alias): name
        for name, field in command.model_fields.items()
        if isinstance(field.validation_alias, AliasChoices)
        for alias in field.validation_alias.choices
    }


def _fields_of(command: type[Settings], values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in command.model_fields}


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    text = " ".join(str(error).split())
    if isinstance(error, GptlabError):
        return text
    return f"{type(error).__name__}: {text}; run again with --debug for the traceback"


def _exit_code(error: BaseException) -> int:
    return USER_ERROR if isinstance(error, GptlabError | OSError) else INTERNAL_ERROR


def _fail(line: str, *, code: int) -> NoReturn:
    print(line, file=sys.stderr)
    sys.exit(code)
