"""Train a byte-level BPE tokenizer: texts are counted, merges learned, a tokenizer made."""

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from gptlab.corpus import TextErrors, open_corpus
from gptlab.errors import DataError, TokenizerError
from gptlab.tokenizer.base import SPECIAL_TOKENS
from gptlab.tokenizer.bpe import BPETokenizer
from gptlab.tokenizer.counting import count_chunks
from gptlab.tokenizer.formats.alphabet import BYTE_TO_CHARACTER
from gptlab.tokenizer.merge_learner import BYTES, MergeLearner, Pair

TieBreak = Literal["lowest", "huggingface"]


def train_bpe(
    files: str | Path | Sequence[str | Path] | None = None,
    *,
    vocab_size: int,
    texts: Iterable[str | Iterable[str]] | None = None,
    pattern: str = "gpt4",
    tie_break: TieBreak = "lowest",
    special_tokens: Sequence[str] = SPECIAL_TOKENS,
    field: str = "text",
    errors: TextErrors = "strict",
    processes: int | None = None,
    progress: bool = False,
) -> BPETokenizer:
    """Train a byte-level BPE tokenizer on files or on texts in memory.

    Each merge joins the pair of ids that occurs most often; among equals the lowest pair wins, so
    that the same corpus gives the same tokenizer everywhere. Training ends early, with a smaller
    vocabulary and a warning, once every chunk is a single token. A special token's text is plain
    text here.

    Args:
        files: What `gptlab.corpus.open_corpus` takes: text files, read exactly as they are, folders
            of them, JSON lines, Parquet, and compressed ones.
        vocab_size: Number of ids: 256 bytes, the merges, and the special tokens.
        texts: Strings to train on instead of `files`, or strings in pieces where one is too long
            for the memory.
        pattern: How text is cut into chunks: "gpt4" or "gpt2".
        tie_break: Which order of the bytes decides between pairs that are equally frequent:
            "lowest" their own, "huggingface" that of the characters in which Hugging Face's
            libraries spell them, which gives the merges that their trainer makes.
        special_tokens: What the last ids stand for.
        field: Which field of JSON lines, or column of Parquet, holds the text.
        errors: "strict", or "replace" for U+FFFD where a file is no UTF-8.
        processes: Processes that share the reading; one a core if None. Changes nothing else.
        progress: Show progress bars on standard error.

    Raises:
        TokenizerError: `vocab_size`, `pattern` or `tie_break` can't be had, or not exactly one of
            `files` and `texts` is given.
        DataError: A file is missing, unreadable, or no UTF-8 text, or the corpus is empty.
        WorkerError: One of the processes was killed.
    """
    num_merges = vocab_size - BYTES - len(special_tokens)
    if num_merges < 0:
        raise TokenizerError(
            f"vocab_size={vocab_size} is too small: 256 bytes and {len(special_tokens)} special "
            f"tokens already make {BYTES + len(special_tokens)}; ask for at least that many"
        )
    order = _byte_order(tie_break)
    # A wrong pattern or special token is better told before the work than after it.
    BPETokenizer([], pattern=pattern, special_tokens=special_tokens)
    if texts is None and files is not None:
        texts = open_corpus(files, field=field, errors=errors).streams()
    elif texts is None or files is not None:
        raise TokenizerError("train_bpe needs either files or texts=: give exactly one of them")
    chunks = count_chunks(texts, pattern, processes=processes, progress=progress)
    if not chunks:
        raise DataError("the corpus is empty: give files or texts with at least one character")
    learner = MergeLearner(chunks, order)
    del chunks
    learned = tqdm(learner.learn(num_merges), total=num_merges, desc="merges", disable=not progress)
    merges = as_bytes(learned, order)
    tokenizer = BPETokenizer(merges, pattern=pattern, special_tokens=special_tokens)
    if tokenizer.vocab_size < vocab_size:
        warnings.warn(
            f"vocab_size={vocab_size} can't be reached: the corpus has {len(merges)} merges, "
            f"so the tokenizer has {tokenizer.vocab_size} ids",
            stacklevel=2,
        )
    return tokenizer


def _byte_order(tie_break: str) -> bytes:
    """The 256 bytes in the order of their ids."""
    if tie_break == "lowest":
        return bytes(range(BYTES))
    if tie_break == "huggingface":
        return bytes(sorted(range(BYTES), key=BYTE_TO_CHARACTER.__getitem__))
    raise TokenizerError(f"unknown tie_break {tie_break!r}: choose 'lowest' or 'huggingface'")


def as_bytes(merges: Iterable[Pair], byte_order: bytes) -> list[tuple[bytes, bytes]]:
    """The two parts of each merge, which are ids so far, as bytes."""
    tokens = [bytes([byte]) for byte in byte_order]
    parts = []
    for left, right in merges:
        parts.append((tokens[left], tokens[right]))
        tokens.append(tokens[left] + tokens[right])
    return parts
