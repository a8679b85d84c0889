"""Documents that equal an earlier one, or nearly so."""

import os
from collections.abc import Iterator
from io import SEEK_END
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from gptlab.corpus.signature import HASH_BYTES, NUM_PERMUTATIONS, Signature, datasketch
from gptlab.errors import DataError

_BATCH_ENTRIES = 4096

# Candidates are looked at again by their whole signatures, so that a needless one costs little.
_WEIGHTS = (0.1, 0.9)
# What datasketch has no answer for: a threshold so near to 1 that it would make a single band.
_LONGEST_BANDS = (2, NUM_PERMUTATIONS // 2)


class Duplicate(NamedTuple):
    """What a document is a duplicate of."""

    reason: str
    """Either "duplicate" or "near duplicate"."""
    original: str
    """Name of the first document that it equals or resembles."""


class Duplicates:
    """Compares documents with those before them, of which it remembers all that are new.

    With `near`, candidates come from locality-sensitive hashing (datasketch's MinHashLSH). Of those
    whose signature is equal in at least that share of its numbers, the first one remembered is the
    original. A pair that is alike to just that degree is missed in up to one case of five; one that
    is alike to 0.05 more, in one of 20. What resembles only a document that was left out is new.

    It keeps about 0.2 KB of memory for each document that is new and, with `near`, 11 KB at 0.5,
    5 KB at 0.8 or 2 KB at 0.95. Names and signatures are in files only: 24 bytes and the name for
    each document, with `near` 512 more.

    Args:
        folder: Where its files are; it is made if need be. They are not read, and written over,
            unless `restore` is called first.
        exact: Whether a document that equals another is a duplicate. With `near` it always is.
        near: From which Jaccard index of the shingles on a document is a near duplicate.

    Raises:
        DataError: `near` is given and the package datasketch is missing.
    """

    def __init__(self, folder: Path, *, exact: bool, near: float | None) -> None:
        self._near = near
        self._is_active = exact or near is not None
        self._index = None if near is None else _Index(near)
        self._store = _Store(folder, signed=near is not None)
        self._numbers: dict[bytes, int] = {}

    def verdict(
        self, name: str, content_hash: bytes, signature: Signature | None
    ) -> Duplicate | None:
        """Which earlier document a document repeats; None if it is new, and is remembered then.

        Args:
            name: How it is called where another one repeats it.
            content_hash: By `content_hash`.
            signature: By `signature`; needed with `near` only.
        """
        if not self._is_active:
            return None
        number = self._numbers.get(content_hash)
        if number is not None:
            return Duplicate("duplicate", self._store.name(number))
        if self._index is not None and signature is not None:
            number = self._nearest(self._index, signature)
            if number is not None:
                return Duplicate("near duplicate", self._store.name(number))
        self._remember(content_hash, signature)
        self._store.append(name, content_hash, signature)
        return None

    def state(self) -> int:
        """How many documents it remembers, all of which are on the disk now."""
        self._store.flush()
        return len(self._numbers)

    def restore(self, count: int) -> None:
        """Go on as after the first `count` documents that were remembered in this folder.

        Raises:
            DataError: The files hold fewer.
        """
        self._numbers.clear()
        if self._near is not None:
            self._index = _Index(self._near)
        for digest, signed in self._store.restored(count):
            self._remember(digest, signed)

    def close(self) -> None:
        """Close the files."""
        self._store.close()

    def _nearest(self, index: "_Index", signature: Signature) -> int | None:
        """The first document that was remembered among those that are alike enough."""
        for number in index.candidates(signature):
            same = np.count_nonzero(self._store.signature(number) == signature)
            if same / NUM_PERMUTATIONS >= index.threshold:
                return number
        return None

    def _remember(self, digest: bytes, signature: Signature | None) -> None:
        number = self._numbers[digest] = len(self._numbers)
        if self._index is not None:
            self._index.add(number, signature)


class _Index:
    """Finds numbers of documents that may be alike, by bands of their signatures."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        package = datasketch()
        self._make = package.LeanMinHash
        try:
            self._lsh = package.MinHashLSH(threshold, NUM_PERMUTATIONS, weights=_WEIGHTS)
        except ValueError:
            self._lsh = package.MinHashLSH(num_perm=NUM_PERMUTATIONS, params=_LONGEST_BANDS)

    def candidates(self, signature: Signature) -> list[int]:
        """The numbers in ascending order, whatever order datasketch has them in."""
        return sorted(self._lsh.query(self._sketch(signature)))

    def add(self, number: int, signature: Signature | None) -> None:
        self._lsh.insert(number, self._sketch(signature))

    def _sketch(self, signature: Signature | None) -> Any:
        return self._make(seed=1, hashvalues=signature, scheme="affine32")


class _Store:
    """Digests, signatures and names of documents, by number, in two files."""

    def __init__(self, folder: Path, *, signed: bool) -> None:
        fields: list[Any] = [("digest", f"V{HASH_BYTES}"), ("name_end", "<u8")]
        if signed:
            fields.append(("signature", "<u4", NUM_PERMUTATIONS))
        self._entry = np.dtype(fields)
        self._signed = signed
        self._count = self._name_end = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._paths = folder / "entries.bin", folder / "names.bin"
        for path in self._paths:
            path.touch()
        self._entries, self._names = (path.open("r+b") for path in self._paths)

    def append(self, name: str, digest: bytes, signature: Signature | None) -> None:
        data = name.encode("utf-8", "surrogatepass")
        self._names.seek(self._name_end)
        self._names.write(data)
        self._name_end += len(data)
        entry = np.zeros(1, self._entry)
        entry["digest"] = digest
        entry["name_end"] = self._name_end
        if self._signed:
            entry["signature"] = signature
        self._entries.seek(self._count * self._entry.itemsize)
        self._entries.write(entry.tobytes())
        self._count += 1

    def name(self, number: int) -> str:
        start = int(self._read(number - 1)["name_end"][0]) if number else 0
        self._names.seek(start)
        data = self._names.read(int(self._read(number)["name_end"][0]) - start)
        return data.decode("utf-8", "surrogatepass")

    def signature(self, number: int) -> Signature:
        signed: Signature = self._read(number)["signature"][0]
        return signed

    def flush(self) -> None:
        for file in (self._entries, self._names):
            file.flush()
            os.fsync(file.fileno())

    def restored(self, count: int) -> Iterator[tuple[bytes, Signature | None]]:
        """Digests and signatures of the first entries; what is behind them is cut off first."""
        self._cut(self._entries, count * self._entry.itemsize)
        self._count = count
        self._name_end = int(self._read(count - 1)["name_end"][0]) if count else 0
        self._cut(self._names, self._name_end)
        for start in range(0, count, _BATCH_ENTRIES):
            for entry in self._read(start, min(_BATCH_ENTRIES, count - start)):
                yield entry["digest"].tobytes(), entry["signature"] if self._signed else None

    def close(self) -> None:
        self._entries.close()
        self._names.close()

    def _cut(self, file: BinaryIO, size: int) -> None:
        found = file.seek(0, SEEK_END)
        if found < size:
            raise DataError(f"{file.name} is shorter than it was")
        file.truncate(size)

    def _read(self, start: int, count: int = 1) -> npt.NDArray[Any]:
        size = self._entry.itemsize
        self._entries.seek(start * size)
        return np.frombuffer(self._entries.read(count * size), self._entry)
