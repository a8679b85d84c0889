"""Settings files: flat, or with a table for each command."""

import json
import tomllib
from pathlib import Path
from typing import Any

from gptlab.errors import ConfigError


def read_config(path: Path, *, command: str) -> dict[str, Any]:
    """Settings of `command` in a TOML file, or in the JSON file that a run saves.

    In a file with tables, as `[prepare]` and `[train]`, they are those of the table named
    `command`; in a file without tables they are all there is.

    Raises:
        ConfigError: The file is missing, is neither, or has tables but none for `command`.
    """
    values = _read(path)
    tables = [name for name, value in values.items() if _is_table(value)]
    if tables:
        values = _table(path, values, tables, command)
    if "config" in values:
        raise ConfigError(
            f"--config {path} has config = {values['config']!r}, but one file can't name another; "
            "take that line out"
        )
    return values


def _read(path: Path) -> dict[str, Any]:
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


def _table(path: Path, values: dict[str, Any], tables: list[str], command: str) -> dict[str, Any]:
    written = ", ".join(f"[{name}]" for name in tables)
    for name in values:
        if name not in tables:
            raise ConfigError(
                f"--config {path}: '{name}' stands outside of its tables {written}; move it into "
                f"the table of its command, as [{command}], or leave the tables' names out"
            )
    if command not in tables:
        raise ConfigError(
            f"--config {path} has {written}, but no table for this command; write its settings "
            f"below [{command}]"
        )
    table = values[command]
    if not isinstance(table, dict):
        raise ConfigError(f"--config {path} has [[{command}]], a list of tables; write [{command}]")
    return table


def _is_table(value: Any) -> bool:
    """Whether `value` was written as a table, or as a list of them in double brackets."""
    items = value if isinstance(value, list) else [value]
    return any(isinstance(item, dict) for item in items)
