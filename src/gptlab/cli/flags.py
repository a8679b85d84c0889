"""Flags to settings: defaults < preset < file < flags."""

import json
import re
import tomllib
from argparse import RawDescriptionHelpFormatter
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_origin

from pydantic import AliasChoices
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from gptlab.config import Settings, nearest, preset
from gptlab.errors import ConfigError

_BOOLEANS = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}
_NOT_GIVEN = "not given"

Command = TypeVar("Command", bound=Settings)


def parse(command: type[Command], argv: list[str], *, prog: str) -> Command:
    """Settings from `argv`, with a preset (`--preset`) and a file (`--config`) underneath.

    Raises:
        ConfigError: A flag or a key is unknown, or a value is bad.
    """
    flags = given_flags(command, argv, prog=prog)
    names = _aliases(command)
    config = read_config(Path(flags["config"])) if "config" in flags else {}
    values = {names.get(key, key): value for key, value in config.items()} | flags
    base = preset(values["preset"]) if values.get("preset") else {}
    return command(**{**_fields_of(command, base), **values})


def given_flags(command: type[Settings], argv: list[str], *, prog: str) -> dict[str, Any]:
    """The flags in `argv` by field name, and nothing that was not written there."""

    class Flags(command, BaseSettings):  # type: ignore[misc, valid-type]
        model_config = SettingsConfigDict(cli_implicit_flags=True, cli_avoid_json=True)

    Flags.__doc__ = command.__doc__
    names = {name: name for name in command.model_fields} | _aliases(command)
    words, lists = _normalised(argv, command, names)
    try:
        source: CliSettingsSource[Any] = CliSettingsSource(
            Flags,
            cli_prog_name=prog,
            cli_hide_none_type=True,
            cli_parse_none_str=_NOT_GIVEN,
            cli_parse_args=words,
            cli_exit_on_error=False,
            formatter_class=_HelpFormatter,
        )
    except SettingsError as error:
        raise ConfigError(str(error).removeprefix("error parsing CLI: argument ")) from None
    # The parser takes the word that its help shows for None as None: here it is what was typed.
    typed = {key: _NOT_GIVEN if value is None else value for key, value in source().items()}
    return {names[key]: value for key, value in typed.items()} | lists


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


class _HelpFormatter(RawDescriptionHelpFormatter):
    """Shows a flag that takes several values as such, and not that none are given."""

    def format_help(self) -> str:
        text = super().format_help().replace("tuple[str,...]", "str ...")
        return re.sub(r"\s+\(default:\s+\(\)\)", "", text)


def _normalised(
    argv: list[str], command: type[Settings], names: Mapping[str, str]
) -> tuple[list[str], dict[str, list[str]]]:
    """`argv` as the parser spells it, and by field the values of flags that take several.

    `--learning-rate 1`, `--learning_rate=1`, `--shuffle`, `--no_shuffle` and `--shuffle false` are
    all accepted, and `--stop a b` is `--stop a --stop b`; a flag that does not exist is refused
    with the nearest name.
    """
    result: list[str] = []
    # Kept from the parser, which would split a text at its commas.
    lists: dict[str, list[str]] = {}
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
            if get_origin(_type_of(command, names[name])) is not tuple:
                result.append(f"--{name}={value}")
                continue
            values = lists.setdefault(names[name], [])
            values.append(value)
            while not equals and words and not _is_flag(words[0]):
                values.append(words.popleft())
    return result, lists


def _is_flag(word: str) -> bool:
    return word == "-h" or (word.startswith("--") and len(word) > 2)


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
