"""gptlab-tokenize: train a tokenizer, extend it, use it, and hold it against others."""

import json
import sys
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AliasChoices, Field, PositiveInt

from gptlab.cli.flags import CommandLine
from gptlab.cli.main import run
from gptlab.config.settings import Seed, Source
from gptlab.config.training import TOY_TOKENIZER, TokenizerType
from gptlab.errors import ConfigError, DataError

if TYPE_CHECKING:
    from gptlab.tokenizer import Tokenizer

_STANDARD_INPUT = "-"
_NEW = ("train", "special")
_TEXTS = ("train", "compare")
# What a flag is for: it does nothing without one of these.
_PURPOSES = {
    "vocab_size": ("train",),
    "pattern": ("train",),
    "tie_break": ("train",),
    "model_type": ("train",),
    "processes": ("train",),
    "field": _TEXTS,
    "errors": _TEXTS,
    "include": ("train",),
    "gitignore": ("train",),
    "output": _NEW,
    "overwrite": _NEW,
    "allow_special": ("encode",),
    "dropout": ("encode",),
    "seed": ("encode",),
    "json_output": ("compare",),
}


class TokenizeCommand(CommandLine):
    """Train a tokenizer, add special tokens to one, turn text into ids and back, or compare."""

    train: tuple[Source, ...] = ()
    """Texts to train a tokenizer on: files and folders; JSON lines, Parquet, .gz and .zst too."""
    vocab_size: PositiveInt = 20_000
    """Ids of the trained tokenizer, special tokens included."""
    tokenizer_type: Annotated[
        TokenizerType | None, Field(validation_alias=AliasChoices("type", "tokenizer_type"))
    ] = None
    """Kind of tokenizer: default is a byte-level BPE; of one that is there, found out."""
    pattern: str = "gpt4"
    """How text is split before merging: gpt2 or gpt4."""
    tie_break: Literal["lowest", "huggingface"] = "lowest"
    """Which of equally frequent pairs is merged: the lowest, or the one of Hugging Face."""
    model_type: Literal["unigram", "bpe"] = "unigram"
    """What SentencePiece learns, with --type sentencepiece."""
    special: tuple[str, ...] = ()
    """Further special tokens, for --train or for --tokenizer; one or several."""
    field: str = "text"
    """Which field of JSON lines, or column of Parquet, holds the text."""
    errors: Literal["strict", "replace"] = "strict"
    """About bytes that are not UTF-8: refuse the file, or read them as U+FFFD."""
    include: tuple[Source, ...] = ()
    """Of folders to train on, only the files that match one of these patterns, as in '*.py'."""
    gitignore: bool = False
    """Of folders to train on, leave out what their .gitignore files name."""
    processes: PositiveInt | None = None
    """Processes that share the reading; one a core if not given."""
    output: Source | None = None
    """Folder for what is made; of --train, beside the text and named after it, if not given."""
    overwrite: bool = False
    """Replace the output folder if it exists."""
    tokenizer: Source | None = None
    """A tokenizer's folder, file or name; for --special, a run or a checkpoint too."""
    encode: str | None = None
    """Text to turn into ids; - reads it from standard input."""
    allow_special: bool = False
    """Turn the names of special tokens in the text into their ids."""
    dropout: float = 0.0
    """Share of merges left out at random while encoding: BPE-dropout."""
    seed: Seed | None = None
    """Makes dropout reproducible."""
    decode: str | None = None
    """Ids to turn into text, as in "[1, 2]"."""
    compare: tuple[Source, ...] = ()
    """Tokenizers and, last, a text to try them on."""
    json_output: Annotated[bool, Field(validation_alias=AliasChoices("json", "json_output"))] = (
        False
    )
    """Print the comparison as JSON."""


def main() -> None:
    """Entry point of the command."""
    run(_tokenize, TokenizeCommand, prog="gptlab-tokenize")


def _tokenize(command: TokenizeCommand) -> None:
    _check(command)
    if command.compare:
        from gptlab.cli.tokenize_compare import compare_tokenizers

        compare_tokenizers(command)
        return
    tokenizer = _open(command)
    if command.encode is not None:
        _encode(command, command.encode, tokenizer)
    if command.decode is not None:
        print(tokenizer.decode(_ids(command.decode)))


def _check(command: TokenizeCommand) -> None:
    given = command.model_fields_set
    work = given & {"train", "special", "encode", "decode", "compare"}
    if not work:
        raise ConfigError(
            "nothing to do; give --train FILE, --encode TEXT, --decode IDS or --compare A B FILE"
        )
    if "compare" in work and given & {"train", "special", "encode", "decode", "tokenizer"}:
        raise ConfigError("--compare stands for itself; take the other flags out")
    if given >= {"train", "tokenizer"}:
        raise ConfigError("--train makes a tokenizer and --tokenizer names one; take one out")
    for name, purposes in _PURPOSES.items():
        if name in given and not given.intersection(purposes):
            flag = name.removesuffix("_output")
            raise ConfigError(
                f"--{flag} does nothing without --{' or --'.join(purposes)}; add that, or take "
                f"--{flag} out"
            )


def _open(command: TokenizeCommand) -> "Tokenizer":
    """The tokenizer to use: trained, extended, or as it is."""
    if command.train:
        from gptlab.cli.tokenize_train import train_tokenizer

        return train_tokenizer(command)
    if command.special:
        from gptlab.cli.tokenize_special import extend_tokenizer

        return extend_tokenizer(command)
    from gptlab.tokenizer import load_tokenizer

    return load_tokenizer(command.tokenizer or TOY_TOKENIZER, kind=command.tokenizer_type)


def _encode(command: TokenizeCommand, text: str, tokenizer: "Tokenizer") -> None:
    from gptlab.cli.tokenize_output import print_cut

    if text == _STANDARD_INPUT:
        text = _standard_input()
    ids = tokenizer.encode(
        text,
        allowed_special="all" if command.allow_special else (),
        dropout=command.dropout,
        seed=command.seed,
    )
    print(ids)
    print_cut(tokenizer, text, ids)


def _standard_input() -> str:
    data = sys.stdin.buffer.read()
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"standard input is not UTF-8 text (byte 0x{data[error.start]:02x} at offset "
            f"{error.start}); convert it, for example with iconv -f latin1 -t utf-8"
        ) from None


def _ids(text: str) -> list[int]:
    try:
        ids = json.loads(text)
    except ValueError:
        ids = None
    if not isinstance(ids, list) or not all(type(token) is int for token in ids):
        raise ConfigError(f"--decode is '{text}', but it takes a list of ids, as in \"[1, 2]\"")
    return ids


if __name__ == "__main__":
    main()
