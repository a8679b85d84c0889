"""The rows of Parquet and of Arrow files, by pyarrow."""

import mmap
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BufferedReader
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from gptlab.corpus.compression import compression, damaged, decompressed, opened_as_stored
from gptlab.corpus.rows import Row, RowFormat, decoded, no_field
from gptlab.errors import DataError

_BATCH_ROWS = 256
_BUFFER_BYTES = 1 << 20
_FILE_MAGIC = b"ARROW1"


def _parquet_rows(file: Path, field: str, first: int) -> Iterator[Row]:
    """The column `field`, without the row groups that end before the row before `first`.

    Raises:
        NotTextError: The file is empty, unreadable or damaged, or has no such column.
        DataError: A package is missing.
    """
    with _parquet(file) as (table, size):
        names = table.schema_arrow.names
        if field not in names:
            raise no_field(f"{file}", field, names)
        rows = table.metadata.num_rows
        number = 0
        for group in range(table.num_row_groups):
            end = number + table.metadata.row_group(group).num_rows
            if end < first - 1:
                number = end
                continue
            # Batches of one group at a time, so that they begin at the same rows from anywhere.
            batches = table.iter_batches(_BATCH_ROWS, row_groups=[group], columns=[field])
            for batch in batches:
                for value in _column(batch, 0):
                    number += 1
                    yield Row(number, value, size * number // rows)


def _arrow_rows(file: Path, field: str, first: int) -> Iterator[Row]:
    """The column `field`, without the batches that end before the row before `first`.

    Raises:
        NotTextError: The file is empty, unreadable or damaged, or has no such column.
        DataError: A package is missing.
    """
    number = 0
    with _arrow_batches(file) as (schema, batches):
        if field not in schema.names:
            raise no_field(f"{file}", field, schema.names)
        column = schema.names.index(field)
        for batch, begin, end in batches:
            if number + batch.num_rows < first - 1:
                number += batch.num_rows
                continue
            for passed, value in enumerate(_column(batch, column), 1):
                number += 1
                yield Row(number, value, begin + (end - begin) * passed // batch.num_rows)


def _check_parquet(file: Path) -> None:
    with _parquet(file):
        pass


def _check_arrow(file: Path) -> None:
    with _arrow_batches(file) as (_, batches):
        for _ in batches:
            pass


def _value(scalar: Any, place: str, field: str, errors: str) -> object:  # noqa: ARG001
    """What a cell holds, where bytes count as UTF-8 text.

    Raises:
        NotTextError: Its bytes are not UTF-8, if strict.
    """
    value = scalar.as_py()
    return decoded(value, place, errors) if isinstance(value, bytes) else value


PARQUET = RowFormat("row", _parquet_rows, _value, _check_parquet)
ARROW = RowFormat("row", _arrow_rows, _value, _check_arrow)


@contextmanager
def _parquet(file: Path) -> Iterator[tuple[Any, int]]:
    """A `pyarrow.parquet.ParquetFile` that reads by pages, and the file's size as stored."""
    _need_pyarrow(file, "parquet")
    from pyarrow.parquet import ParquetFile

    with _seekable(file) as (stream, size), _faults(file):
        # Without buffers of its own, pyarrow holds a whole row group, which may be the file.
        yield ParquetFile(stream, buffer_size=_BUFFER_BYTES, pre_buffer=False), size


@contextmanager
def _arrow_batches(file: Path) -> Iterator[tuple[Any, Iterator[tuple[Any, int, int]]]]:
    """The schema and the batches, each with the bytes as stored that are read before and after."""
    _need_pyarrow(file, "hf")
    import pyarrow

    with _seekable(file) as (stream, size), _faults(file):
        content = pyarrow.py_buffer(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        source = pyarrow.BufferReader(content)
        if content[: len(_FILE_MAGIC)].to_pybytes() == _FILE_MAGIC:
            table = pyarrow.ipc.open_file(source)
            count = table.num_record_batches
            yield (
                table.schema,
                (
                    (table.get_batch(number), size * number // count, size * (number + 1) // count)
                    for number in range(count)
                ),
            )
        else:
            stream_of_batches = pyarrow.ipc.open_stream(source)
            yield stream_of_batches.schema, _streamed(stream_of_batches, source, size)


def _streamed(batches: Any, source: Any, size: int) -> Iterator[tuple[Any, int, int]]:
    whole = source.size()
    begin = 0
    for batch in batches:
        end = size * source.tell() // whole
        yield batch, begin, end
        begin = end


@contextmanager
def _seekable(file: Path) -> Iterator[tuple[BufferedReader | IO[bytes], int]]:
    """The content of a file, decompressed into another where it must be, and its size as stored."""
    with ExitStack() as stack:
        stored = stack.enter_context(opened_as_stored(file))
        content = decompressed(file, stored)
        size = Path(file).stat().st_size
        if not compression(file):
            yield content, size
            return
        whole = stack.enter_context(TemporaryFile())
        shutil.copyfileobj(content, whole)
        whole.flush()
        yield whole, size


@contextmanager
def _faults(file: Path) -> Iterator[None]:
    """What pyarrow, or a map of no bytes, finds wrong with a file."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, ValueError) as error:
        raise damaged(file, error) from None


def _need_pyarrow(file: Path, extra: str) -> None:
    try:
        import pyarrow.ipc  # noqa: F401
    except ImportError:
        raise DataError(
            f"{file} needs the package pyarrow; run pip install 'gptlab[{extra}]'"
        ) from None


def _column(batch: Any, index: int) -> Any:
    """A column whose strings are bytes: pyarrow decodes no invalid UTF-8.

    Raises:
        pyarrow.ArrowInvalid: It points outside of its buffers, as in a damaged file.
    """
    import pyarrow

    column = batch.column(index)
    if pyarrow.types.is_dictionary(column.type):
        column.validate(full=True)
        column = column.dictionary_decode()
    if pyarrow.types.is_string(column.type):
        column = column.view(pyarrow.binary())
    elif pyarrow.types.is_large_string(column.type):
        column = column.view(pyarrow.large_binary())
    column.validate(full=True)
    return column
