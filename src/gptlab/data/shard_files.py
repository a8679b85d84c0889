"""One file of a dataset: a header, then items of one width.

The header has 64 bytes: `GPTLABTK`, the version, the bytes of an item (uint32 each), the number of
items (uint64), the SHA-256 of all that follows the header, and 8 zeros, little-endian.
"""

import hashlib
import os
import struct
from pathlib import Path
from typing import Any

import numpy.typing as npt

from gptlab.errors import DataError

VERSION = 2
HEADER_BYTES = 64
_HEADER = struct.Struct("<8sIIQ32s8x")
_MAGIC = b"GPTLABTK"
_BLOCK = 1 << 20


def make_header(*, width: int, count: int, sha256: str) -> bytes:
    """The header of a file with `count` items of `width` bytes."""
    return _HEADER.pack(_MAGIC, VERSION, width, count, bytes.fromhex(sha256))


def read_header(path: Path) -> bytes:
    """The header as it stands in the file; shorter where the file is."""
    with path.open("rb") as stream:
        return stream.read(HEADER_BYTES)


def header_digest(header: bytes) -> str:
    """The checksum that a header has, in hex."""
    return str(_HEADER.unpack(header)[4].hex())


def digest_payload(path: Path) -> str:
    """SHA-256 of what follows the header, in hex."""
    with path.open("rb", buffering=0) as stream:
        stream.seek(HEADER_BYTES)
        return hashlib.file_digest(stream, "sha256").hexdigest()


def too_short(path: Path) -> DataError:
    """The error of a file that has less than was written."""
    return DataError(f"{path} is missing or shorter than it was")


class GrowingFile:
    """A file that is written item by item, and its digest all the while.

    Args:
        path: The file, which is made if `count` is 0.
        width: Bytes of an item.
        count: Items after which to go on; what follows them is overwritten.

    Raises:
        DataError: There are fewer items.
    """

    def __init__(self, path: Path, *, width: int, count: int) -> None:
        self.count = count
        self._width = width
        self._sha256 = hashlib.sha256()
        if not count:
            path.touch()
        elif not path.is_file() or path.stat().st_size < HEADER_BYTES + count * width:
            raise too_short(path)
        # Unbuffered, so that a kill loses nothing that was written.
        self._stream = path.open("r+b", buffering=0)
        self._stream.seek(HEADER_BYTES)
        missing = count * width
        while missing:
            block = self._stream.read(min(missing, _BLOCK))
            self._sha256.update(block)
            missing -= len(block)

    def append(self, items: npt.NDArray[Any]) -> None:
        """Write (n,) items of `width` bytes."""
        data = memoryview(items.tobytes())
        self._sha256.update(data)
        self.count += items.size
        while data:
            data = data[self._stream.write(data) :]

    def last_item(self) -> int:
        """The last item as an integer; 0 if there is none."""
        if not self.count:
            return 0
        self._stream.seek(-self._width, os.SEEK_END)
        return int.from_bytes(self._stream.read(self._width), "little")

    def cut(self) -> None:
        """Take away what is behind the last item."""
        self._stream.truncate(HEADER_BYTES + self.count * self._width)

    def seal(self) -> str:
        """Write the header and close the file; the digest in hex."""
        digest = self._sha256.hexdigest()
        self.cut()
        self._stream.seek(0)
        self._stream.write(make_header(width=self._width, count=self.count, sha256=digest))
        self.close()
        return digest

    def close(self) -> None:
        """Close the file without a header."""
        self._stream.close()
