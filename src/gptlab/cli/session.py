"""A session: a text that a user and a model write in turns."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gptlab.cli.prompt import note_of_overflow
from gptlab.cli.sampling_flags import SamplingFlags
from gptlab.cli.session_settings import SessionSettings
from gptlab.errors import GptlabError
from gptlab.generation.code_blocks import until_block_ends

if TYPE_CHECKING:
    from gptlab.generation import Generator


class Session(SessionSettings):
    """The text so far, the settings that the model continues it with, and what can be undone.

    Args:
        generator: Continues the text.
        flags: The settings to begin with.
        text: What to begin with.
    """

    about = (
        "A line is added to the text, and the model goes on with it. An empty line lets it go on."
    )
    emptied = "the text is empty"

    def __init__(self, generator: "Generator", flags: SamplingFlags, *, text: str = "") -> None:
        super().__init__(flags)
        self.text = text
        self._generator = generator
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

    def note_of_overflow(self) -> str | None:
        """Says, once, what becomes of a text that the model can't hold any longer."""
        if self._has_said_overflow or not self.text:
            return None
        note = note_of_overflow(self._generator, self.text, self.flags.sampling())
        self._has_said_overflow = note is not None
        return note
