"""The files of one kind in a dataset: items of one width, cut into shards, as they are written.

tokens-00000.bin  tokens-00001.bin  ...
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gptlab.data.shard_files import (
    HEADER_BYTES,
    GrowingFile,
    header_digest,
    make_header,
    read_header,
    too_short,
)
from gptlab.errors import DataError


class ShardSeries:
    """Shards that are written one after another.

    Args:
        folder: Where they are.
        prefix: What their names begin with.
        dtype: Of the items.
        shard_items: Items in a file.
        count: Items that are there already, to go on behind them; what follows them goes.

    Raises:
        DataError: There are fewer, or a full shard is damaged.
    """

    def __init__(
        self, folder: Path, *, prefix: str, dtype: np.dtype[Any], shard_items: int, count: int
    ) -> None:
        self.written = count
        self._folder, self._prefix = folder, prefix
        self._dtype, self._shard_items = dtype, shard_items
        self._digests = [self._sealed_digest(number) for number in range(count // shard_items)]
        self._shard: GrowingFile | None = None
        self.go_to(count)
        if self._shard is not None:
            self._shard.cut()
        self._remove_surplus()

    def append(self, items: npt.NDArray[Any]) -> None:
        """Write (n,) items behind the last."""
        items = items.astype(self._dtype, copy=False)
        while items.size:
            shard = self._shard = self._shard or self._open_shard(count=0)
            piece = items[: self._shard_items - shard.count]
            shard.append(piece)
            self.written += piece.size
            if shard.count == self._shard_items:
                self._seal_shard()
            items = items[piece.size :]

    def go_to(self, position: int) -> None:
        """Go on behind the first `position` items; nothing is cut off yet."""
        if self._shard is not None:
            self._shard.close()
        full, count = divmod(position, self._shard_items)
        del self._digests[full:]
        self._shard = self._open_shard(count=count) if count else None
        self.written = position

    def finish(self) -> list[tuple[Path, int, str]]:
        """Close all with headers; the name, number of items and digest of each."""
        if self._shard is not None:
            self._seal_shard()
        self._remove_surplus()
        return [
            (path, count, digest)
            for (path, count), digest in zip(self._shards(), self._digests, strict=True)
        ]

    def _open_shard(self, *, count: int) -> GrowingFile:
        path = self._path(len(self._digests))
        return GrowingFile(path, width=self._dtype.itemsize, count=count)

    def _seal_shard(self) -> None:
        assert self._shard is not None
        self._digests.append(self._shard.seal())
        self._shard = None

    def _sealed_digest(self, number: int) -> str:
        """The checksum that was written into the header when the shard was full."""
        path, width = self._path(number), self._dtype.itemsize
        size = path.stat().st_size if path.is_file() else 0
        if size < HEADER_BYTES + self._shard_items * width:
            raise too_short(path)
        header = read_header(path)
        digest = header_digest(header)
        if header != make_header(width=width, count=self._shard_items, sha256=digest):
            raise DataError(f"{path} is damaged, so this can't go on; prepare the data anew")
        return digest

    def _shards(self) -> list[tuple[Path, int]]:
        """Name and number of items of each shard."""
        counts = range(0, self.written, self._shard_items)
        return [
            (self._path(number), min(self._shard_items, self.written - start))
            for number, start in enumerate(counts)
        ]

    def _remove_surplus(self) -> None:
        keep = {path for path, _ in self._shards()}
        for path in self._folder.glob(f"{self._prefix}-*.bin"):
            if path not in keep:
                path.unlink()

    def _path(self, number: int) -> Path:
        return self._folder / f"{self._prefix}-{number:05d}.bin"
