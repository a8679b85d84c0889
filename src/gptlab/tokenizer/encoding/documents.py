"""Documents to arrays of ids, on all cores: what prepares a corpus."""

import hashlib
from collections.abc import Iterable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from gptlab.parallel import batched, parallel_map
from gptlab.tokenizer.base import TokenArray, Tokenizer, token_dtype
from gptlab.tokenizer.chunks.patterns import blocks

_BATCH_CHARACTERS = 1 << 20


class EncodedPiece(NamedTuple):
    """A document, or a part of one."""

    ids: TokenArray
    ends_document: bool
    """Whether the next piece begins another document."""
    characters: int
    """Length of the text."""
    size: int
    """Bytes of the text."""


def encode_documents(
    tokenizer: Tokenizer,
    documents: Iterable[str | Iterable[str]],
    *,
    processes: int | None = None,
    dropout: float = 0.0,
    seed: int = 0,
    progress: bool = False,
) -> Iterator[EncodedPiece]:
    """Encode documents, in their order, in bounded memory.

    A long document comes in several pieces if the tokenizer is divisible.

    Args:
        tokenizer: Any.
        documents: Each a string, or the pieces of one that is too long to be held in memory.
        processes: Processes that share the work; one a core if None. Changes nothing else.
        dropout: As for the tokenizer's `encode`.
        seed: Makes dropout repeatable.
        progress: Show a progress bar on standard error.

    Raises:
        TokenizerError: The tokenizer can't encode a text.
        WorkerError: One of the processes was killed.
    """
    texts = _numbered_texts(documents, divisible=tokenizer.divisible)
    batches = batched(texts, _BATCH_CHARACTERS, length=lambda text: len(text.text))
    make_encoder = partial(_BatchEncoder, tokenizer, dropout, seed)
    with tqdm(desc="encoding", unit="B", unit_scale=True, disable=not progress) as bar:
        for batch in parallel_map(make_encoder, batches, processes=processes):
            bar.update(sum(piece.size for piece in batch))
            yield from batch


class _Text(NamedTuple):
    number: int
    text: str
    ends_document: bool


def _numbered_texts(
    documents: Iterable[str | Iterable[str]], *, divisible: bool
) -> Iterator[_Text]:
    number = 0
    for document in documents:
        stream = [document] if isinstance(document, str) else document
        text = ""
        for following in blocks(stream) if divisible else ["".join(stream)]:
            if text:
                yield _Text(number, text, ends_document=False)
                number += 1
            text = following
        yield _Text(number, text, ends_document=True)
        number += 1


class _BatchEncoder:
    def __init__(self, tokenizer: Tokenizer, dropout: float, seed: int) -> None:
        self._tokenizer = tokenizer
        self._dropout = dropout
        self._seed = seed

    def __call__(self, texts: list[_Text]) -> list[EncodedPiece]:
        if self._dropout:
            arrays = [self._with_dropout(text) for text in texts]
        else:
            arrays = self._tokenizer.encode_to_arrays([text.text for text in texts])
        return [
            EncodedPiece(ids, ends_document, len(text), len(text.encode("utf-8", "surrogatepass")))
            for ids, (_, text, ends_document) in zip(arrays, texts, strict=True)
        ]

    def _with_dropout(self, text: _Text) -> TokenArray:
        digest = hashlib.sha256(f"{self._seed} {text.number}".encode()).digest()
        seed = int.from_bytes(digest[:8])
        ids = self._tokenizer.encode(text.text, dropout=self._dropout, seed=seed)
        return np.array(ids, token_dtype(self._tokenizer.vocab_size))
