"""What the parent process does with examined items: it keeps, counts and writes them in order."""

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from io import BufferedRandom
from pathlib import Path
from typing import Any

from gptlab.config import PrepareConfig
from gptlab.corpus.duplicates import Duplicates
from gptlab.data.preparation.examine import Examined
from gptlab.data.preparation.journal import Journal
from gptlab.data.preparation.reading import DEV, NOT_DRAWN, TRAIN
from gptlab.data.shard_writer import DatasetWriter
from gptlab.errors import DataError
from gptlab.tokenizer import Tokenizer

REJECTS = "rejects.jsonl"
_SEEN = "seen"


@dataclass
class Counts:
    """What has been read, kept and left out."""

    documents: int = 0
    """Read, whatever became of them."""
    bytes: int = 0
    """Of the text that was read, in UTF-8."""
    kept_documents: Counter[str] = field(default_factory=Counter)
    """By part: train or dev."""
    kept_characters: Counter[str] = field(default_factory=Counter)
    kept_bytes: Counter[str] = field(default_factory=Counter)
    answer_tokens: Counter[str] = field(default_factory=Counter)
    """The assistant's, in conversations."""
    control_tokens: Counter[str] = field(default_factory=Counter)
    """Kept documents that each stands in front of."""
    left_out: Counter[str] = field(default_factory=Counter)
    """By reason."""
    digest: str = ""
    """Of all that has been read."""

    @property
    def kept(self) -> int:
        """Documents in all parts."""
        return self.kept_documents.total()

    @classmethod
    def of(cls, values: dict[str, Any]) -> "Counts":
        """The counts whose fields are `values`, as JSON has kept them."""
        counters = {name: Counter(v) for name, v in values.items() if isinstance(v, dict)}
        return cls(**{**values, **counters})


class Collector:
    """Writes what is kept into a dataset for each part, and what is not into the rejects.

    Args:
        journal: Says where the datasets are made, and where to keep what is needed to go on.
        config: What is asked for.
        tokenizer: Made the ids.
        state: What `state` returned, in order to go on from there.

    Raises:
        DataError: The files do not go with `state`.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        config: PrepareConfig,
        tokenizer: Tokenizer,
        state: dict[str, Any] | None,
    ) -> None:
        self.folder = folder = journal.dataset
        self._config = config
        # A conversation ends as its template says.
        is_chat = config.chat_template is not None
        self._end = [] if tokenizer.eos_id is None or is_chat else [tokenizer.eos_id]
        self.counts = Counts() if state is None else Counts.of(state["counts"])
        self._document = _Document() if state is None else _Document.of(state["document"])
        parts = (TRAIN, DEV) if config.dev_size and config.split == "documents" else (TRAIN,)
        self.writers = {
            part: _writer(
                folder if part == TRAIN else folder / DEV,
                config,
                tokenizer,
                None if state is None else state["writers"][part],
            )
            for part in parts
        }
        self._rejects = _open_at(folder / REJECTS, None if state is None else state["rejects"])
        self._duplicates = None
        if config.drop_duplicates or config.near_duplicates is not None:
            self._duplicates = Duplicates(
                journal.work / _SEEN, exact=config.drop_duplicates, near=config.near_duplicates
            )
            if state is not None:
                self._duplicates.restore(state["seen"])

    @property
    def is_full(self) -> bool:
        """Whether no further document is wanted."""
        return self.counts.kept == self._config.max_documents

    def take(self, examined: Examined) -> None:
        """Note the next item, in the order of the sources."""
        item, document = examined.item, self._document
        if item.is_first:
            document = self._document = _Document()
        document.add(examined)
        is_whole = item.is_first and item.is_last
        if examined.ids is not None and not is_whole:
            self.writers[item.part].write(examined.ids, examined.mask)
        if not item.is_last:
            return
        reason, detail = self._verdict(examined)
        self._count(reason)
        if reason is not None:
            self.writers[item.part].roll_back()
            self._leave_out(item.name, reason, detail)
            return
        if examined.ids is not None and is_whole:
            self.writers[item.part].write(examined.ids, examined.mask)
        if examined.mask is not None:
            self.counts.answer_tokens[item.part] += int(examined.mask.sum())
        self._keep(item.part)

    def _verdict(self, examined: Examined) -> tuple[str | None, str]:
        """Why the document that ends here is left out, and a detail; None if it is not."""
        item = examined.item
        if item.reason is None and self._duplicates is not None:
            content = bytes.fromhex(self._document.content)
            found = self._duplicates.verdict(item.name, content, examined.signature)
            if found is not None:
                return found.reason, found.original
        return item.reason, item.detail

    def _count(self, reason: str | None) -> None:
        counts, document = self.counts, self._document
        counts.documents += 1
        counts.bytes += document.bytes
        line = f"{counts.digest} {document.content} {reason}"
        counts.digest = hashlib.sha256(line.encode()).hexdigest()

    def _keep(self, part: str) -> None:
        self.writers[part].write(self._end)
        self.writers[part].end_document()
        self.counts.kept_documents[part] += 1
        self.counts.kept_characters[part] += self._document.characters
        self.counts.kept_bytes[part] += self._document.bytes
        self.counts.control_tokens.update(self._document.control)

    def _leave_out(self, name: str, reason: str, detail: str) -> None:
        self.counts.left_out[reason] += 1
        # Nothing is wrong with what is not drawn, and there may be any number of it.
        if reason != NOT_DRAWN:
            line = {"document": name, "reason": reason} | ({"detail": detail} if detail else {})
            self._rejects.write(json.dumps(line).encode() + b"\n")

    def state(self) -> dict[str, Any]:
        """All that another collector needs to go on from here; what it holds is flushed."""
        self._rejects.flush()
        return {
            "counts": dict(vars(self.counts)),
            "document": asdict(self._document),
            "rejects": self._rejects.tell(),
            "seen": 0 if self._duplicates is None else self._duplicates.state(),
            "writers": {part: writer.state() for part, writer in self.writers.items()},
        }

    def first_detail(self) -> str:
        """What is wrong with the first document among the rejects, once they are closed."""
        with (self.folder / REJECTS).open(encoding="utf-8") as lines:
            return str(json.loads(next(lines, "{}")).get("detail", ""))

    def close(self) -> None:
        """Close the files of rejects and duplicates."""
        self._rejects.close()
        if self._duplicates is not None:
            self._duplicates.close()


@dataclass
class _Document:
    """The document whose parts are arriving."""

    content: str = ""
    """Digest of the text in hexadecimal; of a long one, that of its parts' digests."""
    characters: int = 0
    bytes: int = 0
    control: tuple[str, ...] = ()
    """Control tokens in front of it."""

    @classmethod
    def of(cls, values: dict[str, Any]) -> "_Document":
        """The document whose fields are `values`, as JSON has kept them."""
        return cls(**{**values, "control": tuple(values["control"])})

    def add(self, examined: Examined) -> None:
        """Note a further part."""
        content = examined.content
        if not examined.item.is_first:
            content = hashlib.blake2b(
                bytes.fromhex(self.content) + content, digest_size=len(content)
            ).digest()
        self.content = content.hex()
        self.control += examined.control
        self.characters += examined.characters
        self.bytes += examined.size


def _writer(
    folder: Path, config: PrepareConfig, tokenizer: Tokenizer, state: dict[str, Any] | None
) -> DatasetWriter:
    name = Path(str(config.output))
    if state is not None:
        return DatasetWriter.resume(folder, state, name=name)
    return DatasetWriter(
        folder,
        vocab_size=tokenizer.vocab_size,
        shard_tokens=config.shard_tokens,
        masked=config.chat_template is not None,
        name=name,
    )


def _open_at(path: Path, size: int | None) -> BufferedRandom:
    """The file, to be written on from `size`, or anew."""
    if size is None:
        return path.open("w+b")
    if not path.is_file() or path.stat().st_size < size:
        raise DataError(f"{path} is missing or shorter than it was")
    stream = path.open("r+b")
    stream.truncate(size)
    stream.seek(size)
    return stream
