"""gptlab-tokenize --train: a tokenizer from texts."""

import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gptlab.cli.tokenize_output import check_tokenizer_output, print_cut
from gptlab.corpus import Corpus, Document, open_corpus
from gptlab.corpus.compression import compression
from gptlab.errors import ConfigError, DataError
from gptlab.tokenizer import SPECIAL_TOKENS, Tokenizer, train_bpe
from gptlab.tokenizer.adapters import SENTENCEPIECE_FILE, train_sentencepiece
from gptlab.tokenizer.formats.huggingface import TOKENIZER_FILE

if TYPE_CHECKING:
    from gptlab.cli.tokenize import TokenizeCommand

_SAMPLE_CHARACTERS = 100_000
_PICTURED_TOKENS = 60
_OF_ONE_KIND = {
    "default": ("pattern", "tie_break", "processes"),
    "sentencepiece": ("model_type",),
}


def train_tokenizer(command: "TokenizeCommand") -> Tokenizer:
    """Train, save, and print what came of it.

    Raises:
        ConfigError: A flag is for another kind of tokenizer, or the output can't be written.
        DataError: A text can't be read.
        TokenizerError: The tokenizer can't be had from these texts.
    """
    kind = command.tokenizer_type or "default"
    _check_kind(command, kind)
    corpus = open_corpus(
        command.train,
        field=command.field,
        errors=command.errors,
        include=command.include,
        gitignore=command.gitignore,
    )
    folder = _folder(command, corpus)
    file = SENTENCEPIECE_FILE if kind == "sentencepiece" else TOKENIZER_FILE
    check_tokenizer_output(folder, overwrite=command.overwrite, file=file)
    if corpus.skipped:
        warnings.warn(
            f"{corpus.skipped} file(s) left out that are binary, damaged or not UTF-8",
            stacklevel=1,
        )
    start = time.perf_counter()
    texts = _CountedTexts(corpus)
    tokenizer = _train(command, kind, texts)
    seconds = time.perf_counter() - start
    if texts.left_out:
        warnings.warn(f"{texts.left_out} row(s) left out that have no text", stacklevel=1)
    tokenizer.save(folder)
    print(
        f"{folder}: {tokenizer.vocab_size:,} tokens from {len(corpus.files)} file(s), "
        f"{texts.bytes / 1e6:,.1f} MB in {seconds:,.1f} s: {texts.bytes / 1e6 / seconds:,.1f} MB/s"
    )
    sample = _beginning(corpus)
    print_cut(tokenizer, sample, tokenizer.encode(sample), shown=_PICTURED_TOKENS)
    return tokenizer


def _check_kind(command: "TokenizeCommand", kind: str) -> None:
    if kind not in _OF_ONE_KIND:
        raise ConfigError(
            f"--type {kind} can't be trained here; write --type {' or --type '.join(_OF_ONE_KIND)}"
        )
    for other, names in _OF_ONE_KIND.items():
        for name in command.model_fields_set.intersection(names):
            if other != kind:
                raise ConfigError(f"--{name} is for --type {other}, not {kind}; take one out")


def _train(command: "TokenizeCommand", kind: str, texts: "_CountedTexts") -> Tokenizer:
    progress = sys.stderr.isatty()
    if kind == "sentencepiece":
        return train_sentencepiece(
            map("".join, texts),
            vocab_size=command.vocab_size,
            model_type=command.model_type,
            special_tokens=command.special,
            progress=progress,
        )
    return train_bpe(
        texts=texts,
        vocab_size=command.vocab_size,
        pattern=command.pattern,
        tie_break=command.tie_break,
        special_tokens=(*SPECIAL_TOKENS, *command.special),
        processes=command.processes,
        progress=progress,
    )


class _CountedTexts:
    """The documents of a corpus in pieces, and how much has been read of them.

    A row that has no text is left out, unless all are; a file that can't be read is an error.
    """

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self.bytes = 0
        self.left_out = 0

    def __iter__(self) -> Iterator[Iterator[str]]:
        fault = None
        for document in self._corpus.read():
            if isinstance(document, Document):
                yield self._counted(document.pieces)
            elif not document.is_row:
                raise DataError(document.message)
            else:
                self.left_out += 1
                fault = fault or document
        if fault and not self.bytes:
            raise DataError(fault.message)

    def _counted(self, pieces: Iterator[str]) -> Iterator[str]:
        for piece in pieces:
            self.bytes += len(piece) if piece.isascii() else len(piece.encode())
            yield piece


def _folder(command: "TokenizeCommand", corpus: Corpus) -> Path:
    if command.output:
        return Path(command.output)
    if len(corpus.roots) > 1:
        raise ConfigError("with several texts, --train needs a folder to save to; write --output")
    return _beside(corpus.root)


def _beside(source: Path) -> Path:
    """A folder named after the text, next to it."""
    if source.name in ("", ".."):
        source = source.resolve()
    if source.is_dir():
        return source.with_name(f"{source.name}_tokenizer")
    text = source.with_suffix("") if compression(source) else source
    return text.with_suffix("") if text.suffix else text.with_name(f"{text.name}_tokenizer")


def _beginning(corpus: Corpus) -> str:
    """The first document that has text, or as much of it as is read at once."""
    for pieces in corpus.streams():
        for piece in pieces:
            if piece:
                return piece[:_SAMPLE_CHARACTERS]
    return ""
