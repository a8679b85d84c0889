"""The rows of JSON lines, and what every format with rows has in common."""

import codecs
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from gptlab.corpus.compression import NotTextError, decompressed, opened_as_stored


class Row(NamedTuple):
    """A row that has not been parsed yet."""

    number: int
    """From 1; of a line among all lines, blank ones too."""
    raw: Any
    """What the format's `value` makes the field's value of."""
    stored: int
    """Bytes of the file, as stored, that have been read when it ends, about."""


@dataclass(frozen=True)
class RowFormat:
    """How a kind of file is read row by row."""

    unit: str
    """What a row is called: "line" or "row"."""
    rows: Callable[[Path, str, int], Iterator[Row]]
    """Rows of a file with a field from a number on. Earlier ones may come too, unless none of
    those from the number before it on does: a fault is found at the same place from anywhere."""
    value: Callable[[Any, str, str, str], object]
    """What a raw row has, at a place, in a field, under a treatment of errors."""
    check: Callable[[Path], None] | None = None
    """Finds damage without reading the values; without it, the file is checked as a text."""


def _json_rows(file: Path, field: str, first: int) -> Iterator[Row]:  # noqa: ARG001
    """The lines that are not blank, without a byte order mark at the start.

    Raises:
        NotTextError: The file is empty, unreadable or damaged.
        DataError: The package that decompresses the file is missing.
    """
    with opened_as_stored(file) as stored:
        for number, line in enumerate(decompressed(file, stored), 1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if line.strip():
                yield Row(number, line, stored.tell())


def json_object(line: bytes, place: str, errors: str) -> dict[str, Any]:
    """A line's object.

    Raises:
        NotTextError: The line is no JSON object or, if strict, not UTF-8.
    """
    try:
        row = json.loads(decoded(line, place, errors))
    except NotTextError:
        raise
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise NotTextError(
            f'{place} is no JSON object; write each as {{"text": "..."}} on one line',
            reason="broken line",
        )
    return row


def _json_value(line: bytes, place: str, field: str, errors: str) -> object:
    """The field of a line's object.

    Raises:
        NotTextError: The line is no JSON object, lacks the field or, if strict, is not UTF-8.
    """
    row = json_object(line, place, errors)
    if field not in row:
        raise no_field(place, field, list(row))
    return row[field]


JSON_LINES = RowFormat("line", _json_rows, _json_value)


def text_of(value: object, place: str, errors: str) -> str:
    """The text of a row. JSON can escape a surrogate without its other half.

    Raises:
        NotTextError: There is none: it is null, no string or, if strict, half a surrogate pair.
    """
    if value is None:
        raise NotTextError(f"{place} is null; give it text or leave it out", reason="null")
    if not isinstance(value, str):
        raise NotTextError(
            f"{place} is no string but {type(value).__name__}; name the text's field",
            reason="not a string",
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        if errors == "strict":
            raise NotTextError(
                f"{place} holds half a surrogate pair; mend or remove it",
                reason="half a surrogate pair",
            ) from None
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value


def decoded(data: bytes, place: str, errors: str) -> str:
    """The text of a row's bytes.

    Raises:
        NotTextError: They are not UTF-8, if strict.
    """
    try:
        return data.decode("utf-8", errors)
    except UnicodeDecodeError as error:
        raise NotTextError(
            f"{place} is not UTF-8 text (byte 0x{data[error.start]:02x}); "
            f"convert it, for example with iconv -f latin1 -t utf-8",
            reason="not UTF-8",
        ) from None


def no_field(place: str, field: str, names: list[str]) -> NotTextError:
    """The error of a row or a file that lacks the field."""
    return NotTextError(
        f"{place} has no field '{field}', only {names}; name the one with the text",
        reason="no such field",
    )
