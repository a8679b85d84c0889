"""A stream of documents to a dataset on disk, which can be taken up again where it was left.

    tokens      d0 d0 d0 | d1 | d2 d2 d2 d2 ...        in shards of `shard_tokens`
    mask        0  1  1  | 0  | 0  0  1  1  ...        in as many, where there is one
    documents   3          4    8                      the tokens up to and with each one's end

What is before the end of a document stays. What is behind the last end can be taken back.
"""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gptlab.data.manifest import FORMAT, MANIFEST
from gptlab.data.shard_files import VERSION, GrowingFile
from gptlab.data.shard_series import ShardSeries
from gptlab.data.shards import DOCUMENTS, END_DTYPE, MASK_DTYPE, SHARD_TOKENS
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
        masked: Whether each token comes with a mark that says whether it counts as a target.
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
        masked: bool = False,
        name: Path | None = None,
    ) -> None:
        self.tokens, self.documents = tokens, documents
        self._folder, self._name = folder, name or folder
        self._vocab_size, self._shard_tokens = vocab_size, shard_tokens
        self._dtype = token_dtype(vocab_size)
        self._pending: list[npt.NDArray[Any]] = []
        self._pending_marks: list[npt.NDArray[Any]] = []
        self._ends: list[int] = []
        with writing(self._name):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / MANIFEST).unlink(missing_ok=True)
            self._documents = GrowingFile(
                folder / DOCUMENTS, width=END_DTYPE.itemsize, count=documents
            )
            self._documents.cut()
            self._document_start = self._documents.last_item()
            series = partial(ShardSeries, folder, shard_items=shard_tokens, count=tokens)
            self._shards = series(prefix="tokens", dtype=self._dtype)
            self._marks = series(prefix="mask", dtype=MASK_DTYPE) if masked else None

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

    def write(self, ids: npt.ArrayLike, mask: npt.ArrayLike | None = None) -> None:
        """Append `ids`, (n,) integers, to the open document.

        Args:
            ids: The tokens.
            mask: (n,), 1 where a token counts as a target, else 0; for a masked dataset alone.

        Raises:
            DataError: The disk is full, or an id is outside the vocabulary.
        """
        array = np.asarray(ids)
        if not array.size:
            return
        assert (mask is None) == (self._marks is None), "a mask goes with a masked dataset"
        if mask is not None:
            marks = np.asarray(mask)
            assert marks.shape == array.shape, "a mark for each token"
            self._pending_marks.append(marks)
        self._pending.append(array)
        self.tokens += array.size
        if self.tokens - max(self._document_start, self._shards.written) >= _BUFFERED_TOKENS:
            self._write_pending()

    def end_document(self) -> None:
        """End the open document, which may be empty; it can't be taken back any more."""
        self._document_start = self.tokens
        self.documents += 1
        self._ends.append(self.tokens)
        if max(self.tokens - self._shards.written, len(self._ends)) >= _BUFFERED_TOKENS:
            self._write_pending()

    def roll_back(self) -> None:
        """Forget what was written since a document ended last."""
        while self._pending and self.tokens > self._document_start:
            self.tokens -= self._pending.pop().size
            if self._marks is not None:
                self._pending_marks.pop()
        if self.tokens > self._document_start:
            with writing(self._name):
                # Nothing is cut off: a state that was kept may need it, if only to get here again.
                for series in self._series():
                    series.go_to(self._document_start)
            self.tokens = self._document_start

    def state(self) -> dict[str, int]:
        """Where the writer is, for `resume`; everything before it is in the files then."""
        self._write_pending()
        return {
            "vocab_size": self._vocab_size,
            "shard_tokens": self._shard_tokens,
            "tokens": self.tokens,
            "documents": self.documents,
            "masked": self._marks is not None,
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
            shards, files = self._finished()
            ends = {"file": DOCUMENTS, "count": self.documents, "sha256": self._documents.seal()}
            manifest = {
                "format": FORMAT,
                "version": VERSION,
                "dtype": self._dtype.name,
                "tokens": self.tokens,
                "documents": self.documents,
                "vocab_size": self._vocab_size,
                **facts,
                "shards": shards,
                "document_ends": ends,
            }
            for path in [*files, self._folder / DOCUMENTS]:
                flush(path)
            partial = self._folder / f"{MANIFEST}.partial"
            partial.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
            flush(partial)
            partial.replace(self._folder / MANIFEST)
            flush(self._folder)

    def _series(self) -> list[ShardSeries]:
        return [self._shards] if self._marks is None else [self._shards, self._marks]

    def _finished(self) -> tuple[list[dict[str, Any]], list[Path]]:
        """What the manifest says of the shards, and all their files."""
        tokens = self._shards.finish()
        shards: list[dict[str, Any]] = [
            {"file": path.name, "tokens": count, "sha256": digest} for path, count, digest in tokens
        ]
        marks = [] if self._marks is None else self._marks.finish()
        for shard, (path, _, digest) in zip(shards, marks, strict=False):
            shard["mask"] = {"file": path.name, "sha256": digest}
        return shards, [path for path, _, _ in [*tokens, *marks]]

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
            self._shards.append(pending)
            if self._marks is not None and self._pending_marks:
                self._marks.append(np.concatenate(self._pending_marks))
            self._documents.append(np.array(self._ends, END_DTYPE))
        self._pending, self._pending_marks, self._ends = [], [], []
