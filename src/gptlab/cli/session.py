"""A session: a text that a user and a model write in turns."""

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from gptlab.cli.flags import CommandLine, aliases, given_flags, takes_several
from gptlab.cli.prompt import note_of_overflow
from gptlab.cli.sampling_flags import SamplingFlags
from gptlab.config.settings import nearest
from gptlab.errors import ConfigError, GptlabError
from gptlab.generation.code_blocks import until_block_ends

if TYPE_CHECKING:
    from gptlab.generation import Generator


class Session:
    """The text so far, the settings that the model continues it with, and what can be undone.

    Args:
        generator: Continues the text.
        flags: The settings to begin with.
        text: What to begin with.
    """

    def __init__(self, generator: "Generator", flags: SamplingFlags, *, text: str = "") -> None:
        self.text = text
        self.flags = flags
        self._generator = generator
        self._first_flags = flags
        self._earlier: list[str] = []
        self._has_said_overflow = False

    def go_on(self, entry: str) -> Iterator[str]:
        """Add `entry` to the text, and what the model makes of it, yielded as it comes.

        An entry begins a line of its own; an empty one lets the model go on where the text ends.
        Whoever stops reading keeps what was read. An error takes the entry back.
        """
        before = self.text
        self._earlier.append(before)
        begun = entry and before and not before.endswith("\n")
        self.text = prompt = before + ("\n" if begun else "") + entry
        try:
            pieces = self._generator.stream(prompt, self.flags.sampling())
            if self.flags.stop_at_function:
                pieces = until_block_ends(prompt, pieces)
            for piece in pieces:
                self.text += piece
                yield piece
        except GptlabError:
            self.text = self._earlier.pop()
            raise

    def undo(self) -> str | None:
        """Take the last entry and its continuation back, or a reset; returns what it was.

        None where there is nothing to take back.
        """
        if not self._earlier:
            return None
        now, self.text = self.text, self._earlier.pop()
        return now.removeprefix(self.text).strip("\n")

    def reset(self) -> None:
        """Begin an empty text; what it was can be had back by `undo`."""
        self._earlier.append(self.text)
        self.text = ""

    def set(self, name: str, value: str) -> str:
        """Change one setting, spelled as its flag is; no value means what it was at first.

        Returns:
            The setting as `settings` shows it.

        Raises:
            ConfigError: There is no such setting, or the value is bad.
        """
        field = aliases(SamplingFlags).get(name, name)
        if field not in _fields():
            raise ConfigError(f"there is no setting '{name}'; {nearest(name, _fields())}")
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
        return [f"{name} {_shown(getattr(self.flags, name))}" for name in _fields()]

    def note_of_overflow(self) -> str | None:
        """Says, once, what becomes of a text that the model can't hold any longer."""
        if self._has_said_overflow or not self.text:
            return None
        note = note_of_overflow(self._generator, self.text, self.flags.sampling())
        self._has_said_overflow = note is not None
        return note


def _fields() -> list[str]:
    return [name for name in SamplingFlags.model_fields if name not in CommandLine.model_fields]


def _words(value: str) -> list[str]:
    try:
        return shlex.split(value)
    except ValueError as error:
        raise ConfigError(f"{value} can't be cut into words: {error}; close its quotes") from None


def _shown(value: object) -> str:
    return "not given" if value is None else json.dumps(value, ensure_ascii=False)
