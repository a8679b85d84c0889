"""The rows of JSON lines and of Parquet: where each stands, and what it holds as its text."""

import codecs
import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from gptlab.corpus.compression import NotTextError, compression, damaged, opened
from gptlab.errors import DataError

Row = tuple[str, object]
"""A row's place, as in "line 3", and the value of its field."""

_BATCH_ROWS = 256
_BUFFER_BYTES = 1 << 20


def json_rows(file: Path, field: str, errors: str) -> Iterator[Row]:
    """The field of each line's object, without blank lines or a byte order mark at the start.

    Raises:
        NotTextError: The file is unreadable, damaged or, if strict, not UTF-8.
        DataError: A line is no JSON object, or lacks the field.
    """
    with opened(file) as stream:
        for number, line in enumerate(stream, 1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if not line.strip():
                continue
            place = f"line {number}"
            row = _json_object(_decoded(line, f"{file}, {place}", errors), f"{file}, {place}")
            if field not in row:
                raise _no_field(f"{file}, {place}", field, list(row))
            yield place, row[field]


def parquet_rows(file: Path, field: str, errors: str) -> Iterator[Row]:
    """The column `field`, in which bytes count as UTF-8 text.

    Raises:
        NotTextError: The file is unreadable, damaged or, if strict, holds what is not UTF-8.
        DataError: There is no such column, or pyarrow is missing.
    """
    with parquet(file) as table:
        if field not in table.schema_arrow.names:
            raise _no_field(f"{file}", field, table.schema_arrow.names)
        batches = table.iter_batches(batch_size=_BATCH_ROWS, columns=[field])
        values = chain.from_iterable(_values(batch.column(0)) for batch in batches)
        for number, value in enumerate(values, 1):
            place = f"row {number}"
            if isinstance(value, bytes):
                value = _decoded(value, f"{file}, {place}", errors)
            yield place, value


@contextmanager
def parquet(file: Path) -> Iterator[Any]:
    """A `pyarrow.parquet.ParquetFile` that reads by pages.

    Raises:
        NotTextError: The file is unreadable or damaged.
        DataError: pyarrow is missing.
    """
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise DataError(
            f"{file} needs the package pyarrow; run pip install 'gptlab[parquet]'"
        ) from None
    with ExitStack() as stack:
        stream: Any = stack.enter_context(opened(file))
        if compression(file):
            # Parquet is read from its end.
            whole = stack.enter_context(TemporaryFile())
            shutil.copyfileobj(stream, whole)
            stream = whole
        try:
            # Without buffers of its own, pyarrow holds a whole row group, which may be the file.
            yield ParquetFile(stream, buffer_size=_BUFFER_BYTES, pre_buffer=False)
        except pyarrow.ArrowException as error:
            raise damaged(file, error) from None


def _values(column: Any) -> list[object]:
    """The column as Python objects, strings as their bytes: pyarrow decodes no invalid UTF-8."""
    import pyarrow

    if column.type in (pyarrow.string(), pyarrow.large_string()):
        column = column.cast(pyarrow.large_binary())
    values: list[object] = column.to_pylist()
    return values


def _decoded(data: bytes, place: str, errors: str) -> str:
    try:
        return data.decode("utf-8", errors)
    except UnicodeDecodeError as error:
        raise NotTextError(
            f"{place} is not UTF-8 text (byte 0x{data[error.start]:02x}); "
            f"convert it, for example with iconv -f latin1 -t utf-8"
        ) from None


def _json_object(line: str, place: str) -> dict[str, object]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise DataError(f'{place} is no JSON object; write each as {{"text": "..."}} on one line')
    return row


def _no_field(place: str, field: str, names: list[str]) -> DataError:
    return DataError(f"{place} has no field '{field}', only {names}; name the one with the text")
