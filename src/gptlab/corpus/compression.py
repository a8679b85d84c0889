"""A file's bytes, decompressed while they are read."""

import errno
import os
import stat
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from gzip import GzipFile
from io import SEEK_CUR, BufferedReader, RawIOBase
from pathlib import Path
from typing import TYPE_CHECKING

from gptlab.errors import DataError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

PIECE_BYTES = 1 << 18

# zstd makes 128 KiB at most of a block, and a block takes 4 bytes at least: so 32 MiB at worst.
_ZSTD_BYTES = 1024

_MACHINE_FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM}


class NotTextError(DataError):
    """A file or a row of it is no text that can be read."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason
        """The kind of fault in a word or two, for counting, as in "damaged"."""

    def __reduce__(self) -> tuple[object, ...]:
        """Lets it pass from process to process, which a keyword would not by itself."""
        return partial(NotTextError, reason=self.reason), self.args


def compression(file: Path) -> str:
    """The suffix of a compressed file, as in ".gz"; empty for others."""
    suffix = file.suffix.lower()
    return suffix if suffix in _DECOMPRESSORS else ""


@contextmanager
def opened_as_stored(file: Path) -> Iterator[BufferedReader]:
    """The bytes of a file as they are on disk.

    Raises:
        NotTextError: The file can't be opened, or what is done with it finds it unreadable.
        OSError: The machine lacks space, memory or open files, which says nothing of the file.
    """
    try:
        _refuse_irregular(file)
        with file.open("rb") as stream:
            yield stream
    except (OSError, EOFError, zlib.error) as error:
        if isinstance(error, OSError) and error.strerror:
            raise_if_of_machine(error)
            gone = isinstance(error, FileNotFoundError | NotADirectoryError)
            raise NotTextError(
                f"{file} can't be read: {error.strerror}", reason="gone" if gone else "unreadable"
            ) from None
        raise damaged(file, error) from None


def raise_if_of_machine(error: OSError) -> None:
    """Tell a fault of this machine at this time from one of what it reads.

    Raises:
        OSError: The machine lacks space, memory or open files.
    """
    if error.errno in _MACHINE_FAULTS:
        raise error


def _refuse_irregular(file: Path) -> None:
    """Find out by name alone what is not read; to open a pipe would wait for whoever writes it.

    Raises:
        NotTextError: It is a link to a folder, a pipe, a socket or a device.
    """
    mode = file.stat().st_mode
    if stat.S_ISDIR(mode) and file.is_symlink():
        raise NotTextError(
            f"{file} is a link to a folder; name the folder itself to read it",
            reason="link to a folder",
        )
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        raise NotTextError(
            f"{file} is no regular file; write the text to a file first", reason="no regular file"
        )


@contextmanager
def opened(file: Path) -> Iterator[BufferedReader]:
    """The bytes of a file, decompressed.

    Raises:
        NotTextError: As for `opened_as_stored`, or the file is empty.
        DataError: The package that decompresses the file is missing.
    """
    with opened_as_stored(file) as stored:
        yield decompressed(file, stored)


def decompressed(file: Path, stored: BufferedReader) -> BufferedReader:
    """The content of a file that is open as it is stored.

    Raises:
        NotTextError: The file is empty.
        DataError: The package that decompresses the file is missing.
    """
    if os.fstat(stored.fileno()).st_size == 0:
        raise empty(file)
    decompressor = _DECOMPRESSORS.get(compression(file))
    return stored if decompressor is None else decompressor(stored)


def damaged(file: Path, reason: object) -> NotTextError:
    """The error of a file whose format is broken."""
    shown = " ".join(str(reason).split())
    return NotTextError(
        f"{file} is damaged ({shown}); replace it with a whole copy", reason="damaged"
    )


def empty(file: Path) -> NotTextError:
    """The error of a file without content."""
    return NotTextError(f"{file} is empty; give a file with text in it", reason="empty")


def pieces(stream: BufferedReader, count: int | None = None) -> Iterator[bytes]:
    """The next `count` bytes of a stream, or all that follow, at most 256 KiB at a time."""
    left = sys.maxsize if count is None else count
    while data := stream.read(min(left, PIECE_BYTES)):
        left -= len(data)
        yield data


def skip(stream: BufferedReader, count: int) -> None:
    """Move on by `count` bytes, by reading them where the stream can't seek."""
    if stream.seekable():
        stream.seek(count, SEEK_CUR)
    else:
        for _ in pieces(stream, count):
            pass


def _gzip(stored: BufferedReader) -> BufferedReader:
    """The content of all members. Read piece by piece, what comes before a damage is not lost."""
    pieces = iter(partial(GzipFile(fileobj=stored).read1, PIECE_BYTES), b"")
    return BufferedReader(_PieceReader(pieces), PIECE_BYTES)


def _zstd(stored: BufferedReader) -> BufferedReader:
    return BufferedReader(_PieceReader(_zstd_pieces(stored)), PIECE_BYTES)


def _zstd_pieces(stored: BufferedReader) -> Iterator[bytes]:
    """The content of all frames. zstandard's own reader takes a cut-off file for a whole one."""
    try:
        import zstandard
    except ImportError:
        raise DataError(
            f"{stored.name} needs the package zstandard; run pip install 'gptlab[zst]'"
        ) from None
    frame = zstandard.ZstdDecompressor().decompressobj()
    try:
        while rest := stored.read(_ZSTD_BYTES):
            while rest:
                if frame.eof:
                    frame = zstandard.ZstdDecompressor().decompressobj()
                yield frame.decompress(rest)
                rest = frame.unused_data
    except zstandard.ZstdError as error:
        raise OSError(str(error)) from None
    if not frame.eof:
        raise EOFError("it ends within a frame")


class _PieceReader(RawIOBase):
    """Pieces of bytes as a stream."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        target = memoryview(buffer).cast("B")
        count = min(len(target), len(self._rest))
        target[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


_DECOMPRESSORS: dict[str, Callable[[BufferedReader], BufferedReader]] = {
    ".gz": _gzip,
    ".zst": _zstd,
}
