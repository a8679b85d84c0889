"""Tokens on disk: shards with a header each, the ends of the documents, and a manifest.

A prepared dataset is a folder:

    manifest.json        what it is, and the files of tokens in their order
    tokens-00000.bin     a header and the tokens, uint16, or uint32 where the vocabulary needs it
    tokens-00001.bin     ...
    mask-00000.bin       of conversations, for each token whether it counts as a target, uint8
    documents.bin        a header and, for each document, the tokens up to and with its end, uint64
    tokenizer/           the tokenizer that made it
    dev/                 a dataset of what was held out, where something was

`shard_files` says what a header is; `numpy.fromfile(path, dtype="<u2", offset=64)` skips it.
"""

import hashlib
import json
from collections.abc import Container
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gptlab.config.preparation import WindowConfig
from gptlab.data.manifest import DEV, DTYPES, MANIFEST, files_of, read_manifest
from gptlab.data.shard_files import (
    HEADER_BYTES,
    digest_payload,
    make_header,
    read_header,
)
from gptlab.errors import DataError
from gptlab.tokenizer.chat import ChatTemplate

DOCUMENTS = "documents.bin"
TOKENIZER = "tokenizer"
SHARD_TOKENS = 1 << 27
END_DTYPE: np.dtype[Any] = np.dtype("<u8")
MASK_DTYPE: np.dtype[Any] = np.dtype("<u1")

Int64Array = npt.NDArray[np.int64]
Shards = list[npt.NDArray[Any]]


class TokenDataset:
    """A prepared dataset, opened in constant time whatever its size.

    Args:
        folder: Where the manifest and the shards are.
        tokenizer: Fingerprint of the tokenizer that is to read them; any if None.

    Raises:
        DataError: There is no dataset, it is damaged, or another tokenizer made it.
    """

    def __init__(self, folder: str | Path, *, tokenizer: str | None = None) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        if tokenizer is not None and self.manifest["tokenizer"] != tokenizer:
            raise DataError(
                f"{self.folder} was prepared with another tokenizer "
                f"({self.manifest['tokenizer'][:12]}, not {tokenizer[:12]}); "
                "give the tokenizer it was made with, or prepare it again"
            )
        dtype, ends = DTYPES[self.manifest["dtype"]], self.manifest["document_ends"]
        shards = self.manifest["shards"]
        self._shards = [_map(self.folder, shard, shard["tokens"], dtype) for shard in shards]
        self._marks = [
            _map(self.folder, shard["mask"], shard["tokens"], MASK_DTYPE)
            for shard in shards
            if "mask" in shard
        ]
        self._starts = np.cumsum([0, *(len(shard) for shard in self._shards)])
        self.document_ends: npt.NDArray[np.uint64] = _map(
            self.folder, ends, ends["count"], END_DTYPE
        )
        if len(self) != (self.document_ends[-1] if ends["count"] else 0):
            raise _damaged(self.folder / ends["file"], "its last document ends elsewhere")

    def __len__(self) -> int:
        """Number of tokens."""
        return int(self._starts[-1])

    @property
    def num_documents(self) -> int:
        """Number of documents; `document_ends` has the tokens up to and with each one's end."""
        return len(self.document_ends)

    @property
    def windows(self) -> WindowConfig:
        """How training windows are to be cut from it."""
        return WindowConfig(**self.manifest.get("windows", {}))

    @property
    def held_out(self) -> dict[str, Any] | None:
        """Which windows are its own, where it shares its tokens with a held-out part."""
        return self.manifest.get("held_out")

    @property
    def dev(self) -> Path | None:
        """The dataset of what was held out for evaluation."""
        return self.folder / DEV if is_dataset(self.folder / DEV) else None

    @property
    def tokenizer(self) -> Path | None:
        """The folder of the tokenizer that made it, where it is kept with it."""
        return self.folder / TOKENIZER if (self.folder / TOKENIZER).is_dir() else None

    @property
    def is_masked(self) -> bool:
        """Whether some tokens do not count as targets; `read_marks` says which do."""
        return bool(self._marks)

    @property
    def chat_template(self) -> ChatTemplate | None:
        """How its conversations are written; None where it is of plain texts."""
        values = self.manifest.get("chat_template")
        return None if values is None else ChatTemplate(**values)

    def fingerprint(self) -> str:
        """Hex digest of the tokens, as they were written, and of how windows are cut from them."""
        files = files_of(self.manifest)
        content = [
            self.manifest["dtype"],
            [file["sha256"] for file in files],
            self.windows.model_dump(),
            self.held_out,
        ]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def read(self, start: int, length: int) -> Int64Array:
        """Tokens `start` to `start + length`, (length,) int64.

        Raises:
            IndexError: They are not all in the dataset.
        """
        return self.read_many([start], length).reshape(length)

    def read_many(self, starts: npt.ArrayLike, length: int) -> Int64Array:
        """Windows of `length` tokens, (n, length) int64, from each of `starts`, (n,) integers.

        Raises:
            IndexError: One of them is not wholly in the dataset.
        """
        return self._read_many(self._shards, starts, length)

    def read_marks(self, starts: npt.ArrayLike, length: int) -> Int64Array:
        """1 where each of these tokens counts as a target, else 0, as `read_many` reads them.

        Raises:
            IndexError: One of them is not in the dataset.
        """
        return self._read_many(self._marks, starts, length)

    def _read_many(self, shards: Shards, starts: npt.ArrayLike, length: int) -> Int64Array:
        begins = np.asarray(starts, dtype=np.int64)
        if begins.size:
            self._check(int(begins.min()), int(begins.max()), length)
        out = np.empty((len(begins), length), np.int64)
        numbers = self._starts.searchsorted(begins, side="right") - 1
        offsets = begins - self._starts[numbers]
        for row, number, offset in zip(out, numbers.tolist(), offsets.tolist(), strict=True):
            _copy(shards, number, offset, row)
        return out

    def verify(self, *, known: Container[Path] = ()) -> frozenset[Path]:
        """Read everything and hold it against the checksums.

        Args:
            known: Files that were verified for a dataset that shares them; they are not read.

        Returns:
            All its files, as `known` of another dataset takes them.

        Raises:
            DataError: A file was changed; it is named.
        """
        files = files_of(self.manifest)
        resolved = [(self.folder / file["file"]).resolve() for file in files]
        for file, real in zip(files, resolved, strict=True):
            path = self.folder / file["file"]
            # The header, which was read, has the checksum of each dataset that shares the file.
            if real not in known and digest_payload(path) != file["sha256"]:
                raise _damaged(path, "its checksum is another")
        return frozenset(resolved)

    def _check(self, first: int, last: int, length: int) -> None:
        if first < 0 or length < 0 or last + length > len(self):
            place = first if first < 0 else last
            raise IndexError(
                f"tokens {place} to {place + length} are not all in {self.folder}, "
                f"which has {len(self)}"
            )


def is_dataset(path: str | Path) -> bool:
    """Whether `path` is a folder with a manifest in it."""
    return (Path(path) / MANIFEST).is_file()


def _damaged(path: Path, what: str) -> DataError:
    return DataError(f"{path} is missing or damaged: {what}; prepare the data again")


def _copy(shards: Shards, number: int, offset: int, out: Int64Array) -> None:
    """Fill `out` with the items from `offset` in shard `number` on."""
    done, length = 0, len(out)
    while done < length:
        piece = shards[number][offset : offset + length - done]
        out[done : done + len(piece)] = piece
        done, offset, number = done + len(piece), 0, number + 1


def _map(folder: Path, file: dict[str, Any], count: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    path = folder / file["file"]
    size = path.stat().st_size if path.is_file() else 0
    expected = HEADER_BYTES + count * dtype.itemsize
    if size != expected:
        raise _damaged(path, f"{size} bytes, not {expected}")
    header = make_header(width=dtype.itemsize, count=count, sha256=file["sha256"])
    if read_header(path) != header:
        raise _damaged(path, "its header does not fit the manifest")
    # A plain view: each slice of a memmap would take several times as long.
    return np.memmap(path, dtype=dtype, mode="r", offset=HEADER_BYTES, shape=(count,)).view(
        np.ndarray
    )
