"""A stream of documents to a dataset on disk, which can be taken up again where it was left.

    tokens      d0 d0 d0 | d1 | d2 d2 d2 d2 ...        in shards of `shard_tokens`
    documents   3          4    8                      the tokens up to and with each one's end

What is before the end of a document stays. What is behind the last end can be taken back.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gptlab.data.shard_files import (
    HEADER_BYTES,
    VERSION,
    GrowingFile,
    header_digest,
    make_header,
    read_header,
    too_short,
)
from gptlab.data.shards import DOCUMENTS, END_DTYPE, FORMAT, MANIFEST, SHARD_TOKENS
from gptlab.data.staging import flush, writing
from gptlab.errors import DataError
from gptlab.tokenizer.base import token_dtype

_BUFFERED_TOKENS = 1 << 17


class DatasetWriter:
    """Writes documents into the files of a dataset.

    Nothing is a dataset before `finish`. Until then a folder can be taken up again with `resume`,
    from the last `state` that was kept, even after a kill.

    Args:
        folder: Where to; it is made if it is missing, and what a writer left there goes.
        vocab_size: Every id is below it.
        shard_tokens: Tokens in a file.
        tokens: Tokens that are there already, to go on behind them; what follows them goes.
        documents: Documents that have ended among them.
        name: What errors call the dataset, where the folder is a temporary one.

    Raises:
        DataError: The folder can't be written, or has fewer tokens than it should.
    """

    def __init__(
        self,
        folder: Path,
        *,
        vocab_size: int,
        shard_tokens: int = SHARD_TOKENS,
        tokens: int = 0,
        documents: int = 0,
        name: Path | None = None,
    ) -> None:
        self.tokens, self.documents = tokens, documents
        self._folder, self._name = folder, name or folder
        self._vocab_size, self._shard_tokens = vocab_size, shard_tokens
        self._dtype = token_dtype(vocab_size)
        self._pending: list[npt.NDArray[Any]] = []
        self._ends: list[int] = []
        self._written = tokens
        self._digests: list[str] = []
        self._shard: GrowingFile | None = None
        with writing(self._name):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / MANIFEST).unlink(missing_ok=True)
            self._documents = GrowingFile(
                folder / DOCUMENTS, width=END_DTYPE.itemsize, count=documents
            )
            self._documents.cut()
            self._document_start = self._documents.last_item()
            for number in range(tokens // shard_tokens):
                self._digests.append(self._sealed_digest(number))
            self._go_to(tokens)
            if self._shard is not None:
                self._shard.cut()
            self._remove_surplus()

    @classmethod
    def resume(
        cls, folder: Path, state: Mapping[str, Any], *, name: Path | None = None
    ) -> "DatasetWriter":
        """A writer that goes on exactly where another one was when it gave `state`.

        Where a document was open, the same pieces have to follow, or the same `roll_back`.

        Raises:
            DataError: The files are missing or shorter than the state says.
        """
        return cls(folder, **state, name=name)

    def write(self, ids: npt.ArrayLike) -> None:
        """Append `ids`, (n,) integers, to the open document.

        Raises:
            DataError: The disk is full, or an id is outside the vocabulary.
        """
        array = np.asarray(ids)
        if not array.size:
            return
        self._pending.append(array)
        self.tokens += array.size
        if self.tokens - max(self._document_start, self._written) >= _BUFFERED_TOKENS:
            self._write_pending()

    def end_document(self) -> None:
        """End the open document, which may be empty; it can't be taken back any more."""
        self._document_start = self.tokens
        self.documents += 1
        self._ends.append(self.tokens)
        if max(self.tokens - self._written, len(self._ends)) >= _BUFFERED_TOKENS:
            self._write_pending()

    def roll_back(self) -> None:
        """Forget what was written since a document ended last."""
        while self._pending and self.tokens > self._document_start:
            self.tokens -= self._pending.pop().size
        if self.tokens > self._document_start:
            with writing(self._name):
                # Nothing is cut off: a state that was kept may need it, if only to get here again.
                self._go_to(self._document_start)
            self.tokens = self._document_start

    def state(self) -> dict[str, int]:
        """Where the writer is, for `resume`; everything before it is in the files then."""
        self._write_pending()
        return {
            "vocab_size": self._vocab_size,
            "shard_tokens": self._shard_tokens,
            "tokens": self.tokens,
            "documents": self.documents,
        }

    def finish(self, **facts: Any) -> None:
        """Write headers and, last of all, the manifest, with `facts` in it.

        An open document ends here. Readers need the facts `tokenizer`, its fingerprint, and `bytes`
        and `characters`, the size of the text.

        Raises:
            DataError: The disk is full.
        """
        if self.tokens > self._document_start:
            self.end_document()
        self._write_pending()
        with writing(self._name):
            if self._shard is not None:
                self._seal_shard()
            ends = {"file": DOCUMENTS, "count": self.documents, "sha256": self._documents.seal()}
            self._remove_surplus()
            manifest = {
                "format": FORMAT,
                "version": VERSION,
                "dtype": self._dtype.name,
                "tokens": self.tokens,
                "documents": self.documents,
                "vocab_size": self._vocab_size,
                **facts,
                "shards": [
                    {"file": path.name, "tokens": count, "sha256": digest}
                    for (path, count), digest in zip(self._shards(), self._digests, strict=True)
                ],
                "document_ends": ends,
            }
            for path in [*(path for path, _ in self._shards()), self._folder / DOCUMENTS]:
                flush(path)
            partial = self._folder / f"{MANIFEST}.partial"
            partial.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
            flush(partial)
            partial.replace(self._folder / MANIFEST)
            flush(self._folder)

    def _write_pending(self) -> None:
        pending = np.concatenate(self._pending) if self._pending else np.empty(0, self._dtype)
        if pending.size:
            lowest, highest = int(pending.min()), int(pending.max())
            if lowest < 0 or highest >= self._vocab_size:
                raise DataError(
                    f"token {lowest if lowest < 0 else highest} is outside the vocabulary of "
                    f"{self._vocab_size}; give the tokenizer that made it"
                )
        with writing(self._name):
            self._append(pending.astype(self._dtype, copy=False))
            self._documents.append(np.array(self._ends, END_DTYPE))
        self._pending, self._ends = [], []

    def _append(self, tokens: npt.NDArray[Any]) -> None:
        while tokens.size:
            shard = self._shard = self._shard or self._open_shard(count=0)
            piece = tokens[: self._shard_tokens - shard.count]
            shard.append(piece)
            self._written += piece.size
            if shard.count == self._shard_tokens:
                self._seal_shard()
            tokens = tokens[piece.size :]

    def _go_to(self, position: int) -> None:
        if self._shard is not None:
            self._shard.close()
        full, count = divmod(position, self._shard_tokens)
        del self._digests[full:]
        self._shard = self._open_shard(count=count) if count else None
        self._written = position

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
        if size < HEADER_BYTES + self._shard_tokens * width:
            raise too_short(path)
        header = read_header(path)
        digest = header_digest(header)
        if header != make_header(width=width, count=self._shard_tokens, sha256=digest):
            raise DataError(f"{path} is damaged, so this can't go on; prepare the data anew")
        return digest

    def _shards(self) -> list[tuple[Path, int]]:
        """Name and number of tokens of each shard."""
        counts = range(0, self.tokens, self._shard_tokens)
        return [
            (self._path(number), min(self._shard_tokens, self.tokens - start))
            for number, start in enumerate(counts)
        ]

    def _remove_surplus(self) -> None:
        keep = {path for path, _ in self._shards()}
        for path in self._folder.glob("tokens-*.bin"):
            if path not in keep:
                path.unlink()

    def _path(self, number: int) -> Path:
        return self._folder / f"tokens-{number:05d}.bin"
