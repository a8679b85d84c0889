"""Sources to items: documents, or parts of long ones, each with the place where reading goes on."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import NamedTuple

from gptlab.corpus import Corpus
from gptlab.corpus.compression import NotTextError
from gptlab.corpus.documents import Document, Unreadable, stored_size
from gptlab.corpus.languages import language_of
from gptlab.corpus.split import DRAWS, draw
from gptlab.tokenizer.chunks.patterns import NoCutError, blocks

TRAIN, DEV = "train", "dev"
NOT_DRAWN = "not in the fraction"

# What filters judge is held whole, up to this length.
_WHOLE_CHARACTERS = 1 << 24
# Other documents go through in parts if they are longer than a chunk may be.
_PART_CHARACTERS = 1 << 18
# The merging of a chunk takes 40 times the memory of its text.
_LONGEST_CHUNK = 1 << 20


class Place(NamedTuple):
    """Where reading begins: a document, and how many of its parts have been read."""

    section: int = 0
    file: int = 0
    row: int = 0
    piece: int = 0


class Item(NamedTuple):
    """A document, or a part of a long one, on its way."""

    next: Place
    """Where reading goes on behind it."""
    name: str
    part: str
    """Train or dev."""
    text: str
    is_first: bool
    """Whether its document begins with it."""
    is_last: bool
    stored: int
    """Bytes of the sources, as stored, that have been read."""
    reason: str | None = None
    """Why the document is left out, if that is known already."""
    detail: str = ""
    language: str | None = None
    """What its file is written in, if that is asked for and known."""


@dataclass(frozen=True)
class Section:
    """A corpus, or a part of one, that is read from its first file to its last."""

    corpus: Corpus
    part_of: Callable[[Document | Unreadable], str]


def sections_of(corpus: Corpus, *, dev_size: float) -> list[Section]:
    """What is to be read, so that each document is for training or held out.

    Raises:
        DataError: The corpus can't be divided.
    """
    if not dev_size:
        return [Section(corpus, lambda _: TRAIN)]
    train, dev = corpus.split(dev_size)
    if corpus.is_one_text:
        return [Section(train, lambda _: TRAIN), Section(dev, lambda _: DEV)]
    if dev.part is not None:
        draws = dev.part
        return [Section(corpus, lambda document: DEV if document.draw in draws else TRAIN)]
    files = frozenset(dev.files)
    return [
        Section(corpus, lambda document: DEV if corpus.files[document.file] in files else TRAIN)
    ]


@dataclass(frozen=True)
class Reader:
    """Reads sections into items, from any place on."""

    sections: list[Section]
    fraction: float
    """Share of the documents that is drawn."""
    seed: int
    """Decides which."""
    divisible: bool
    """Whether a long document's parts may be encoded one by one."""
    judged: bool
    """Whether filters see each document, which must be whole then."""
    languages: bool = False
    """Whether items tell their language."""

    def items(self, start: Place) -> Iterator[Item]:
        """The items from `start` on; what can't be read becomes an item that is left out.

        Raises:
            DataError: A package that reads one of the formats is missing.
        """
        for number in range(start.section, len(self.sections)):
            section = self.sections[number]
            first = start if number == start.section else Place(number)
            files = section.corpus.files
            stored_before = [0, *accumulate(map(stored_size, files))]
            languages = [language_of(file) if self.languages else None for file in files]
            for document in section.corpus.read(start=(first.file, first.row)):
                here = Place(number, document.file, document.row)
                template = Item(
                    next=here._replace(row=here.row + 1),
                    name=document.name,
                    part=section.part_of(document),
                    text="",
                    is_first=True,
                    is_last=True,
                    stored=stored_before[document.file] + document.stored,
                    language=languages[document.file],
                )
                passed = first.piece if here == first._replace(piece=0) else 0
                yield from self._items_of(document, here, template, passed)

    def _items_of(
        self, document: Document | Unreadable, here: Place, template: Item, passed: int
    ) -> Iterator[Item]:
        """The document as items like `template`, without the first `passed` ones."""
        if self._is_left_out(document):
            yield template._replace(reason=NOT_DRAWN)
            return
        if isinstance(document, Unreadable):
            yield template._replace(reason=document.reason, detail=document.message)
            return
        texts = self._texts(document.pieces)
        number = 0
        try:
            text: str | None = next(texts)
            while text is not None:
                following = next(texts, None)
                item = template._replace(text=text, is_first=number == 0)
                if following is not None:
                    item = item._replace(next=here._replace(piece=number + 1), is_last=False)
                elif not text and number == 0:
                    item = item._replace(reason="empty")
                if number >= passed:
                    yield item
                text, number = following, number + 1
        except _TooLongError:
            yield template._replace(reason="too long to be filtered")
        except NoCutError:
            yield template._replace(is_first=number == 0, reason="a word too long to be encoded")
        except NotTextError as error:
            # The parts that are on their way already are taken back when this arrives.
            yield template._replace(is_first=number == 0, reason=error.reason, detail=str(error))

    def _is_left_out(self, document: Document | Unreadable) -> bool:
        if self.fraction == 1.0:
            return False
        return draw(f"{self.seed} {document.draw}") >= self.fraction * DRAWS.stop

    def _texts(self, pieces: Iterable[str]) -> Iterator[str]:
        """A document in one text or, if it is long and that is allowed, in several."""
        if not self.divisible:
            yield "".join(pieces)
            return
        pieces = iter(pieces)
        held: list[str] = []
        length = 0
        for piece in pieces:
            held.append(piece)
            length += len(piece)
            if self.judged and length > _WHOLE_CHARACTERS:
                raise _TooLongError
            if not self.judged and length > min(_WHOLE_CHARACTERS, _LONGEST_CHUNK):
                yield from _parts(chain(held, pieces))
                return
        if length > _LONGEST_CHUNK:
            for _ in _parts(held):
                pass
        yield "".join(held)


def _parts(pieces: Iterable[str]) -> Iterator[str]:
    return blocks(pieces, _PART_CHARACTERS, longest=_LONGEST_CHUNK)


class _TooLongError(Exception):
    """A document is too long to be held whole, as filters need it."""
