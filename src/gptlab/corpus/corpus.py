"""A corpus: the documents in files and folders, read in order, and their split in two."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from gptlab.corpus.compression import NotTextError, compression, opened_as_stored
from gptlab.corpus.documents import Document, Source, Unreadable, stored_size
from gptlab.corpus.formats import TextErrors, format_of
from gptlab.corpus.paths import Paths
from gptlab.corpus.split import DRAWS, draw, drawn_border, text_border, text_size
from gptlab.errors import DataError

# A row whose field is null, or a file that was emptied, has no text, and nothing is wrong with it.
_PASSED_OVER = {"null", "empty"}


@dataclass(frozen=True)
class Corpus:
    """Files of text in a fixed order, or a part of them."""

    roots: tuple[Path, ...]
    """The files and folders that the user named, and the folders of patterns."""
    files: Paths
    """What is read; unless they were checked, folders that can't be and links are among them."""
    skipped: int = 0
    """What is no text in the folders: binary, damaged or, if strict, not UTF-8, or no file."""
    field: str = "text"
    """The key or the column that holds the text, where a file has rows."""
    errors: TextErrors = "strict"
    part: range | None = None
    """Of a single text its bytes, decompressed; where a file has rows the draws of documents."""
    conversations: bool = False
    """Whether its documents are conversations, as `conversations.to_text` writes them."""

    @property
    def root(self) -> Path:
        """The file or the folder that the user named, the first of several."""
        return self.roots[0]

    @property
    def name(self) -> str:
        """Name of the file without its suffixes, or of the folder; of the first of several."""
        path = self.root.resolve()
        if path.is_dir():
            name = path.name
        else:
            name = (path.with_suffix("") if compression(path) else path).stem
        return name if len(self.roots) == 1 else f"{name} and {len(self.roots) - 1} more"

    @property
    def is_one_text(self) -> bool:
        """Whether there is a single document because there is a single file without rows."""
        return len(self.files) == 1 and not self.has_rows

    @cached_property
    def has_rows(self) -> bool:
        """Whether a file has rows, so that the corpus is split by documents and not by files."""
        return any(map(format_of, self.files))

    @property
    def stored_size(self) -> int:
        """Bytes of all files as they are stored, without those that are gone."""
        return sum(map(stored_size, self.files))

    def read(self, *, start: tuple[int, int] = (0, 0)) -> Iterator[Document | Unreadable]:
        """The documents in their order, and in the place of each that holds no text, why.

        Reading goes on behind a row or a file that holds none. One document at a time: the pieces
        of a text are read from its file when they are asked for.

        Args:
            start: A file's index and a row, at or behind which the first document stands. Files
                before it are not opened, and rows before it not parsed.

        Raises:
            DataError: A package that reads a file's format is missing.
            OSError: The machine lacks space, memory or open files, so that more can't be read.
        """
        file, row = start
        for index in range(file, len(self.files)):
            source = self._source(index)
            first = row if index == file else 0
            if not self.is_one_text:
                yield from source.read(first=first, draws=self.part)
            elif first == 0:
                yield source.text(self.part)

    def documents(self) -> Iterator[str]:
        """The text of each document, exactly as it stands in its file.

        Raises:
            DataError: As for `streams`.
        """
        return map("".join, self.streams())

    def streams(self) -> Iterator[Iterator[str]]:
        """The text of each document in pieces of about 256 KiB, or in one if it is a row's.

        Rows whose field is null, and files that were emptied, are passed over.

        Raises:
            DataError: A file is gone, unreadable, damaged, binary or not UTF-8, a row has no text
                in its field, or a package that reads the format is missing.
        """
        for document in self.read():
            if isinstance(document, Document):
                yield document.pieces
            elif document.reason not in _PASSED_OVER:
                raise NotTextError(document.message, reason=document.reason)

    def listing(self) -> Iterator[str]:
        """A line for each file, by which it can be told whether the corpus has changed.

        It has the file's path within the folder that was named, its size as stored, and when it
        was modified, or that it is gone.
        """
        for file in self.files:
            try:
                status = file.stat()
                state = f"{status.st_size} {status.st_mtime_ns}"
            except OSError:
                state = "gone"
            yield f"{self._place(file)}: {state}"

    def fingerprint(self) -> str:
        """Digest of the files' content and of how it is read, whatever the files are called."""
        digest = hashlib.sha256(repr((self.field, self.errors, self.part)).encode())
        if self.conversations:
            digest.update(b"conversations\n")
        is_drawn = self.part is not None and self.has_rows
        for file in self.files:
            digest.update(f"{format_of(file)}{compression(file)}\n".encode())
            if is_drawn:
                # What is drawn depends on its place.
                digest.update(f"{self._place(file)}\n".encode("utf-8", "surrogateescape"))
            with opened_as_stored(file) as stored:
                digest.update(hashlib.file_digest(stored, "sha256").digest())
        return digest.hexdigest()

    def split(self, dev_size: float) -> tuple["Corpus", "Corpus"]:
        """A training part and a held-out one of about `dev_size`, neither of which is empty.

        What is held out is the tail of a single text, from a line's start. Where a file has rows it
        is documents, each drawn by the digest of its place alone: the path of its file within the
        folder that was named, and the number of its row. Of several plain texts it is whole files,
        each drawn by the digest of that path. So a document stays in its part when others are
        appended, and a file when others are added.

        Raises:
            DataError: A single character or document can't be split, or a file can't be read.
        """
        if len(self.files) > 1 and not self.has_rows:
            return self._split_files(dev_size)
        if self.is_one_text:
            file = self.files[0]
            part = range(text_size(file)) if self.part is None else self.part
            border = text_border(file, part=part, share=1.0 - dev_size)
        else:
            part = DRAWS if self.part is None else self.part
            border = drawn_border(self._draws(), part=part, share=dev_size)
        if border is None:
            raise DataError(
                f"{self.root} is too short to hold a part of it out; give a longer text"
            )
        below = replace(self, part=range(part.start, border))
        above = replace(self, part=range(border, part.stop))
        return (below, above) if self.is_one_text else (above, below)

    def _draws(self) -> Iterator[int]:
        """The draws of the documents.

        Raises:
            DataError: There is at most one, and the first that holds no text says why.
        """
        fault = None
        count = 0
        for document in self.read():
            if isinstance(document, Document):
                count += 1
                yield document.draw
            elif document.reason not in _PASSED_OVER:
                fault = fault or document
        if count < 2 and fault is not None:
            raise NotTextError(fault.message, reason=fault.reason)

    def _split_files(self, dev_size: float) -> tuple["Corpus", "Corpus"]:
        draws = [draw(self._place(file)) for file in self.files]
        drawn = sorted(range(len(draws)), key=draws.__getitem__)
        count = sum(number < dev_size * DRAWS.stop for number in draws)
        held_out = set(drawn[: min(max(count, 1), len(drawn) - 1)])
        train = Paths(f for index, f in enumerate(self.files) if index not in held_out)
        evaluation = Paths(f for index, f in enumerate(self.files) if index in held_out)
        return replace(self, files=train), replace(self, files=evaluation)

    def _source(self, index: int) -> Source:
        file = self.files[index]
        place = self._place(file)
        return Source(index, file, place, self.field, self.errors, self.conversations)

    def _place(self, file: Path) -> str:
        """The path within the folder that was named, or the name of a file that was."""
        path = os.fspath(file)
        for root, beginning in self._beginnings:
            if path == root:
                return file.name
            if path.startswith(beginning):
                return path[len(beginning) :].replace(os.sep, "/")
        return path

    @cached_property
    def _beginnings(self) -> list[tuple[str, str]]:
        """Each root, and what the paths of the files in it begin with."""
        roots = [os.fspath(root) for root in self.roots]
        return [
            (root, "" if root == os.curdir else root.removesuffix(os.sep) + os.sep)
            for root in roots
        ]
