"""A session with an encoder-decoder: each entry is a source, and its target is the answer."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from gptlab.cli.sampling_flags import SamplingFlags
from gptlab.cli.session_settings import SessionSettings
from gptlab.cli.targets import as_line
from gptlab.errors import GptlabError

if TYPE_CHECKING:
    from gptlab.generation import Generator

_Pairs = tuple[tuple[str, str], ...]


class SourceSession(SessionSettings):
    """The pairs so far, none of which changes what comes of the next source.

    Args:
        generator: Makes targets.
        flags: The settings to begin with.
    """

    about = "A line is a source, and its target follows. What came before does not matter."
    emptied = "the list of pairs is empty"
    without: ClassVar[frozenset[str]] = frozenset({"overflow", "stop_at_function"})

    def __init__(self, generator: "Generator", flags: SamplingFlags) -> None:
        super().__init__(flags)
        self.pairs: _Pairs = ()
        """Sources and their targets."""
        self._generator = generator
        self._earlier: list[_Pairs] = []

    @property
    def text(self) -> str:
        """A line a pair, with a tab between source and target."""
        cells = ([as_line(text).replace("\t", "\\t") for text in pair] for pair in self.pairs)
        return "".join(f"{source}\t{target}\n" for source, target in cells)

    def go_on(self, entry: str) -> Iterator[str]:
        """Yield the target of `entry` as it comes; an empty entry has none.

        Whoever stops reading keeps what was read. An error takes the entry back.
        """
        if not entry.strip():
            return
        before, target = self.pairs, ""
        self._earlier.append(before)
        self.pairs = (*before, (entry, target))
        try:
            for piece in self._generator.stream(entry, self.flags.sampling()):
                target += piece
                self.pairs = (*before, (entry, target))
                yield piece
        except GptlabError:
            self.pairs = self._earlier.pop()
            raise

    def undo(self) -> str | None:
        """Take the last pair back, or a reset; returns its source, None if there was none."""
        if not self._earlier:
            return None
        now, self.pairs = self.pairs, self._earlier.pop()
        return "\n".join(source for source, _ in now[len(self.pairs) :])

    def reset(self) -> None:
        """Forget all pairs; they can be had back by `undo`."""
        self._earlier.append(self.pairs)
        self.pairs = ()

    def note_of_overflow(self) -> None:
        """There is nothing to say: what is too long is refused."""
