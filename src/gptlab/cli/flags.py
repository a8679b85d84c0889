"""Flags to settings: defaults < preset < file < flags."""

import inspect
import re
from argparse import RawDescriptionHelpFormatter
from collections import deque
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args, get_origin

from pydantic import AliasChoices
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from gptlab.cli.config_file import read_config
from gptlab.config import Settings, nearest, preset
from gptlab.config.presets import layered
from gptlab.errors import ConfigError

_BOOLEANS = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}
_NOT_GIVEN = "not given"
_END_OF_FLAGS = "--"


class CommandLine(Settings):
    """Flags that every command has."""

    positional: ClassVar[str | None] = None
    """The field that takes the words without a flag; where there is none, they are refused."""

    debug: bool = False
    """Show a traceback with an error."""
    config: str | None = None
    """TOML file of settings, flat or with a table for each command; flags override it."""


Command = TypeVar("Command", bound=CommandLine)


def parse(command: type[Command], argv: list[str], *, prog: str) -> Command:
    """Settings from `argv`, with a preset (`--preset`) and a file (`--config`) underneath.

    Of a file with tables, `gptlab-train` reads the one named `[train]`.

    Raises:
        ConfigError: A flag or a key is unknown, or a value is bad.
    """
    flags = given_flags(command, argv, prog=prog)
    values = layered(_from_file(command, flags, prog=prog), flags)
    has_preset = "preset" in command.model_fields and values.get("preset")
    base = preset(values["preset"]) if has_preset else {}
    return command(**layered(_fields_of(command, base), values))


def _from_file(
    command: type[CommandLine], flags: Mapping[str, Any], *, prog: str
) -> dict[str, Any]:
    """The settings in the file that `flags` name, by field name."""
    if "config" not in flags:
        return {}
    config = read_config(Path(flags["config"]), command=prog.removeprefix("gptlab-"))
    names = aliases(command)
    values = {names.get(key, key): value for key, value in config.items()}
    # One value needs no brackets, as on the command line.
    return {
        name: [value] if isinstance(value, str) and takes_several(command, name) else value
        for name, value in values.items()
    }


def given_flags(command: type[CommandLine], argv: list[str], *, prog: str) -> dict[str, Any]:
    """The flags in `argv` by field name, and nothing that was not written there."""

    class Flags(command, BaseSettings):  # type: ignore[misc, valid-type]
        model_config = SettingsConfigDict(cli_implicit_flags=True, cli_avoid_json=True)

    Flags.__doc__ = _description(command)
    names = {name: name for name in command.model_fields} | aliases(command)
    words, lists = _normalised(argv, command, names)
    try:
        source: CliSettingsSource[Any] = CliSettingsSource(
            Flags,
            cli_prog_name=prog,
            cli_hide_none_type=True,
            cli_parse_none_str=_NOT_GIVEN,
            cli_parse_args=words,
            cli_exit_on_error=False,
            formatter_class=partial(_HelpFormatter, positional=command.positional),
        )
    except SettingsError as error:
        raise ConfigError(str(error).removeprefix("error parsing CLI: argument ")) from None
    # The parser takes the word that its help shows for None as None: here it is what was typed.
    typed = {key: _NOT_GIVEN if value is None else value for key, value in source().items()}
    return {names[key]: value for key, value in typed.items()} | lists


class _HelpFormatter(RawDescriptionHelpFormatter):
    """Shows a flag that takes several values as such, and its default as it would be typed."""

    def __init__(self, *args: Any, positional: str | None, **layout: Any) -> None:
        super().__init__(*args, **layout)
        self._words = f"[{positional.upper()} ...] " if positional else ""

    def add_usage(self, usage: str | None, *args: Any, **more: Any) -> None:
        # The flags are listed below, with what each is for.
        super().add_usage(usage or f"%(prog)s {self._words}[flags]", *args, **more)

    def format_help(self) -> str:
        text = re.sub(r"tuple\[(\w+),\.\.\.\]", r"\1 ...", super().format_help())
        text = re.sub(r"dict\[\w+,\w+\]", "key:value ...", text)
        # A flag of one letter has two dashes too.
        text = re.sub(r"^  -(\w) ", r"  --\1 ", text, flags=re.MULTILINE)
        text = re.sub(r"\s+\(default:\s+\(\)\)|\s+\(default\s+factory:\s+\w+\)", "", text)
        return re.sub(r"(\(default:\s+)\('([^']*)',\)\)", r"\1\2)", text)


def _description(command: type[CommandLine]) -> str:
    text = inspect.cleandoc(command.__doc__ or "")
    if command.positional is None:
        return text
    words = command.positional.upper()
    return (
        f"{text}\n\n{words}, as of --{command.positional}, stand in front of the flags, behind a "
        f"flag's only value,\nor behind {_END_OF_FLAGS}. A flag shown with '...' takes all words "
        "up to the next flag."
    )


def _normalised(
    argv: list[str], command: type[CommandLine], names: Mapping[str, str]
) -> tuple[list[str], dict[str, list[str]]]:
    """`argv` as the parser spells it, and by field the values of flags that take several.

    `--learning-rate 1`, `--learning_rate=1`, `--shuffle`, `--no_shuffle` and `--shuffle false` are
    all accepted, and `--stop a b` is `--stop a --stop b`; a flag that does not exist is refused
    with the nearest name. `--resume` is a switch that may have a value of its own instead. Words
    without a flag are values of the command's positional field.
    """
    result: list[str] = []
    # Kept from the parser, which would split a text at its commas.
    lists: dict[str, list[str]] = {}
    flagged, bare = _cut_at_end_of_flags(argv, command)
    words = deque(flagged)
    while words:
        word = words.popleft()
        flag, equals, value = word.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        positive = name.removeprefix("no_")
        if word in ("-h", "--help"):
            result.append(word)
        elif not word.startswith("--"):
            lists.setdefault(_field_of_bare(word, command, names), []).append(word)
        elif name not in names and positive in names and _is_switch(command, names[positive]):
            if equals:
                raise ConfigError(f"--{name} is '{value}', but it takes no value; leave it out")
            is_plain = _is_plain_switch(command, names[positive])
            result.append(f"--no-{positive}" if is_plain else f"--{positive}=false")
        elif name not in names:
            raise ConfigError(f"there is no flag --{name}; {nearest(name, names)}")
        elif _is_plain_switch(command, names[name]):
            on = value if equals else _switch_value(words)
            result.append(f"--{name}" if _as_bool(name, on) else f"--no-{name}")
        elif _may_stand_alone(command, names[name]) and not equals and _ends_flag(words):
            result.append(f"--{name}=true")
        elif not equals and _ends_flag(words):
            raise ConfigError(f"--{name} needs a value; write --{name}=VALUE")
        else:
            value = value if equals else words.popleft()
            if not takes_several(command, names[name]):
                result.append(f"--{name}={value}")
                continue
            values = lists.setdefault(names[name], [])
            values.append(value)
            while not equals and words and not _is_flag(words[0]):
                values.append(words.popleft())
    if command.positional is not None and bare:
        lists.setdefault(command.positional, []).extend(bare)
    return result, lists


def _cut_at_end_of_flags(
    argv: list[str], command: type[CommandLine]
) -> tuple[list[str], list[str]]:
    """`argv` up to the word that ends the flags, and what stands behind it."""
    if command.positional is None or _END_OF_FLAGS not in argv:
        return argv, []
    end = argv.index(_END_OF_FLAGS)
    return argv[:end], argv[end + 1 :]


def _field_of_bare(word: str, command: type[CommandLine], names: Mapping[str, str]) -> str:
    """The field that takes `word`, which follows no flag."""
    if word.startswith("-") and word != "-":
        short = word[1:].partition("=")[0].replace("-", "_")
        begun = [name for name in names if name.startswith(short)]
        raise ConfigError(
            f"there is no flag {word}, for a flag has two dashes; {nearest(short, begun or names)}"
        )
    if command.positional is None:
        raise ConfigError(f"'{word}' stands alone; a value follows its flag, as in --name value")
    return command.positional


def _ends_flag(words: deque[str]) -> bool:
    """Whether no value follows."""
    return not words or _is_flag(words[0])


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


def _is_switch(command: type[Settings], name: str) -> bool:
    return _is_plain_switch(command, name) or _may_stand_alone(command, name)


def _is_plain_switch(command: type[Settings], name: str) -> bool:
    """Whether the flag is on or off, or was not given at all."""
    return _type_of(command, name) in (bool, bool | None)


def _may_stand_alone(command: type[Settings], name: str) -> bool:
    """Whether the flag is a switch that may have a value instead."""
    return bool in get_args(_type_of(command, name))


def takes_several(command: type[Settings], name: str) -> bool:
    """Whether the flag of this field takes all words up to the next flag."""
    return name in command.model_fields and get_origin(_type_of(command, name)) in (tuple, dict)


def aliases(command: type[Settings]) -> dict[str, str]:
    """Every other spelling of a field, and the field it means."""
    return {
        str(alias): name
        for name, field in command.model_fields.items()
        if isinstance(field.validation_alias, AliasChoices)
        for alias in field.validation_alias.choices
    }


def _fields_of(command: type[Settings], values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in command.model_fields}
