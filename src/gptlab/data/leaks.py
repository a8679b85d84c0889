"""Which of the text for evaluation also stands in the text for training.

Every run of n tokens within a document of dev is looked for in the documents of train, as in
appendix C of Brown et al. 2020 (https://arxiv.org/abs/2005.14165), which takes n = 13 words.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gptlab.data.ngrams import collect_ngrams, count_tokens, first_places
from gptlab.data.shards import Int64Array, TokenDataset
from gptlab.errors import ConfigError, DataError

_BLOCK = 1 << 12


@dataclass(frozen=True)
class Leak:
    """A stretch of a document of dev that stands in a document of train as well."""

    dev_document: int
    """Its number, from 0."""
    train_document: int
    """The number of the document of train, from 0."""
    dev_start: int
    """Place of the stretch in dev: `dev.read(dev_start, length)` is the same as in train."""
    train_start: int
    length: int
    """Tokens of the stretch."""
    covered_tokens: int
    """Tokens of the whole document of dev that are in any run found in train."""


@dataclass(frozen=True)
class LeakReport:
    """How much of dev is in train."""

    n: int
    """Tokens of a run."""
    ngrams: int
    """Runs of n tokens in dev, each place counted."""
    leaked_ngrams: int
    """Those that are in train too."""
    tokens: int
    """Tokens of dev."""
    covered_tokens: int
    """Those that are in a run which is in train too."""
    documents: int
    """Documents of dev."""
    leaked_documents: int
    """Those with a run that is in train too."""
    examples: tuple[Leak, ...]
    """One for each of the documents with the most covered tokens, those first."""

    @property
    def share(self) -> float:
        """Share of the runs that are in train too."""
        return self.leaked_ngrams / self.ngrams if self.ngrams else 0.0

    @property
    def covered_share(self) -> float:
        """Share of the tokens that are in such a run."""
        return self.covered_tokens / self.tokens if self.tokens else 0.0


def find_leaks(
    train: TokenDataset, dev: TokenDataset, *, n: int = 13, examples: int = 5
) -> LeakReport:
    """Look for the runs of `n` tokens of `dev` in `train`, exactly.

    The token that ends a document is one of its tokens. Where both share their tokens, only what
    is in windows of their own counts. Takes memory in proportion to `dev`; `train` is read through
    once, block by block.

    Args:
        train: What a model is trained on.
        dev: What it is evaluated on.
        n: Tokens of a run.
        examples: Documents to report at most.

    Raises:
        ConfigError: `n` is less than 1.
        DataError: They were made with different tokenizers.
    """
    if n < 1:
        raise ConfigError(f"n is {n}; choose 1 or more")
    if train.manifest["tokenizer"] != dev.manifest["tokenizer"]:
        raise DataError(
            f"{train.folder} and {dev.folder} were prepared with different tokenizers, so their "
            "tokens can't be compared; prepare both with one"
        )
    wanted = collect_ngrams(dev, n)
    found = first_places(wanted, train)[wanted.groups]
    leaked = found >= 0
    # Where a run begins in dev and in train, for all that are in both.
    dev_places, train_places = wanted.places[leaked], found[leaked]
    covered = _covered(dev_places, n)
    documents, begins = np.unique(_document_of(dev, dev_places), return_index=True)
    sums = np.add.reduceat(covered, begins) if begins.size else begins
    ends = np.append(begins[1:], dev_places.size)
    worst = np.argsort(-sums, kind="stable")[: max(examples, 0)].tolist()
    parts = [slice(begins[i], ends[i]) for i in worst]
    return LeakReport(
        n=n,
        ngrams=wanted.places.size,
        leaked_ngrams=dev_places.size,
        tokens=count_tokens(dev),
        covered_tokens=int(covered.sum()),
        documents=dev.num_documents,
        leaked_documents=documents.size,
        examples=tuple(
            _example(train, dev, train_places[part], dev_places[part], n=n) for part in parts
        ),
    )


def _example(
    train: TokenDataset, dev: TokenDataset, train_places: Int64Array, dev_places: Int64Array, n: int
) -> Leak:
    """The longest stretch of a document of dev, of whose leaked runs these are the places."""
    train_documents = _document_of(train, train_places)
    breaks = (np.diff(dev_places) != 1) | (np.diff(train_places) != 1)
    breaks |= np.diff(train_documents) != 0
    begins = np.append(0, np.flatnonzero(breaks) + 1)
    lengths = np.diff(begins, append=dev_places.size) + n - 1
    longest = lengths.argmax()
    at = begins[longest]
    stretch = _Stretch(int(train_places[at]), int(dev_places[at]), int(lengths[longest]))
    train_document = int(train_documents[at])
    dev_document = int(_document_of(dev, dev_places[:1])[0])
    if dev.held_out is None:
        stretch = _extend(train, dev, train_document, dev_document, stretch)
    return Leak(
        dev_document=dev_document,
        train_document=train_document,
        dev_start=stretch.dev_start,
        train_start=stretch.train_start,
        length=stretch.length,
        covered_tokens=int(_covered(dev_places, n).sum()),
    )


class _Stretch(NamedTuple):
    train_start: int
    dev_start: int
    length: int


def _extend(
    train: TokenDataset,
    dev: TokenDataset,
    train_document: int,
    dev_document: int,
    stretch: _Stretch,
) -> _Stretch:
    """The stretch with all that is the same around it; runs in it may stand in train before."""
    train_begin, train_end = _bounds(train, train_document)
    dev_begin, dev_end = _bounds(dev, dev_document)
    train_start, dev_start, length = stretch
    before = 0
    room = min(train_start - train_begin, dev_start - dev_begin)
    while before < room:
        size = min(_BLOCK, room - before)
        same = train.read(train_start - before - size, size) == dev.read(
            dev_start - before - size, size
        )
        before += _leading(same[::-1])
        if not same.all():
            break
    room = min(train_end - train_start, dev_end - dev_start)
    while length < room:
        size = min(_BLOCK, room - length)
        same = train.read(train_start + length, size) == dev.read(dev_start + length, size)
        length += _leading(same)
        if not same.all():
            break
    return _Stretch(train_start - before, dev_start - before, before + length)


def _leading(same: npt.NDArray[np.bool_]) -> int:
    """How many are true before the first that is not."""
    return same.size if same.all() else int(same.argmin())


def _covered(places: Int64Array, n: int) -> Int64Array:
    """Tokens of each run of `n` up to where the next one begins, (places,)."""
    # Runs of different documents are never nearer than n.
    return np.minimum(np.diff(places, append=places[-1:] + n), n)


def _document_of(dataset: TokenDataset, places: Int64Array) -> Int64Array:
    """The number of the document in which each place is, (places,)."""
    ends = dataset.document_ends
    return np.searchsorted(ends, places.astype(ends.dtype), side="right").astype(np.int64)


def _bounds(dataset: TokenDataset, document: int) -> tuple[int, int]:
    """The first token of a document, and the first behind it."""
    ends = dataset.document_ends
    return int(ends[document - 1]) if document else 0, int(ends[document])
