"""A corpus to a dataset of tokens, once per content and tokenizer."""

import hashlib
import shutil
from contextlib import suppress
from pathlib import Path

from gptlab.corpus import Corpus
from gptlab.data.conversations import Chat, write_conversations
from gptlab.data.shard_files import VERSION
from gptlab.data.shard_writer import DatasetWriter
from gptlab.data.shards import TokenDataset
from gptlab.data.staging import staged
from gptlab.errors import DataError
from gptlab.tokenizer import Tokenizer, encode_documents


def prepare_cached(
    corpus: Corpus,
    tokenizer: Tokenizer,
    *,
    cache: Path,
    dropout: float = 0.0,
    seed: int = 0,
    chat: Chat | None = None,
    progress: bool = False,
) -> TokenDataset:
    """The dataset of `corpus` under `tokenizer`, from `cache` if it is there already.

    The place in the cache is named by the content of both, by the dropout with which the tokenizer
    encodes, and by the form of conversations, so a change of any of them makes a new one.

    Raises:
        DataError: The corpus can't be read, or is empty.
        TokenizerError: The tokenizer can't encode with dropout.
    """
    key = f"{VERSION} {corpus.fingerprint()} {tokenizer.fingerprint()}"
    if dropout:
        key += f" {dropout} {seed}"
    if chat is not None:
        key += f" {chat.template.fingerprint()} {chat.seq_len}"
    folder = cache / f"tokens-{hashlib.sha256(key.encode()).hexdigest()[:20]}"
    try:
        return TokenDataset(folder, tokenizer=tokenizer.fingerprint())
    except DataError:
        shutil.rmtree(folder, ignore_errors=True)
    with staged(folder) as partial:
        if chat is None:
            _write(corpus, tokenizer, partial, dropout=dropout, seed=seed, progress=progress)
        else:
            write_conversations(corpus, tokenizer, partial, chat=chat, progress=progress)
        # Another process may have made the same meanwhile, and be reading it.
        with suppress(OSError):
            partial.rename(folder)
    return TokenDataset(folder, tokenizer=tokenizer.fingerprint())


def _write(
    corpus: Corpus,
    tokenizer: Tokenizer,
    folder: Path,
    *,
    dropout: float = 0.0,
    seed: int = 0,
    progress: bool,
) -> None:
    writer = DatasetWriter(folder, vocab_size=tokenizer.vocab_size, name=folder.parent)
    separator = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    characters = size = 0
    for piece in encode_documents(
        tokenizer, corpus.streams(), dropout=dropout, seed=seed, progress=progress
    ):
        writer.write(piece.ids)
        if piece.ends_document:
            writer.write(separator)
            writer.end_document()
        characters += piece.characters
        size += piece.size
    if not characters:
        raise DataError(f"{corpus.root} has no text in this part of it; give a longer text")
    writer.finish(
        characters=characters,
        bytes=size,
        tokenizer=tokenizer.fingerprint(),
        source={"name": corpus.name, "sha256": corpus.fingerprint()},
    )
