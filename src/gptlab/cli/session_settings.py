"""The settings of a session, which its user may change while it goes on."""

import json
import shlex
from collections.abc import Mapping
from typing import Any, ClassVar

from gptlab.cli.flags import CommandLine, aliases, given_flags, takes_several
from gptlab.cli.sampling_flags import SamplingFlags
from gptlab.config.settings import nearest
from gptlab.errors import ConfigError


class SessionSettings:
    """The settings that a model goes on with.

    Args:
        flags: Those to begin with.
    """

    without: ClassVar[frozenset[str]] = frozenset()
    """Names of those that would be of no effect."""

    def __init__(self, flags: SamplingFlags) -> None:
        self.flags = flags
        self._first_flags = flags

    def set(self, name: str, value: str) -> str:
        """Change one setting, spelled as its flag is; no value means what it was at first.

        Returns:
            The setting as `settings` shows it.

        Raises:
            ConfigError: There is no such setting, or the value is bad.
        """
        field = aliases(SamplingFlags).get(name, name)
        if field not in self._fields():
            raise ConfigError(f"there is no setting '{name}'; {nearest(name, self._fields())}")
        changes: Mapping[str, Any] = {field: getattr(self._first_flags, field)}
        if value:
            words = _words(value) if takes_several(SamplingFlags, field) else [value]
            flags = [f"--{name}={word}" for word in words]
            changes = given_flags(SamplingFlags, flags, prog="gptlab-generate")
        changed = self.flags.replace(**changes)
        changed.sampling()
        self.flags = changed
        return f"{name} {_shown(getattr(changed, field))}"

    def settings(self) -> list[str]:
        """A line a setting: its name, as `set` takes it, and its value."""
        return [f"{name} {_shown(getattr(self.flags, name))}" for name in self._fields()]

    def _fields(self) -> list[str]:
        left_out = self.without | CommandLine.model_fields.keys()
        return [name for name in SamplingFlags.model_fields if name not in left_out]


def _words(value: str) -> list[str]:
    try:
        return shlex.split(value)
    except ValueError as error:
        raise ConfigError(f"{value} can't be cut into words: {error}; close its quotes") from None


def _shown(value: object) -> str:
    return "not given" if value is None else json.dumps(value, ensure_ascii=False)
