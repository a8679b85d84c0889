"""Documents: the texts in files and folders, read in pieces, and their split in two."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from gptlab.corpus.compression import compression, opened_as_stored
from gptlab.corpus.find import find_texts
from gptlab.corpus.formats import TextErrors, documents_in, format_of, text_pieces
from gptlab.corpus.split import DRAWS, draw, drawn_border, text_border, text_size
from gptlab.errors import ConfigError, DataError


@dataclass(frozen=True)
class Corpus:
    """Files of text in a fixed order, or a part of a single one."""

    roots: tuple[Path, ...]
    """The files and folders that the user named."""
    files: tuple[Path, ...]
    skipped: int = 0
    """Files of the folders that are binary, damaged or, if strict, not UTF-8."""
    field: str = "text"
    """The key or the column that holds the text, where a file has rows."""
    errors: TextErrors = "strict"
    part: range | None = None
    """Of a single text its bytes, decompressed; of a single file with rows the draws of them."""

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
        return len(self.files) == 1 and not format_of(self.files[0])

    def documents(self) -> Iterator[str]:
        """The text of each document, exactly as it stands in its file.

        Raises:
            DataError: As for `streams`.
        """
        return map("".join, self.streams())

    def streams(self) -> Iterator[Iterator[str]]:
        """The text of each document in pieces of about 256 KiB, or in one if it is a row's.

        Raises:
            DataError: A file is gone, unreadable, damaged, binary or not UTF-8, a row has no text
                in its field, or a package that reads the format is missing.
        """
        for file in self.files:
            if self.part is None:
                yield from documents_in(file, field=self.field, errors=self.errors)
            elif self.is_one_text:
                yield text_pieces(file, errors=self.errors, part=self.part)
            else:
                for drawn, document in self._drawn_documents():
                    if drawn in self.part:
                        yield document

    def fingerprint(self) -> str:
        """Digest of the files' content and of how it is read, whatever the files are called."""
        digest = hashlib.sha256(repr((self.field, self.errors, self.part)).encode())
        for file in self.files:
            digest.update(f"{format_of(file)}{compression(file)}\n".encode())
            with opened_as_stored(file) as stored:
                digest.update(hashlib.file_digest(stored, "sha256").digest())
        return digest.hexdigest()

    def split(self, dev_size: float) -> tuple["Corpus", "Corpus"]:
        """A training part and a held-out one of about `dev_size`, neither of which is empty.

        What is held out is the tail of a single text, from a line's start; of a single file with
        rows it is documents, each drawn by the digest of its number alone; of several files it is
        whole files, each drawn by the digest of its path within the folder alone. So a document
        stays in its part when others are appended, and a file when others are added.

        Raises:
            DataError: A single character or document can't be split, or a file can't be read.
        """
        if len(self.files) > 1:
            return self._split_files(dev_size)
        file = self.files[0]
        if self.is_one_text:
            part = range(text_size(file)) if self.part is None else self.part
            border = text_border(file, part=part, share=1.0 - dev_size)
        else:
            part = DRAWS if self.part is None else self.part
            draws = (drawn for drawn, _ in self._drawn_documents() if drawn in part)
            border = drawn_border(draws, part=part, share=dev_size)
        if border is None:
            raise DataError(f"{file} is too short to hold a part of it out; give a longer text")
        below = replace(self, part=range(part.start, border))
        above = replace(self, part=range(border, part.stop))
        return (below, above) if self.is_one_text else (above, below)

    def _split_files(self, dev_size: float) -> tuple["Corpus", "Corpus"]:
        draws = {file: draw(self._place(file)) for file in self.files}
        drawn = sorted(self.files, key=draws.__getitem__)
        count = sum(number < dev_size * DRAWS.stop for number in draws.values())
        held_out = set(drawn[: min(max(count, 1), len(drawn) - 1)])
        train = tuple(file for file in self.files if file not in held_out)
        evaluation = tuple(file for file in self.files if file in held_out)
        return replace(self, files=train), replace(self, files=evaluation)

    def _place(self, file: Path) -> str:
        """The path within the folder that was named, or the name of a file that was."""
        root = next(root for root in self.roots if file.is_relative_to(root))
        return file.name if file == root else file.relative_to(root).as_posix()

    def _drawn_documents(self) -> Iterator[tuple[int, Iterator[str]]]:
        """The documents of a single file, each with the draw of its number."""
        documents = documents_in(self.files[0], field=self.field, errors=self.errors)
        return ((draw(str(number)), document) for number, document in enumerate(documents))


def open_corpus(
    path: str | Path | Sequence[str | Path], *, field: str = "text", errors: TextErrors = "strict"
) -> Corpus:
    """The corpus of a file, of a folder, searched recursively, or of several of them.

    A file's suffix says what it is: `.jsonl` or `.ndjson` has an object on each line, `.parquet`
    has rows, and each of them is a document, unless its field is null; whatever else is plain
    UTF-8 text and one document. Each may be compressed, with `.gz` or `.zst` at the end.

    Of a folder, hidden files and folders are left out, runs and saved tokenizers too, and files
    that are empty, binary, damaged, or, if strict, not UTF-8; `skipped` counts all but the empty.

    Args:
        path: What to read; the same file is read once, even if it is named twice.
        field: The key or the column that holds the text, where a file has rows.
        errors: About bytes that are not UTF-8, and NUL in a file that was named itself: "strict"
            refuses the file, "replace" reads each such sequence as U+FFFD and NUL as it is.

    Raises:
        ConfigError: `errors` is something else.
        DataError: There is nothing at a path, or no text in it; or a package that reads one of a
            folder's files is missing.
    """
    if errors not in get_args(TextErrors):
        raise ConfigError(f"errors is '{errors}'; choose one of {', '.join(get_args(TextErrors))}")
    named = [path] if isinstance(path, str | Path) else path
    roots = tuple(dict.fromkeys(map(Path, named)))
    if not roots:
        raise DataError("the corpus has no path; give a text file or a folder of text files")
    found = [find_texts(root, errors=errors) for root in roots]
    files = tuple(dict.fromkeys(file for texts, _ in found for file in texts))
    skipped = sum(count for _, count in found)
    return Corpus(roots, files, skipped, field=field, errors=errors)
