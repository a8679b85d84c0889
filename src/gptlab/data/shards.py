"""Tokens on disk: raw little-endian arrays with a manifest, read through a memory map.

A prepared dataset is a folder with `manifest.json` and `tokens-00000.bin`, `tokens-00001.bin`, ...
Each shard is a plain array of uint16, or of uint32 where the vocabulary needs it, and nothing else.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gptlab.errors import DataError

MANIFEST = "manifest.json"
FORMAT = "gptlab-tokens"
VERSION = 1
SHARD_TOKENS = 1 << 27
_DTYPES: dict[str, np.dtype[Any]] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}

Int64Array = npt.NDArray[np.int64]


class ShardWriter:
    """Writes a stream of token ids into shards of at most `shard_tokens`."""

    def __init__(self, folder: Path, *, vocab_size: int, shard_tokens: int = SHARD_TOKENS) -> None:
        self._dtype_name = "uint16" if vocab_size <= 1 << 16 else "uint32"
        self.shards: list[dict[str, Any]] = []
        self._folder = folder
        self._shard_tokens = shard_tokens

    def write(self, ids: npt.ArrayLike) -> None:
        """Append `ids`, (n,) integers, to the stream."""
        tokens = np.asarray(ids, dtype=_DTYPES[self._dtype_name])
        while tokens.size:
            if not self.shards or self.shards[-1]["tokens"] == self._shard_tokens:
                name = f"tokens-{len(self.shards):05d}.bin"
                self.shards.append({"file": name, "tokens": 0})
            shard = self.shards[-1]
            piece = tokens[: self._shard_tokens - shard["tokens"]]
            with (self._folder / shard["file"]).open("ab") as stream:
                stream.write(piece.tobytes())
            shard["tokens"] += piece.size
            tokens = tokens[piece.size :]

    def finish(self, **facts: Any) -> None:
        """Write the manifest, with `facts` about the source in it."""
        for shard in self.shards:
            with (self._folder / shard["file"]).open("rb") as stream:
                shard["sha256"] = hashlib.file_digest(stream, "sha256").hexdigest()
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "dtype": self._dtype_name,
            "tokens": sum(shard["tokens"] for shard in self.shards),
            **facts,
            "shards": self.shards,
        }
        (self._folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


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
        self.manifest = _read_manifest(self.folder)
        if tokenizer is not None and self.manifest["tokenizer"] != tokenizer:
            raise DataError(
                f"{self.folder} was prepared with another tokenizer "
                f"({self.manifest['tokenizer'][:12]}, not {tokenizer[:12]}); "
                "give the tokenizer it was made with, or prepare it again"
            )
        dtype = _DTYPES[self.manifest["dtype"]]
        self._shards = [_map(self.folder, shard, dtype) for shard in self.manifest["shards"]]
        self._starts = np.cumsum([0, *(len(shard) for shard in self._shards)])

    def __len__(self) -> int:
        """Number of tokens."""
        return int(self._starts[-1])

    def fingerprint(self) -> str:
        """Hex digest of the tokens, as they were when they were written."""
        digests = "".join(shard["sha256"] for shard in self.manifest["shards"])
        return hashlib.sha256(digests.encode()).hexdigest()

    def read(self, start: int, length: int) -> Int64Array:
        """Tokens `start` to `start + length`, (length,) int64."""
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        pieces = []
        for shard, begin in zip(self._shards[first:], self._starts[first:], strict=False):
            pieces.append(shard[max(start - begin, 0) : start + length - begin])
            if begin + len(shard) >= start + length:
                break
        return np.concatenate(pieces).astype(np.int64)


def is_dataset(path: str | Path) -> bool:
    """Whether `path` is a folder with a manifest in it."""
    return (Path(path) / MANIFEST).is_file()


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}; prepare the data again") from None
    except ValueError:
        raise DataError(f"{path} is damaged; prepare the data again") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataError(f"{path} is not the manifest of a gptlab dataset; give its folder or text")
    if manifest.get("version", VERSION) != VERSION:
        raise DataError(
            f"{path} has version {manifest['version']}, but this gptlab reads version {VERSION}; "
            "prepare the data again"
        )
    if not _is_complete(manifest):
        raise DataError(f"{path} is damaged; prepare the data again")
    return manifest


def _is_complete(manifest: dict[str, Any]) -> bool:
    try:
        shards = [(shard["file"], shard["tokens"]) for shard in manifest["shards"]]
        texts = [manifest["tokenizer"], *(name for name, _ in shards)]
        texts += [shard["sha256"] for shard in manifest["shards"]]
        return (
            manifest["version"] == VERSION
            and manifest["dtype"] in _DTYPES
            and all(isinstance(text, str) for text in texts)
            and all(isinstance(tokens, int) for _, tokens in shards)
        )
    except (KeyError, TypeError):
        return False


def _map(folder: Path, shard: dict[str, Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    path = folder / shard["file"]
    size = path.stat().st_size if path.is_file() else -1
    if size != shard["tokens"] * dtype.itemsize:
        raise DataError(
            f"{path} is missing or damaged: {max(size, 0)} bytes, "
            f"not {shard['tokens'] * dtype.itemsize}; prepare the data again"
        )
    return np.memmap(path, dtype=dtype, mode="r")
