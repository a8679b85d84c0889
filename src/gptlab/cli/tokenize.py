"""gptlab-tokenize: train a tokenizer, and use one."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import PositiveInt

from gptlab.cli.main import CommandLine, run
from gptlab.config.training import TOY_TOKENIZER, TokenizerType
from gptlab.errors import ConfigError

if TYPE_CHECKING:
    from gptlab.tokenizer import Tokenizer

_BORDER = "|"
_SAMPLE_CHARACTERS = 100_000
_PICTURED_TOKENS = 60


class TokenizeCommand(CommandLine):
    """Train a byte-level BPE tokenizer, or turn text into ids and back."""

    train: str | None = None
    """A text file, or a folder of them, to train a tokenizer on."""
    vocab_size: PositiveInt = 20_000
    """Ids of the trained tokenizer: 256 bytes, the merges, and 4 special tokens."""
    pattern: str = "gpt4"
    """How text is split before merging: gpt2 or gpt4."""
    output: str | None = None
    """Folder for the trained tokenizer; beside the text, named after it, if not given."""
    overwrite: bool = False
    """Replace the output folder if it exists."""
    tokenizer: str | None = None
    """A tokenizer's folder, name or .model file."""
    tokenizer_type: TokenizerType | None = None
    """Kind of tokenizer; found out if not given."""
    encode: str | None = None
    """Text to turn into ids."""
    decode: str | None = None
    """Ids to turn into text, as in "[1, 2]"."""


def main() -> None:
    """Entry point of the command."""
    run(_tokenize, TokenizeCommand, prog="gptlab-tokenize")


def _tokenize(command: TokenizeCommand) -> None:
    from gptlab.tokenizer import load_tokenizer

    if command.train is None and command.encode is None and command.decode is None:
        raise ConfigError("nothing to do; give --train FILE, --encode TEXT or --decode IDS")
    if command.train is not None:
        tokenizer = _train(command, command.train)
    else:
        source = command.tokenizer or TOY_TOKENIZER
        tokenizer = load_tokenizer(source, kind=command.tokenizer_type)
    if command.encode is not None:
        ids = tokenizer.encode(command.encode)
        print(ids)
        print(_statistics(command.encode, ids))
        print(_picture(tokenizer, ids))
    if command.decode is not None:
        print(tokenizer.decode(_ids(command.decode)))


def _train(command: TokenizeCommand, source: str) -> "Tokenizer":
    from gptlab.data import open_corpus
    from gptlab.tokenizer import train_bpe

    corpus = open_corpus(source)
    folder = Path(command.output) if command.output else _beside(corpus.root)
    if folder.exists() and not command.overwrite:
        raise ConfigError(f"{folder} exists already; write --overwrite to replace it, or --output")
    if folder.exists() and not (folder / "tokenizer.json").is_file():
        raise ConfigError(f"{folder} is no tokenizer, so it is not replaced; write --output FOLDER")
    tokenizer = train_bpe(
        texts=corpus.documents(),
        vocab_size=command.vocab_size,
        pattern=command.pattern,
        progress=sys.stderr.isatty(),
    )
    tokenizer.save(folder)
    text = next(corpus.documents())[:_SAMPLE_CHARACTERS]
    print(f"{folder}: {tokenizer.vocab_size:,} tokens from {len(corpus.files)} file(s)")
    if tokenizer.vocab_size < command.vocab_size:
        print(f"the text has no more to merge: {command.vocab_size:,} can't be reached")
    ids = tokenizer.encode(text)
    print(_statistics(text, ids))
    print(_picture(tokenizer, ids[:_PICTURED_TOKENS]))
    return tokenizer


def _beside(source: Path) -> Path:
    """A folder named after the text, next to it."""
    if source.name in ("", ".."):
        source = source.resolve()
    if source.is_dir() or not source.suffix:
        return source.with_name(f"{source.name}_tokenizer")
    return source.with_suffix("")


def _statistics(text: str, ids: list[int]) -> str:
    size = len(text.encode("utf-8", "surrogatepass"))
    return f"{len(ids):,} tokens for {size:,} bytes: {len(ids) / max(size, 1):.3f} tokens per byte"


def _picture(tokenizer: "Tokenizer", ids: list[int]) -> str:
    """The text with a border around each token; a part of a character shows as its id."""
    pieces = [tokenizer.decode([token]) for token in ids]
    shown = [f"<{i}>" if "\ufffd" in piece else piece for i, piece in zip(ids, pieces, strict=True)]
    return _BORDER.join(["", *shown, ""]).replace("\n", "⏎")


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
