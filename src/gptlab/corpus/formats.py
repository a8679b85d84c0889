"""A file to documents, in pieces: plain text, JSON lines or Parquet, by the file's suffix."""

import codecs
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Literal

from gptlab.corpus.compression import NotTextError, compression, opened, pieces, skip
from gptlab.corpus.rows import Row, json_rows, parquet, parquet_rows
from gptlab.errors import DataError

TextErrors = Literal["strict", "replace"]

_PROBE_BYTES = 8192

_ROW_READERS: dict[str, Callable[[Path, str, str], Iterator[Row]]] = {
    ".jsonl": json_rows,
    ".ndjson": json_rows,
    ".parquet": parquet_rows,
}


def format_of(file: Path) -> str:
    """The suffix of what a file holds once it is decompressed; empty for plain text."""
    suffix = (file.with_suffix("") if compression(file) else file).suffix.lower()
    return suffix if suffix in _ROW_READERS else ""


def documents_in(file: Path, *, field: str, errors: TextErrors) -> Iterator[Iterator[str]]:
    """The documents of a file, each as the pieces of its text.

    Plain text is a single document, in pieces of about 256 KiB. In the other formats each row
    whose field is not null is a document, in one piece.

    Raises:
        NotTextError: The file is unreadable or damaged, or, if strict, binary or not UTF-8.
        DataError: A row lacks the field or has no string there; or a package is missing.
    """
    reader = _ROW_READERS.get(format_of(file))
    if reader is None:
        yield text_pieces(file, errors=errors)
        return
    for place, value in reader(file, field, errors):
        if value is not None:
            yield iter((_document(value, f"{file}, {place}: field '{field}'", errors),))


def text_pieces(file: Path, *, errors: TextErrors, part: range | None = None) -> Iterator[str]:
    """The text of a file, or of a range of its decompressed bytes, in pieces of about 256 KiB.

    No character is cut, and line ends stay as they are.

    Raises:
        NotTextError: The file is unreadable or damaged, or, if strict, binary or not UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors)
    offset, count = (0, None) if part is None else (part.start, part.stop - part.start)
    with opened(file) as stream:
        skip(stream, offset)
        for data in chain(pieces(stream, count), [b""]):
            if errors == "strict":
                _refuse_binary(file, data[: max(_PROBE_BYTES - offset, 0)])
            held = len(decoder.getstate()[0])
            try:
                yield decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                place = offset - held + error.start
                raise NotTextError(
                    f"{file} is not UTF-8 text "
                    f"(byte 0x{error.object[error.start]:02x} at offset {place}); "
                    f"convert it, for example with iconv -f latin1 -t utf-8"
                ) from None
            offset += len(data)


def check(file: Path, *, errors: TextErrors) -> None:
    """Read a file through, though not row by row, as a folder's search does.

    Raises:
        NotTextError: The file is unreadable, damaged, binary or, if strict, not UTF-8.
        DataError: A package is missing.
    """
    if format_of(file) == ".parquet":
        with parquet(file):
            return
    with opened(file) as stream:
        _refuse_binary(file, stream.read(_PROBE_BYTES))
    for _ in text_pieces(file, errors=errors):
        pass


def _refuse_binary(file: Path, head: bytes) -> None:
    if b"\0" in head:
        raise NotTextError(f"{file} is a binary file; give a text file")


def _document(value: object, place: str, errors: TextErrors) -> str:
    """The text of a row. JSON can escape a surrogate without its other half."""
    if not isinstance(value, str):
        raise DataError(f"{place} is no string but {type(value).__name__}; name the text's field")
    try:
        value.encode()
    except UnicodeEncodeError:
        if errors == "strict":
            raise DataError(f"{place} holds half a surrogate pair; mend or remove it") from None
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value
