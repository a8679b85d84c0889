"""Rows with all of their fields, from JSON lines and from tables of comma or tab separated values.

A corpus reads one field of a row, its text; here the others come along, as labels do.
"""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gptlab.corpus.compression import (
    NotTextError,
    compression,
    damaged,
    decompressed,
    opened_as_stored,
)
from gptlab.corpus.formats import TextErrors, row_format
from gptlab.corpus.rows import JSON_LINES, decoded
from gptlab.corpus.split import draw
from gptlab.errors import DataError

_SEPARATORS = {".csv": ",", ".tsv": "\t"}


class Record(NamedTuple):
    """A row."""

    place: str
    """Its file and its line, as in "reviews.csv, line 3"."""
    draw: int
    """A number from `DRAWS` that depends on its place alone, by which rows are split."""
    values: dict[str, Any]
    """As JSON has them; strings where the file is a table."""

    def value(self, field: str) -> Any:
        """What the row has in `field`; "a.b" is also the b within the object that is in a.

        Raises:
            DataError: It has no such field, or null in it.
        """
        values, name = self.values, field
        while name not in values and "." in name:
            outer, _, rest = name.partition(".")
            if not isinstance(values.get(outer), dict):
                break
            values, name = values[outer], rest
        if values.get(name) is None:
            problem = "is null in" if name in values else "is missing in"
            raise DataError(
                f"{self.place}: field '{field}' {problem} {sorted(values)}; fill it in, or "
                "name another field"
            )
        return values[name]


def read_records(file: str | Path, *, errors: TextErrors = "strict") -> Iterator[Record]:
    """The rows of a file, in order.

    `.jsonl` and `.ndjson` have an object on each line; `.csv` and `.tsv` have the names of their
    fields in the first line. Each may be compressed, with `.gz` or `.zst` at the end.

    Raises:
        DataError: The file is missing, empty, damaged or of another format, or a row is broken; the
            message names its line.
    """
    path = Path(file)
    suffix = suffix_of(path)
    if path.is_dir():
        raise DataError(f"{path} is a folder; name the files with rows that are in it")
    if row_format(path) is JSON_LINES:
        rows = _json_records(path, errors)
    elif suffix in _SEPARATORS:
        rows = _table_records(path, errors, separator=_SEPARATORS[suffix])
    else:
        raise DataError(
            f"{path} has no rows that can be read; give a file that ends in .jsonl, .csv or .tsv"
        )
    is_empty = True
    for number, values in rows:
        is_empty = False
        yield Record(f"{path}, line {number}", row_draw(path, number), values)
    if is_empty:
        raise DataError(f"{path} has no rows; give a file with some")


def row_draw(file: Path, number: int) -> int:
    """A number from `DRAWS` for a row, which depends on its line and its file's name alone."""
    name = file.with_suffix("").name if compression(file) else file.name
    # As a corpus draws, so that a text in another format falls into the same part.
    stem = name[: -len(suffix_of(file))] if has_rows(file) else name
    return draw(f"{stem}\n{number}")


def has_rows(file: str | Path) -> bool:
    """Whether `read_records` reads files that are called so."""
    path = Path(file)
    return row_format(path) is JSON_LINES or suffix_of(path) in _SEPARATORS


def suffix_of(file: Path) -> str:
    """The suffix of what a file holds once it is decompressed, as in ".csv"."""
    return (file.with_suffix("") if compression(file) else file).suffix.lower()


def _json_records(file: Path, errors: TextErrors) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line, _ in JSON_LINES.rows(file, "", 0):
        place = f"{file}, line {number}"
        text = decoded(line, place, errors)
        try:
            row = json.loads(text)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise NotTextError(
                f"{place} is no JSON object; write one on each line",
                reason="broken line",
            )
        yield number, row


def _table_records(
    file: Path, errors: TextErrors, *, separator: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    with opened_as_stored(file) as stored:
        stream = decompressed(file, stored)
        lines = io.TextIOWrapper(stream, encoding="utf-8-sig", errors=errors, newline="")
        reader = csv.reader(lines, delimiter=separator, strict=True)
        number = 1
        try:
            names = next(reader, [])
            number = reader.line_num + 1
            for cells in reader:
                if cells:
                    yield number, _named(f"{file}, line {number}", names, cells)
                number = reader.line_num + 1
        except csv.Error as error:
            raise damaged(Path(f"{file}, line {number}"), error) from None
        except UnicodeDecodeError as error:
            raise NotTextError(
                f"{file}, line {number} or soon after it is not UTF-8 text (byte "
                f"0x{error.object[error.start]:02x}); convert it, for example with iconv -f "
                "latin1 -t utf-8",
                reason="not UTF-8",
            ) from None


def _named(place: str, names: list[str], cells: list[str]) -> dict[str, Any]:
    if len(cells) != len(names):
        raise DataError(
            f"{place} has {len(cells)} values, but the first line names {len(names)} fields; put "
            "quotes around a text with separators in it"
        )
    return dict(zip(names, cells, strict=True))
