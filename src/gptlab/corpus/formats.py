"""What a file holds, by its suffix: plain text, which is read in pieces here, or rows."""

import codecs
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Literal

from gptlab.corpus.arrow import ARROW, PARQUET
from gptlab.corpus.compression import NotTextError, compression, opened, pieces, skip
from gptlab.corpus.rows import JSON_LINES, RowFormat

TextErrors = Literal["strict", "replace"]

PROBE_BYTES = 8192

_ROW_FORMATS = {
    ".jsonl": JSON_LINES,
    ".ndjson": JSON_LINES,
    ".parquet": PARQUET,
    ".arrow": ARROW,
}


def format_of(file: Path) -> str:
    """The suffix of what a file holds once it is decompressed; empty for plain text."""
    suffix = (file.with_suffix("") if compression(file) else file).suffix.lower()
    return suffix if suffix in _ROW_FORMATS else ""


def has_json_lines(file: Path) -> bool:
    """Whether a file has an object on each line, as its name says."""
    return row_format(file) is JSON_LINES


def row_format(file: Path) -> RowFormat | None:
    """How the rows of a file are read; None for plain text."""
    return _ROW_FORMATS.get(format_of(file))


def text_pieces(file: Path, *, errors: TextErrors, part: range | None = None) -> Iterator[str]:
    """The text of a file, or of a range of its decompressed bytes, in pieces of about 256 KiB.

    No character is cut, and line ends stay as they are.

    Raises:
        NotTextError: The file is empty, unreadable or damaged or, if strict, binary or not UTF-8.
        DataError: The package that decompresses the file is missing.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors)
    offset, count = (0, None) if part is None else (part.start, part.stop - part.start)
    with opened(file) as stream:
        skip(stream, offset)
        for data in chain(pieces(stream, count), [b""]):
            if errors == "strict":
                refuse_binary(file, data[: max(PROBE_BYTES - offset, 0)])
            held = len(decoder.getstate()[0])
            try:
                yield decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                place = offset - held + error.start
                raise NotTextError(
                    f"{file} is not UTF-8 text "
                    f"(byte 0x{error.object[error.start]:02x} at offset {place}); "
                    f"convert it, for example with iconv -f latin1 -t utf-8",
                    reason="not UTF-8",
                ) from None
            offset += len(data)


def check_text(file: Path, *, errors: TextErrors) -> None:
    """Read a file through, though not row by row, as a folder's search does.

    Raises:
        NotTextError: The file is empty, unreadable, damaged, binary or, if strict, not UTF-8.
        DataError: A package is missing.
    """
    form = row_format(file)
    if form is not None and form.check is not None:
        form.check(file)
        return
    if errors != "strict":
        # A text is not asked for NUL then, but a file that nobody named is.
        with opened(file) as stream:
            refuse_binary(file, stream.read(PROBE_BYTES))
    for _ in text_pieces(file, errors=errors):
        pass


def refuse_binary(file: Path, head: bytes) -> None:
    """Tell a binary file by what its beginning, `PROBE_BYTES` of it, has in it.

    Raises:
        NotTextError: It has a NUL.
    """
    if b"\0" in head:
        raise NotTextError(f"{file} is a binary file; give a text file", reason="binary")
