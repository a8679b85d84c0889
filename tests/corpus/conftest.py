"""Containers of bytes: as they are, or compressed piece by piece."""

import gzip

import pytest
import zstandard

from gptlab.corpus import compression

COMPRESS = {
    "": lambda data: data,
    ".gz": lambda data: gzip.compress(data, 1),
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}


@pytest.fixture(params=COMPRESS)
def stored(request, tmp_path):
    """Writes members of a file, one after another, and returns its path."""

    def store(name, *members):
        path = tmp_path / f"{name}{request.param}"
        path.write_bytes(b"".join(map(COMPRESS[request.param], members)))
        return path

    return store


@pytest.fixture
def small_pieces(monkeypatch):
    """Makes borders between pieces fall everywhere."""
    monkeypatch.setattr(compression, "PIECE_BYTES", 3)
    monkeypatch.setattr(compression, "_ZSTD_BYTES", 5)
