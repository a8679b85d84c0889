"""Documents: the text of a file, or of each of its rows, and what stands in the place of one."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from gptlab.corpus.compression import NotTextError, compression, empty
from gptlab.corpus.conversations import CONVERSATIONS
from gptlab.corpus.formats import TextErrors, format_of, row_format, text_pieces
from gptlab.corpus.rows import RowFormat, text_of
from gptlab.corpus.split import draw

# A file that ends within these is read at once, so that no file stays open for it.
_READ_AHEAD_PIECES = 2

# Where a file with rows has one of these, there is nothing more to read in it.
_FAULTS_OF_FILES = {"damaged", "gone", "unreadable", "link to a folder", "no regular file"}


class Document(NamedTuple):
    """A text that can be read."""

    file: int
    """Which of the corpus's files it is in."""
    row: int
    """0 for plain text; else the number of its line, or its row, from 1."""
    name: str
    """Its path, with its line or row."""
    draw: int
    """A number from `DRAWS` that depends on its place alone, by which a corpus is split."""
    pieces: Iterator[str]
    """Its text, in pieces of about 256 KiB, or in one if it is a row's. Plain text that turns out
    to be damaged or not UTF-8 raises NotTextError on the way."""
    stored: int
    """Bytes of its file, as stored, that have been read when it ends, about."""


class Unreadable(NamedTuple):
    """What stands where a file or a row holds no text; its first fields are a document's."""

    file: int
    row: int
    name: str
    draw: int
    stored: int
    reason: str
    """The kind of fault, for counting: "binary", "not UTF-8", "damaged", "unreadable", "gone",
    "link to a folder", "no regular file", "empty", "broken line", "no such field", "not a string",
    "null" or "half a surrogate pair"."""
    message: str
    """The fault as one line with its remedy."""

    @property
    def is_row(self) -> bool:
        """Whether a single row holds no text, and its file can be read."""
        return self.row > 0 and self.reason not in _FAULTS_OF_FILES


@dataclass(frozen=True)
class Source:
    """A file of a corpus, and how it is read."""

    index: int
    file: Path
    place: str
    """Its path within the folder that was named, or its name."""
    field: str
    errors: TextErrors
    conversations: bool = False
    """Whether its rows are conversations."""

    def text(self, part: range | None = None) -> Document | Unreadable:
        """The single document of a plain text, or of a range of its decompressed bytes."""
        head = (self.index, 0, f"{self.file}", draw(self.place))
        size = stored_size(self.file)
        pieces = text_pieces(self.file, errors=self.errors, part=part)
        try:
            read = list(islice(filter(None, pieces), _READ_AHEAD_PIECES))
            if not read:
                raise empty(self.file)
        except NotTextError as error:
            return Unreadable(*head, size, error.reason, f"{error}")
        return Document(*head, chain(read, pieces), size)

    def rows(
        self, form: RowFormat, *, first: int, draws: range | None
    ) -> Iterator[Document | Unreadable]:
        """The rows from the number `first` on, or those of them whose draw is among `draws`.

        A fault of the file stands behind the last row before it, whatever its draw.
        """
        number = 0
        try:
            for number, raw, stored in form.rows(self.file, self.field, first):
                drawn = self._draw_of_row(number)
                if number < first or (draws is not None and drawn not in draws):
                    continue
                name = f"{self.file}, {form.unit} {number}"
                head = (self.index, number, name, drawn)
                try:
                    value = form.value(raw, name, self.field, self.errors)
                    text = text_of(value, f"{name}: field '{self.field}'", self.errors)
                except NotTextError as error:
                    yield Unreadable(*head, stored, error.reason, f"{error}")
                else:
                    yield Document(*head, iter((text,)), stored)
        except NotTextError as error:
            row = number + 1
            if row >= first:
                name = f"{self.file}, {form.unit} {row}" if number else f"{self.file}"
                head = (self.index, row, name, self._draw_of_row(row))
                yield Unreadable(*head, stored_size(self.file), error.reason, f"{error}")

    def _draw_of_row(self, number: int) -> int:
        # Without its suffixes, so that a file in another format or compression has the same draws.
        suffixes = len(format_of(self.file)) + len(compression(self.file))
        return draw(f"{self.place[:-suffixes]}\n{number}")

    def read(
        self, *, first: int = 0, draws: range | None = None
    ) -> Iterator[Document | Unreadable]:
        """The documents from the row `first` on, or those of them whose draw is among `draws`."""
        form = CONVERSATIONS if self.conversations else row_format(self.file)
        if form is not None:
            yield from self.rows(form, first=first, draws=draws)
        elif first == 0 and (draws is None or draw(self.place) in draws):
            yield self.text()


def stored_size(file: Path) -> int:
    """Bytes of a file as stored; none if it is gone."""
    try:
        return file.stat().st_size
    except OSError:
        return 0
